"""Errors of decoding what came over the wire or out of a package.

ContractError
├── MalformedError            not what the contract says; names the field
├── TooLargeError             beyond a named bound
├── ModelRefusedError         a graph that no runtime shall be shown; names the culprit
└── UnsupportedVersionError   written by a newer contract than this one
"""


class ContractError(Exception):
    """Bytes from outside do not follow the wire contract."""


class MalformedError(ContractError):
    """A field is missing, of the wrong type or out of its range."""


class TooLargeError(ContractError):
    """A message or member is larger than its bound."""

    def __init__(self, what: str, size_bytes: int, limit_bytes: int) -> None:
        super().__init__(f"{what} has {size_bytes} bytes, the limit is {limit_bytes}")
        self.what = what
        self.size_bytes = size_bytes
        self.limit_bytes = limit_bytes


class UnsupportedVersionError(ContractError):
    """The sender speaks a version this side does not know."""

    def __init__(self, what: str, version: object, known: int) -> None:
        super().__init__(f"{what} has version {version!r:.40}, this side knows {known}; upgrade it")
        self.version = version


class ModelRefusedError(ContractError):
    """A graph that no runtime shall be shown.

    Attributes:
        culprit: Node, tensor or part at fault.
        reason: What is wrong with it, with value and limit.
    """

    def __init__(self, culprit: str, reason: str) -> None:
        super().__init__(f"model.onnx: {culprit} {reason}")
        self.culprit = culprit
        self.reason = reason
