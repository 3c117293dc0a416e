"""The process that serves HTTP without TLS: ``serving_worker.py`` without OpenSSL.

asyncio looks for ``ssl`` when it is loaded and does without where Python has none, which saves
some megabytes. With TLS the agent starts ``serving_worker`` itself.
"""

import sys
from types import ModuleType

from edge_agent.adapters import fewer_imports  # noqa: F401 - before all others

# isort: split
sys.modules["ssl"] = None  # type: ignore[assignment]  # as if it were not installed
sys.modules["asyncio.sslproto"] = ModuleType("asyncio.sslproto")  # only TLS looks inside
import asyncio  # noqa: E402, F401 - loaded here, without it

del sys.modules["ssl"]

from edge_agent.serving_worker import main  # noqa: E402 - after asyncio

if __name__ == "__main__":
    sys.exit(main())
