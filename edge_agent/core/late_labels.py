"""Read what somebody says is true of an answer, against what the answer consists of.

A label is a class by name or a value; an answer of several targets or labels takes them by name,
all or some of them, because they may become known one after the other.
"""

import math
from collections.abc import Mapping, Sequence

from edge_agent.contract.answer_parts import AnswerPart
from edge_agent.errors import InputError

NAMES_SHOWN = 10
Truth = str | float | Mapping[str, str | float]
"""A class by name, a value, or either by the name of the target or label."""


def read_truth(prediction_id: str, said: Truth, parts: Sequence[AnswerPart]) -> dict[int, float]:
    """Return the index of the class or the value, by the index of the part it is of.

    Args:
        prediction_id: For errors.
        said: As it came.
        parts: What the answer consists of.

    Raises:
        InputError: Not what the answer consists of; says which name and what is known.

    >>> read_truth("5-0-0", {"heat": 20}, (AnswerPart("flow"), AnswerPart("heat")))
    {1: 20.0}
    >>> read_truth("5-0-0", "storm", (AnswerPart("", ("calm", "storm")),))
    {0: 1.0}
    """
    places = {part.name: n for n, part in enumerate(parts) if part.name}
    if not isinstance(said, Mapping):
        if places:
            raise InputError(
                f"{prediction_id} answered {len(parts)} {_kind(parts)}s, so its labels have names:"
                f' send "labels", an object by name, all or some of {_show(places)}'
            )
        return {0: _read_one(prediction_id, said, parts[0])}
    if not places:
        field = "label" if parts[0].is_class else "value"
        raise InputError(
            f'{prediction_id} answered one {_kind(parts)}, which has no name: send "{field}", not'
            ' "labels"'
        )
    if not said:
        raise InputError(f"labels of {prediction_id} are empty; name some of {_show(places)}")
    unknown = next((name for name in said if name not in places), None)
    if unknown is not None:
        raise InputError(
            f"{prediction_id} has no {_kind(parts)} {str(unknown)[:80]!r}; known are"
            f" {_show(places)}"
        )
    return {
        places[name]: _read_one(f"{name} of {prediction_id}", label, parts[places[name]])
        for name, label in said.items()
    }


def _read_one(what: str, label: str | float, part: AnswerPart) -> float:
    if not part.is_class:
        if isinstance(label, str | bool) or not math.isfinite(label):
            raise InputError(f"{what} is a regression's: its label is a finite number")
        return float(label)
    if not isinstance(label, str) or label not in part.classes:
        raise InputError(f"label {label!r:.80} of {what} is none of {_show(part.classes)}")
    return float(part.classes.index(label))


def _kind(parts: Sequence[AnswerPart]) -> str:
    if parts[0].name:
        return "label" if parts[0].is_class else "target"
    return "class" if parts[0].is_class else "value"


def _show(names: Sequence[str] | Mapping[str, int]) -> str:
    """Write some names.

    >>> _show([str(n) for n in range(12)])
    '0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 2 more'
    """
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return ", ".join(list(names)[:NAMES_SHOWN]) + more
