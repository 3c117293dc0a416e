"""The edgefleet command."""
