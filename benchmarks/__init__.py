"""Measurements against a floor taken in the same run; each module prints JSON lines."""
