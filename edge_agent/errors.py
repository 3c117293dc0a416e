"""The agent's error tree.

AgentError
├── Refusal            trust says no; carries the code that names the attack or the misfit
├── StorageError       the disk said no; carries a retryable code
├── RestoreError       an encoded package does not give the signed one; the package itself is next
│   └── NoRoomError      the disk has no room beside the package now; the next try may find some
├── EnrolmentError     joining failed; says what to do next
├── PlainTextError     a connection without TLS was to leave this machine; also an OSError
├── NotEnrolledError   no identity in the agent's directory
├── SettingsError      a setting is unknown, malformed or out of range
├── NotRunningError    no agent runs on the directory that could be asked
├── LockedError        another agent runs on the same directory
├── PackageError       bytes that cannot become a served model; carries the code
├── OutboxError        telemetry could not be kept; the windows stay in memory for the next try
└── ServingError       a prediction was not answered
    ├── UnreachableError     nobody answers where the agent should
    ├── UnknownModelError    no slot or model of that name answers
    ├── StoppedModelError    the slot answers nothing, and why: its package was withdrawn
    ├── InputError           the caller's tensor does not follow the schema
    └── InferenceError       the runtime failed on a well-formed request

Whether trying again helps is told by the code (``contract.codes.class_of``), not by the class.
"""

from pathlib import Path

from edge_agent.contract.codes import Code


class AgentError(Exception):
    """Anything the agent itself reports."""


class Refusal(AgentError):  # noqa: N818 - an expected verdict of trust, named as the design names it
    """What arrived is not what the approvers signed, or not for this device.

    Attributes:
        code: Names the attack or the misfit.
        detail: The culprit, its value and the limit, for people.
    """

    def __init__(self, code: Code, detail: str = "") -> None:
        super().__init__(f"{code}: {detail}" if detail else str(code))
        self.code = code
        self.detail = detail


class StorageError(AgentError):
    """Reading or writing the agent's directory failed.

    Attributes:
        code: ``DISK_FULL``, ``DISK_ERROR``, ``BLOB_HASH`` or ``BLOB_SIZE``.
        detail: File, need and have.
    """

    def __init__(self, code: Code, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail


class RestoreError(AgentError):
    """What arrived in place of a package does not give it: wrong base, wrong bytes, too large."""


class NoRoomError(RestoreError):
    """The disk has no room for an encoding and its package now; says nothing about either."""


class EnrolmentError(AgentError):
    """Joining a fleet failed; the message says why and what to do next."""


class PlainTextError(AgentError, OSError):
    """A connection without TLS would leave this machine; nothing was sent."""


class NotEnrolledError(AgentError):
    """The directory holds no device identity."""

    def __init__(self, directory: Path) -> None:
        super().__init__(
            f"{directory} holds no device identity; on the server run"
            " 'edgefleet device add', then here 'edge-agent join STRING'"
        )
        self.directory = directory


class SettingsError(AgentError):
    """A setting is unknown, malformed or out of its range; names it, its value and the limit."""


class LockedError(AgentError):
    """Another agent already runs on this directory."""

    def __init__(self, directory: Path, pid: str) -> None:
        super().__init__(
            f"another agent (process {pid or 'unknown'}) runs on {directory};"
            " stop it first or give this one its own --dir"
        )
        self.directory = directory


class NotRunningError(AgentError):
    """No agent runs on the directory, so there is nobody to ask."""

    def __init__(self, directory: Path) -> None:
        super().__init__(f"no agent runs on {directory}; start it with edge-agent run")
        self.directory = directory


class PackageError(AgentError):
    """The bytes of a package cannot become a served model.

    Attributes:
        code: ``BLOB_HASH``, ``PACKAGE_FORMAT`` or ``SELFTEST_LOAD``.
        detail: What is wrong with which part, for people.
    """

    def __init__(self, code: Code, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail


class OutboxError(AgentError):
    """Telemetry windows could not be written; names the file and what the disk said."""


class ServingError(AgentError):
    """A prediction was asked for and not given."""


class UnreachableError(ServingError):
    """A client finds no agent, or one that does not answer to the end; says where."""


class UnknownModelError(ServingError):
    """No slot, and no model of one slot only, has that name; says which there are."""


class StoppedModelError(ServingError):
    """A slot of that name is there and answers nothing; says why and what to do."""


class InputError(ServingError):
    """The tensor does not follow the model's schema; names the field, its value and the limit."""


class InferenceError(ServingError):
    """The runtime failed on a well-formed request; the model, not the caller, is at fault."""


def words_of(error: BaseException) -> str:
    """Say what failed in the error's own words; its kind, where it has none, is no answer.

    >>> words_of(ValueError("too long")), words_of(MemoryError()), words_of(KeyError())
    ('too long', 'memory ran out', 'no reason was given (KeyError)')
    """
    if isinstance(error, MemoryError):
        return "memory ran out"
    return str(error) or f"no reason was given ({type(error).__name__})"
