"""The server's decisions: pure functions of values."""
