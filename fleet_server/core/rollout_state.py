"""A rollout and its devices as values, and the JSON of what a rollout remembers. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from fleet_server.core.member_gate import ExcludedMember
from fleet_server.core.rollout_gate import Basis, Settled
from fleet_server.core.rollout_limits import OnHalt, RolloutPolicy
from fleet_server.core.rollout_machine import RolloutState
from fleet_server.core.rollout_outcome import Progress, Refusal, SlotFacts
from fleet_server.core.shadow_gate import ShadowSettled
from fleet_server.core.targeting import Candidate


@dataclass(frozen=True, slots=True, kw_only=True)
class StageRecord:
    """What is remembered of one stage.

    Attributes:
        name: As written in the plan.
        verdict: Newest, empty before the first look.
        settled: That it was found good enough; None before.
        shadow: That its candidate was found close enough in shadow; None before.
    """

    name: str
    verdict: str = ""
    settled: Settled | None = None
    shadow: ShadowSettled | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """One version on its way to one slot of a group.

    Attributes:
        id: Number, 1 and up.
        model: Model name, or the pattern of a family.
        version: Version number; 0 of a family, whose members are in the policy.
        stage: Index of the open stage, from 0.
        is_undecided: Paused by the gate, not by a person; resuming lets the stage pass.
        champion_before: Version in service when it completed, 0 when none.
        returning_at: When devices were first told to return; None before.
        returning_stage: The only stage that returns; None when all do.
        stop_reason: Why it was halted, aborted or rolled back; empty before.
        sentence: What stands beside the state.
        revision: Grows with every write.
        excluded: Members of a family that were taken out.
        closed: Members that no further device gets since it completed.
    """

    id: int
    model: str
    version: int
    slot: str
    group: str
    state: RolloutState
    policy: RolloutPolicy
    stages: tuple[StageRecord, ...]
    created_at: datetime
    stage: int = 0
    stage_opened_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    is_undecided: bool = False
    champion_before: int = 0
    returning_at: datetime | None = None
    returning_stage: int | None = None
    stop_reason: str = ""
    sentence: str = ""
    revision: int = 0
    excluded: tuple[ExcludedMember, ...] = ()
    closed: tuple[ExcludedMember, ...] = ()

    @property
    def excluded_models(self) -> frozenset[str]:
        """Names of the members that were taken out."""
        return frozenset(member.model for member in self.excluded)

    @property
    def closed_models(self) -> frozenset[str]:
        """Names of the members that no further device gets."""
        return frozenset(member.model for member in self.closed)

    @property
    def has_place(self) -> bool:
        """Whether devices of a member that was taken out take the fallback."""
        fallback = None if self.policy.family is None else self.policy.family.fallback
        is_in = fallback is not None and fallback.model not in self.excluded_models
        return is_in and self.policy.on_halt is not OnHalt.STAY

    @property
    def release(self) -> str:
        """``MODEL VERSION`` as people say it; a family by its name."""
        return f"{self.model} {self.version}" if self.version else self.model


@dataclass(frozen=True, slots=True, kw_only=True)
class Desired:
    """What a slot of a device is to run now, whoever asked for it."""

    target: str
    rollout: int = 0
    retry: int = 0
    is_shadowed: bool = False


_NO_WORD = SlotFacts()


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One device of a rollout, as far as deciding about it needs.

    Attributes:
        device: The device.
        stage: Index of its stage.
        progress: What is remembered.
        previous_target: What it returns to; empty when it had nothing.
        slot: Its newest word on the slot.
        refusal: Its refusal of a whole assignment, if its newest report has one.
        desired: What its slot is to run now; None when nothing was ever asked.
        last_seen_at: When it was last heard; None when never.
        target: Name of the package it was offered last; empty before.
    """

    device: Candidate
    stage: int
    progress: Progress
    previous_target: str = ""
    slot: SlotFacts = _NO_WORD
    refusal: Refusal | None = None
    desired: Desired | None = None
    last_seen_at: datetime | None = None
    target: str = ""


def dump_memory(rollout: Rollout) -> dict[str, Any]:
    """Give the JSON form of what a rollout remembers beside its plain columns."""
    return {
        "stages": [
            {
                "name": s.name,
                "verdict": s.verdict,
                "settled": dump_settled(s.settled),
                "shadow": s.shadow.to_json() if s.shadow is not None else None,
            }
            for s in rollout.stages
        ],
        "is_undecided": rollout.is_undecided,
        "champion_before": rollout.champion_before,
        "returning_at": _dump_instant(rollout.returning_at),
        "returning_stage": rollout.returning_stage,
        "stop_reason": rollout.stop_reason,
        **({"excluded": [m.to_json() for m in rollout.excluded]} if rollout.excluded else {}),
        **({"closed": [m.to_json() for m in rollout.closed]} if rollout.closed else {}),
    }


def read_memory(value: Mapping[str, Any]) -> dict[str, Any]:
    """Read what ``dump_memory`` gave as keyword arguments of ``Rollout``."""
    return {
        "stages": tuple(
            StageRecord(
                name=s["name"],
                verdict=s["verdict"],
                settled=read_settled(s["settled"]),
                shadow=ShadowSettled.from_json(s.get("shadow")),
            )
            for s in value["stages"]
        ),
        "is_undecided": value["is_undecided"],
        "champion_before": value["champion_before"],
        "returning_at": _read_instant(value["returning_at"]),
        "returning_stage": value["returning_stage"],
        "stop_reason": value["stop_reason"],
        "excluded": tuple(ExcludedMember.from_json(one) for one in value.get("excluded", ())),
        "closed": tuple(ExcludedMember.from_json(one) for one in value.get("closed", ())),
    }


def dump_settled(settled: Settled | None) -> dict[str, Any] | None:
    """Give the JSON form."""
    if settled is None:
        return None
    return {
        "at": settled.at.isoformat(),
        "finished": settled.finished,
        "failed": settled.failed,
        "basis": str(settled.basis),
        "watch_finished": settled.watch_finished,
        "watch_failed": settled.watch_failed,
    }


def read_settled(value: Mapping[str, Any] | None) -> Settled | None:
    """Read the JSON form."""
    if value is None:
        return None
    return Settled(
        at=datetime.fromisoformat(value["at"]),
        finished=value["finished"],
        failed=value["failed"],
        basis=Basis(value["basis"]),
        watch_finished=value["watch_finished"],
        watch_failed=value["watch_failed"],
    )


def _dump_instant(instant: datetime | None) -> str | None:
    return instant.isoformat() if instant else None


def _read_instant(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
