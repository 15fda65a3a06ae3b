"""A model at rest: where it comes from, what is in it, and how it is built."""
