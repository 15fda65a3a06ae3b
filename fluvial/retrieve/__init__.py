"""Text out of documents, and the passages of it that match a question."""
