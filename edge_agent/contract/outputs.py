"""Outputs of a package's graph, as ``schema.json`` declares them.

A row may be answered with several values (targets) or several labels; both then have names, and
one alone has none.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import accumulate, pairwise
from typing import Any, TypeVar

from edge_agent.contract.errors import MalformedError
from edge_agent.contract.fields import Fields

TARGETS_MAX = 256
TARGET_CHARS_MAX = 128
LABELS_MAX = 64
LABEL_CHARS_MAX = 128
LABEL_CLASSES_MAX = 256
"""Of one of several labels."""
LABELS_CLASSES_MAX = 1_024
"""Of all labels of a row together."""
CLASS_CHARS_MAX = 1_024

_EnumT = TypeVar("_EnumT", bound=StrEnum)


class Role(StrEnum):
    """What an output tensor means."""

    LABEL = "label"
    """int64 [rows]: index into ``classes``; [rows, labels] where the output names labels, each an
    index into the classes of its own label."""
    PROBABILITIES = "probabilities"
    """float32 [rows, classes]; of several labels the classes of all, label by label."""
    VALUE = "value"
    """float32 [rows], or [rows, targets] where the output names targets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedLabel:
    """One of several labels a row is answered with.

    Attributes:
        name: 1 to 128 characters.
        classes: Names of its classes by index, 2 to 256.
        is_label_only: Whether its probabilities are 1 for the label and 0 otherwise, because the
            model tells this label alone.
    """

    name: str
    classes: tuple[str, ...]
    is_label_only: bool = False

    def __post_init__(self) -> None:
        if not 1 <= len(self.name) <= LABEL_CHARS_MAX:
            raise MalformedError(
                f"schema.json output: label {self.name[:80]!r} is not text of 1 to"
                f" {LABEL_CHARS_MAX} characters"
            )
        if not 2 <= len(self.classes) <= LABEL_CLASSES_MAX:
            raise MalformedError(
                f"label {self.name!r}: {len(self.classes)} classes, must be 2 to"
                f" {LABEL_CLASSES_MAX}; leave a label out that is always the same"
            )
        if len(set(self.classes)) < len(self.classes):
            raise MalformedError(f"label {self.name!r}: a class is listed twice")


def slice_labels(labels: Sequence[NamedLabel]) -> tuple[slice, ...]:
    """Give the columns of ``probabilities`` that belong to each label.

    >>> day = NamedLabel(name="day", classes=("work", "rest", "feast"))
    >>> slice_labels((day, NamedLabel(name="rain", classes=("no", "yes"))))
    (slice(0, 3, None), slice(3, 5, None))
    """
    ends = accumulate(len(label.classes) for label in labels)
    return tuple(slice(a, b) for a, b in pairwise((0, *ends)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """One output tensor of the graph.

    Attributes:
        name: As its role.
        role: What it means.
        is_label_only: Of probabilities: they are 1 for the label and 0 otherwise, because the
            model tells labels alone. Of several labels each says so itself.
        targets: Of a value, the names of its columns when a row has several; empty for one.
        labels: Of a label, what its columns are when a row has several, 2 to 64; empty for one.
    """

    name: str
    role: Role
    is_label_only: bool = False
    targets: tuple[str, ...] = ()
    labels: tuple[NamedLabel, ...] = ()

    def __post_init__(self) -> None:
        if self.is_label_only and self.role is not Role.PROBABILITIES:
            raise MalformedError(f"output {self.name!r}: only probabilities say is_label_only")
        if self.targets:
            _check_targets(self)
        if self.labels:
            _check_labels(self)


def output_to_json(output: Output) -> dict[str, Any]:
    """Give the JSON form."""
    said: dict[str, Any] = {"name": output.name, "role": str(output.role)}
    if output.targets:
        said["targets"] = list(output.targets)
    if output.labels:
        said["labels"] = [_label_to_json(label) for label in output.labels]
    return {**said, "label_only": True} if output.is_label_only else said


def output_from_json(value: Any) -> Output:
    """Read the JSON form; raises ContractError."""
    fields = Fields(value, what="schema.json output")
    return Output(
        name=fields.text("name", chars_max=128),
        role=read_member(Role, fields.text("role"), "schema.json output"),
        is_label_only=fields.flag("label_only", default=False),
        targets=fields.items("targets", _target_name, (), items_max=TARGETS_MAX),
        labels=fields.items("labels", _label_from_json, (), items_max=LABELS_MAX),
    )


def _check_targets(output: Output) -> None:
    if output.role is not Role.VALUE:
        raise MalformedError(f"output {output.name!r}: only a value has targets")
    if not 2 <= len(output.targets) <= TARGETS_MAX:
        raise MalformedError(
            f"output {output.name!r}: {len(output.targets)} targets, must be 2 to {TARGETS_MAX}; a"
            " single one has no name"
        )
    for name in output.targets:
        _target_name(name)
    twice = next((name for n, name in enumerate(output.targets) if name in output.targets[:n]), "")
    if twice:
        raise MalformedError(
            f"output {output.name!r}: target {twice!r} is named twice; give each its own name"
        )


def _target_name(value: Any) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= TARGET_CHARS_MAX:
        raise MalformedError(
            f"schema.json output: target {str(value)[:80]!r} is not text of 1 to"
            f" {TARGET_CHARS_MAX} characters"
        )
    return value


def _check_labels(output: Output) -> None:
    if output.role is not Role.LABEL:
        raise MalformedError(f"output {output.name!r}: only a label has labels")
    if not 2 <= len(output.labels) <= LABELS_MAX:
        raise MalformedError(
            f"output {output.name!r}: {len(output.labels)} labels, must be 2 to {LABELS_MAX}; a"
            " single one has no name"
        )
    names = [label.name for label in output.labels]
    twice = next((name for n, name in enumerate(names) if name in names[:n]), "")
    if twice:
        raise MalformedError(
            f"output {output.name!r}: label {twice!r} is named twice; give each its own name"
        )
    classes = sum(len(label.classes) for label in output.labels)
    if classes > LABELS_CLASSES_MAX:
        raise MalformedError(
            f"output {output.name!r}: its labels have {classes} classes together, at most"
            f" {LABELS_CLASSES_MAX}; build two models of fewer labels"
        )


def _label_to_json(label: NamedLabel) -> dict[str, Any]:
    said: dict[str, Any] = {"name": label.name, "classes": list(label.classes)}
    return {**said, "label_only": True} if label.is_label_only else said


def _label_from_json(value: Any) -> NamedLabel:
    fields = Fields(value, what="schema.json label")
    return NamedLabel(
        name=fields.text("name", chars_max=LABEL_CHARS_MAX),
        classes=fields.items("classes", read_class, items_max=LABEL_CLASSES_MAX),
        is_label_only=fields.flag("label_only", default=False),
    )


def read_class(value: Any) -> str:
    """Read the name of a class; raises MalformedError."""
    if not isinstance(value, str) or len(value) > CLASS_CHARS_MAX:
        raise MalformedError(
            f"schema.json: class {str(value)[:80]!r} is not text of at most {CLASS_CHARS_MAX}"
        )
    return value


def read_member(kind: type[_EnumT], text: str, what: str) -> _EnumT:
    """Give the member of an enum that a text names; raises MalformedError."""
    try:
        return kind(text)
    except ValueError as error:
        raise MalformedError(f"{what}: {text[:40]!r} is not one of {list(kind)}") from error
