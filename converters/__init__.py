"""From a trained model to a checked package for one device profile. Importing it loads nothing."""

import os

# As edge_agent/__init__.py does, for who uses the converters alone.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
