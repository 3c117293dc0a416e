"""Which member of a family a device takes: by its labels, else the fallback. Pure.

A device says by a label which value of each partition column it is for. A value that has no member
takes the fallback, where the family has one. A device without the label takes nothing: a label
that was forgotten must not put another model on a device without a word.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_STRANGE = re.compile(r"[^a-z0-9]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedMember:
    """A version of one member.

    Attributes:
        model: Its model name.
        version: What its devices get.
        champion_before: What was in service when the plan was made, 0 when nothing.
    """

    model: str
    version: int
    champion_before: int = 0

    @property
    def release(self) -> tuple[str, int]:
        """Model and version."""
        return (self.model, self.version)


@dataclass(frozen=True, slots=True, kw_only=True)
class FamilyPlan:
    """The members of a rollout, by what their devices' labels say.

    Attributes:
        labels: Label of a device by partition column.
        members: By the values of the columns in that order, as ``plain_value`` writes them.
        fallback: For values that have no member; None when there is none.
    """

    labels: Mapping[str, str]
    members: Mapping[tuple[str, ...], PlannedMember] = field(default_factory=dict)
    fallback: PlannedMember | None = None

    @property
    def all_members(self) -> tuple[PlannedMember, ...]:
        """Every member, the fallback last."""
        own = tuple(self.members.values())
        return own if self.fallback is None else (*own, self.fallback)

    def choose(
        self, labels: Mapping[str, str], excluded: frozenset[str] = frozenset()
    ) -> PlannedMember | None:
        """Give the member for a device with these labels; None when it takes nothing.

        Args:
            labels: Of the device.
            excluded: Members that were taken out; their devices take the fallback.

        >>> seven = PlannedMember(model="departure-7", version=1)
        >>> plan = FamilyPlan(labels={"route": "line"}, members={("7",): seven})
        >>> plan.choose({"line": "7"}).model, plan.choose({"line": "8"}), plan.choose({})
        ('departure-7', None, None)
        """
        if any(label not in labels for label in self.labels.values()):
            return None
        values = tuple(plain_value(labels[label]) for label in self.labels.values())
        found = self.members.get(values, self.fallback)
        if found is not None and found.model in excluded:
            found = self.fallback
        return None if found is None or found.model in excluded else found

    def say_why_none(self, labels: Mapping[str, str]) -> str:
        """Say why a device with these labels takes nothing."""
        for column, label in self.labels.items():
            if label not in labels:
                return (
                    f"it has no label {label}, which says its {column}; set it:"
                    f" `edgefleet device label ID {label}=...`"
                )
        told = ", ".join(f"{c} {labels[label]}" for c, label in self.labels.items())
        return f"the family has no approved member for {told}, and no fallback"

    def to_json(self) -> dict[str, Any]:
        """Give the JSON form."""
        return {
            "labels": [[column, label] for column, label in self.labels.items()],
            "members": [
                [list(values), *_dump_member(member)] for values, member in self.members.items()
            ],
            "fallback": None if self.fallback is None else _dump_member(self.fallback),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "FamilyPlan":
        """Read the JSON form that ``to_json`` gave."""
        fallback = value["fallback"]
        return cls(
            labels=dict(value["labels"]),
            members={tuple(values): _read_member(*rest) for values, *rest in value["members"]},
            fallback=None if fallback is None else _read_member(*fallback),
        )


def plain_value(value: str) -> str:
    """Write a value as names of members do, so that ``R 7`` and ``r-7`` are the same.

    >>> plain_value("R 7")
    'r-7'
    """
    return _STRANGE.sub("-", value.lower()).strip("-")


def _dump_member(member: PlannedMember) -> list[Any]:
    return [member.model, member.version, member.champion_before]


def _read_member(model: str, version: int, champion_before: int) -> PlannedMember:
    return PlannedMember(model=model, version=version, champion_before=champion_before)
