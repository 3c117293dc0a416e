"""Fleets of simulated devices that run the real agent core. Importing it loads nothing."""
