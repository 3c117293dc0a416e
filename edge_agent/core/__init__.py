"""The agent's decisions: pure functions of values."""
