"""The process that serves HTTP without TLS: ``serving_worker.py`` without OpenSSL.

With TLS the agent starts ``serving_worker`` itself.
"""

import sys

from edge_agent.adapters import (  # before all others
    fewer_imports,  # noqa: F401
    lean_asyncio,  # noqa: F401
    lean_numpy,  # noqa: F401
)

# isort: split
from edge_agent.serving_worker import main

if __name__ == "__main__":
    sys.exit(main())
