"""Say what went wrong with one member of a family, in words that somebody can act on. Pure."""

from collections.abc import Mapping

FAULT_CHARS_MAX = 500
UNFORESEEN = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What a library may raise on the rows of one member: its failure, not the run's."""
_KINDS: Mapping[type[Exception], str] = {
    MemoryError: "there is not enough memory; train with fewer --jobs or a smaller model",
    ZeroDivisionError: "a division by zero",
    OverflowError: "a number too large to compute with",
    KeyError: "a library looks for what is not there",
    IndexError: "a library looks beyond the end of its numbers",
    RecursionError: "the model is nested too deeply",
    NotImplementedError: "a library does not offer this for such a model",
    AttributeError: "a library does not fit the installed ones",
    AssertionError: "a library found its own numbers wrong",
}
"""What kinds of faults mean whose own words may say nothing."""


def say_fault(doing: str, error: Exception) -> str:
    """Say what failed and why.

    Args:
        doing: What was being done, as in "fitting it".
        error: One that nobody foresaw.

    >>> say_fault("fitting it", MemoryError())
    'fitting it failed: there is not enough memory; train with fewer --jobs or a smaller model'
    >>> say_fault("keeping the source model", OSError(28, "No space left on device"))
    'keeping the source model failed: No space left on device'
    >>> say_fault("fitting it", ValueError("scale is 0"))
    'fitting it failed: scale is 0'
    """
    said = getattr(error, "strerror", None) or str(error)
    own = next(iter(str(said).strip().splitlines()), "")
    kind = next((words for known, words in _KINDS.items() if isinstance(error, known)), "")
    why = f"{kind} ({own})" if kind and own else kind or own or "the library gave no reason"
    return f"{doing} failed: {why}"[:FAULT_CHARS_MAX]
