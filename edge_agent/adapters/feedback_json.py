"""What turned out to be true, by prediction id: one label or a bounded list of them.

A list is taken label by label: a wrong one is told with its place and the rest is kept, because
labels come from people and lists of them from files. Of an answer of several targets or
labels they come by name, and the labels of one answer are taken all or none.
"""

import math
from typing import Any

from edge_agent.adapters.request_json import name_type, read_json
from edge_agent.contract.outputs import TARGETS_MAX
from edge_agent.core.late_labels import Truth
from edge_agent.errors import InputError
from edge_agent.ports import LabelSink

LABELS_PER_REQUEST_MAX = 1_000
REFUSED_SHOWN_MAX = 20
ID_CHARS_MAX = 128
LABEL_CHARS_MAX = 1_024
_KNOWN = frozenset({"prediction_id", "label", "value", "labels"})
_KINDS = ("label", "value", "labels")


def take_feedback(sink: LabelSink, body: bytes) -> dict[str, Any]:
    """Hand labels to the sink.

    Args:
        sink: Where they go.
        body: ``{"prediction_id": .., "label": ..}`` or ``"value"``, or ``"labels"`` by name, or
            a list of such.

    Returns:
        ``taken``, ``refused`` and, of a list, the first REFUSED_SHOWN_MAX ``errors`` with the
        ``index`` of each.

    Raises:
        InputError: None was taken; says why.
    """
    asked = read_json(body, is_naming_once=True)
    if not isinstance(asked, list):
        sink.add(*_read_label(asked))
        return {"taken": 1, "refused": 0}
    if not 1 <= len(asked) <= LABELS_PER_REQUEST_MAX:
        raise InputError(f"{len(asked)} labels, a request takes 1 to {LABELS_PER_REQUEST_MAX}")
    errors: list[dict[str, Any]] = []
    for n, item in enumerate(asked):
        try:
            sink.add(*_read_label(item))
        except InputError as error:
            errors.append({"index": n, "error": str(error)})
    if len(errors) == len(asked):
        raise InputError(f"none of {len(asked)} labels was taken; the first: {errors[0]['error']}")
    return {
        "taken": len(asked) - len(errors),
        "refused": len(errors),
        "errors": errors[:REFUSED_SHOWN_MAX],
    }


def _read_label(item: Any) -> tuple[str, Truth]:
    if not isinstance(item, dict):
        raise InputError(f"feedback must be an object with prediction_id, got {name_type(item)}")
    extra = next((name for name in item if name not in _KNOWN), None)
    if extra is not None:
        raise InputError(
            f"feedback has field {extra[:80]!r}; known are {', '.join(sorted(_KNOWN))}"
        )
    prediction_id = item.get("prediction_id")
    if not isinstance(prediction_id, str) or not 1 <= len(prediction_id) <= ID_CHARS_MAX:
        raise InputError(
            f"prediction_id must be a text of at most {ID_CHARS_MAX} characters, as the answer"
            " gave it"
        )
    if sum(kind in item for kind in _KINDS) != 1:
        raise InputError(
            f"feedback on {prediction_id} needs either label (name of a class) or value (a number),"
            " or labels (an object with either by name) where an answer has several"
        )
    if "label" in item:
        return prediction_id, _read_class(f"label of {prediction_id}", item["label"])
    if "value" in item:
        return prediction_id, _read_value(f"value of {prediction_id}", item["value"])
    return prediction_id, _read_named(prediction_id, item["labels"])


def _read_named(prediction_id: str, said: Any) -> dict[str, str | float]:
    if not isinstance(said, dict):
        raise InputError(
            f"labels of {prediction_id} must be an object by name, got {name_type(said)}"
        )
    if len(said) > TARGETS_MAX:
        raise InputError(
            f"{len(said)} labels of {prediction_id}, an answer has {TARGETS_MAX} at most"
        )
    return {
        name: _read_class(f"label {name[:80]!r} of {prediction_id}", label)
        if isinstance(label, str)
        else _read_value(f"label {name[:80]!r} of {prediction_id}", label)
        for name, label in said.items()
    }


def _read_class(what: str, label: Any) -> str:
    if not isinstance(label, str):
        raise InputError(f"{what} must be the name of a class as text, got {name_type(label)}")
    if len(label) > LABEL_CHARS_MAX:
        raise InputError(
            f"{what} must be the name of a class: it has {len(label)} characters, at most"
            f" {LABEL_CHARS_MAX}"
        )
    return label


def _read_value(what: str, value: Any) -> float:
    if type(value) not in (int, float):
        raise InputError(f"{what} must be a number, got {name_type(value)}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise InputError(f"{what} is beyond a double's range")
    return number
