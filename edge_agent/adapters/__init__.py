"""The agent's ways to the world, one technology a file."""
