"""The agent that keeps models running on one device. Importing it loads nothing."""

__version__ = "0.1.0"
