"""A model running: reads tokens, generates tokens."""
