"""Drift mathematics shared by device and server: numpy only, pure."""
