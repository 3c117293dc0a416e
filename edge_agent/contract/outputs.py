"""Outputs of a package's graph, as ``schema.json`` declares them."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeVar

from edge_agent.contract.errors import MalformedError
from edge_agent.contract.fields import Fields

TARGETS_MAX = 256
TARGET_CHARS_MAX = 128

_EnumT = TypeVar("_EnumT", bound=StrEnum)


class Role(StrEnum):
    """What an output tensor means."""

    LABEL = "label"
    """int64 [rows]: index into ``classes``."""
    PROBABILITIES = "probabilities"
    """float32 [rows, classes]."""
    VALUE = "value"
    """float32 [rows], or [rows, targets] where the output names targets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """One output tensor of the graph.

    Attributes:
        name: As its role.
        role: What it means.
        is_label_only: Of probabilities: they are 1 for the label and 0 otherwise, because the
            model tells labels alone.
        targets: Of a value, the names of its columns when a row has several; empty for one.
    """

    name: str
    role: Role
    is_label_only: bool = False
    targets: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.is_label_only and self.role is not Role.PROBABILITIES:
            raise MalformedError(f"output {self.name!r}: only probabilities say is_label_only")
        if self.targets:
            _check_targets(self)


def output_to_json(output: Output) -> dict[str, Any]:
    """Give the JSON form."""
    said: dict[str, Any] = {"name": output.name, "role": str(output.role)}
    if output.targets:
        said["targets"] = list(output.targets)
    return {**said, "label_only": True} if output.is_label_only else said


def output_from_json(value: Any) -> Output:
    """Read the JSON form; raises ContractError."""
    fields = Fields(value, what="schema.json output")
    return Output(
        name=fields.text("name", chars_max=128),
        role=read_member(Role, fields.text("role"), "schema.json output"),
        is_label_only=fields.flag("label_only", default=False),
        targets=fields.items("targets", _target_name, (), items_max=TARGETS_MAX),
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


def read_member(kind: type[_EnumT], text: str, what: str) -> _EnumT:
    """Give the member of an enum that a text names; raises MalformedError."""
    try:
        return kind(text)
    except ValueError as error:
        raise MalformedError(f"{what}: {text[:40]!r} is not one of {list(kind)}") from error
