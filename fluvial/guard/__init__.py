"""The guard: checks prompts and answers, holds text back until it is checked, and fails closed."""
