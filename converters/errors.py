"""Errors of converting, measuring and packing.

ConversionError
├── InvalidRequestError         rows, targets, schema or file are not what the model needs
├── UnsupportedEstimatorError   the estimator cannot become a faithful graph; names what can
├── RuntimeRefusedError         onnxruntime does not load or run the graph
├── ProfileMisfitError          the graph or package does not fit the device profile
├── NoRungFitsError             no precision keeps the limits; carries every number
└── MissingLibraryError         an optional library for this input is not installed
"""

from collections.abc import Mapping, Sequence
from typing import Any

from device_profiles.compatibility import Misfit


class ConversionError(Exception):
    """No package was built; the message says why and what to do."""


class InvalidRequestError(ConversionError):
    """What was given does not fit together."""


class UnsupportedEstimatorError(ConversionError):
    """A source estimator has no faithful graph.

    Attributes:
        estimator: Class name at fault.
        reason: What would go wrong.
        advice: What to use instead.
    """

    def __init__(self, estimator: str, reason: str, advice: str) -> None:
        super().__init__(f"{estimator} cannot be converted: {reason.rstrip('.')}. {advice}")
        self.estimator = estimator
        self.reason = reason
        self.advice = advice


class RuntimeRefusedError(ConversionError):
    """The onnxruntime of this machine refuses a graph that should run."""


class ProfileMisfitError(ConversionError):
    """A graph or package is not for this profile.

    Attributes:
        profile_id: The profile.
        misfits: Each need and have.
    """

    def __init__(self, profile_id: str, misfits: Sequence[Misfit]) -> None:
        reasons = "; ".join(str(misfit) for misfit in misfits)
        super().__init__(f"does not fit profile {profile_id}: {reasons}")
        self.profile_id = profile_id
        self.misfits = tuple(misfits)


class NoRungFitsError(ConversionError):
    """No precision keeps the limits of the profile.

    Attributes:
        profile_id: The profile.
        sentence: Which limit stands against which build.
        rungs: Every rung with its numbers, as in ``evidence.json``.
    """

    def __init__(self, profile_id: str, sentence: str, rungs: Sequence[Mapping[str, Any]]) -> None:
        super().__init__(
            f"no build fits profile {profile_id}: {sentence}. Raise that limit, train another"
            " model or choose another profile"
        )
        self.profile_id = profile_id
        self.sentence = sentence
        self.rungs = tuple(rungs)


def say_reason(error: Exception) -> str:
    r"""Give the first line that says something of an error of a library, without its class.

    >>> say_reason(ValueError("  too few\nlines")), say_reason(KeyError())
    ('too few', 'it gives no reason')
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else "it gives no reason"


class MissingLibraryError(ConversionError):
    """A library that only this kind of input needs is not installed."""

    def __init__(self, library: str, what: str) -> None:
        super().__init__(f"{what} needs {library}: pip install {library}")
        self.library = library
