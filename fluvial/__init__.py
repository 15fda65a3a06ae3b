"""Fluvial: a self-hosted AI assistant that adapts while it runs."""

__all__ = ["__version__"]

__version__ = "0.1.0"
