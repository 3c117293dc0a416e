"""Importing this, first of all, keeps modules out that others import and hardly ever use.

Each is loaded at the first look inside, so nothing is missing: paho looks for proxies in
``urllib.request`` once PySocks is installed, ``dataclasses`` asks ``inspect`` about a class without
a docstring, ``urllib.parse`` needs ``ipaddress`` for brackets in a host. Figures: docs/adr/0024.
"""

from edge_agent.adapters import plain_host_names  # noqa: F401 - announces itself
from edge_agent.adapters.lean import defer

HARDLY_USED = (
    *("urllib.request", "inspect", "ast", "locale", "ipaddress"),
    *("pickle", "tokenize", "uuid", "zipfile"),
    *("bz2", "lzma", "platform", "shutil"),
)

for _name in HARDLY_USED:
    defer(_name)
