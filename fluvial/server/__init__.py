"""The HTTP face: parses requests, calls the service, writes events."""
