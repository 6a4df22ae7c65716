"""CodeFlow: from git repositories to a trained, evaluated code language model."""

__version__ = "0.1.0"
