"""The agent that keeps models running on one device. Importing it loads nothing."""

import os

__version__ = "0.1.0"

# Of onnxruntime from 1.29 on, read when it is loaded: nothing about models leaves a device by way
# of the runtime (docs/adr/0038-runtime-telemetry.md). Who sets the variable has decided.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
