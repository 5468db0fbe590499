"""Multi-exit networks: train them, choose when to stop, run them cheaply."""

__version__ = "0.1.0"
