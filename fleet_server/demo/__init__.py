"""The demo: the whole loop on real data with real processes, driven through public commands."""
