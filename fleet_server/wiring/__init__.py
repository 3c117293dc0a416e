"""Joins services with adapters, one area a file. Only here do both meet."""
