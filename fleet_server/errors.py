"""The server's error tree; ``fleet_server/cli/output.py`` and ``api/`` map it to exit and status.

FleetError                 refused or failed; exit 1
├── NotFoundError          no such device, model, version, rollout …
├── RefusedError           a rule says no
│   └── BusyError          another process holds what is needed
├── MisuseError            the command or configuration is wrong; exit 2
└── UnreachableError       the other side does not answer; exit 3
"""


class FleetError(Exception):
    """One sentence for the operator: the culprit, the value, the limit and the next step."""


class NotFoundError(FleetError):
    """What was named does not exist."""


class RefusedError(FleetError):
    """A rule of the product says no."""


class BusyError(RefusedError):
    """Another process holds what is needed."""


class MisuseError(FleetError):
    """The command, the spec or the configuration is wrong."""


class UnreachableError(FleetError):
    """The other side does not answer; trying again may help."""
