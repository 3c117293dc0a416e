"""Lets ``python -m edge_agent`` be the ``edge-agent`` command."""

import sys

from edge_agent.cli import main

sys.exit(main())
