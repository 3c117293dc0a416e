"""The server's error tree; ``fleet_server/cli/output.py`` and ``api/`` map it to exit and status.

FleetError                 refused or failed; exit 1
├── NotFoundError          no such device, model, version, rollout …
├── RefusedError           a rule says no
│   ├── BusyError          another process holds what is needed
│   ├── UnknownCallerError nobody the fleet knows is asking
│   ├── ForbiddenError     the caller's role does not reach
│   └── ThrottledError     too many wrong tries; says when to try again
├── MisuseError            the command or configuration is wrong; exit 2
└── UnreachableError       the other side does not answer; exit 3
    └── OverloadedError    too much at once; says when to try again
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


class UnknownCallerError(RefusedError):
    """Nobody the fleet knows is asking."""


class ForbiddenError(RefusedError):
    """The caller's role does not reach."""


class ThrottledError(RefusedError):
    """Too many wrong tries; ``retry_after_s`` seconds from now the next one is looked at."""

    def __init__(self, sentence: str, *, retry_after_s: float) -> None:
        super().__init__(sentence)
        self.retry_after_s = retry_after_s


class OverloadedError(UnreachableError):
    """Too much at once; trying again after ``retry_after_s`` seconds helps."""

    def __init__(self, sentence: str, *, retry_after_s: float) -> None:
        super().__init__(sentence)
        self.retry_after_s = retry_after_s
