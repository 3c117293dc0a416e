"""The processes that edgefleet up supervises."""
