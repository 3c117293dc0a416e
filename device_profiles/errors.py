"""Errors about device profiles.

ProfileError
├── UnknownProfileError   no profile of that id; names the nearest
└── ProfileFormatError    a profile file or value that is not what the format says
"""

from collections.abc import Sequence


class ProfileError(Exception):
    """A device profile cannot be used."""


class UnknownProfileError(ProfileError):
    """No profile of that id exists.

    Attributes:
        profile_id: What was asked for.
        known: The ids that exist.
    """

    def __init__(self, profile_id: str, known: Sequence[str]) -> None:
        import difflib  # for this sentence only

        near = difflib.get_close_matches(profile_id, known, n=1, cutoff=0.5)
        guess = f"; did you mean {near[0]!r}?" if near else ";"
        super().__init__(
            f"no device profile {profile_id[:80]!r}{guess} known: {', '.join(known) or 'none'}"
        )
        self.profile_id = profile_id
        self.known = tuple(known)


class ProfileFormatError(ProfileError):
    """A profile is not written as the format says.

    Attributes:
        source: File or profile id.
        field: The key at fault, dotted; empty when the whole file is.
        line: Where it is in the file, from 1; None when that is not known.
    """

    def __init__(self, source: str, field: str, problem: str, *, line: int | None = None) -> None:
        file = f"{source} line {line}" if line is not None else source
        where = f"{file}: {field}" if field else file
        super().__init__(f"{where}: {problem}")
        self.line = line
        self.source = source
        self.field = field
        self.problem = problem
