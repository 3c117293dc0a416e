"""Thousands of models of one architecture: convert one, fill in the numbers of the others."""
