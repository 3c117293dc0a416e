"""The limits a rollout is held to, checked where they are made. Pure.

``goal`` is the failure rate that a good release keeps, ``never_above`` the one that must stop it.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Any

from edge_agent.contract.assignment import ProbationPolicy
from edge_agent.contract.shadow import ShadowPolicy
from fleet_server.core.family_plan import FamilyPlan
from fleet_server.core.member_gate import MemberTest
from fleet_server.core.rollout_words import say_share
from fleet_server.core.sequential_limits import WaldBounds
from fleet_server.core.shadow_limits import DisagreementTest

SOAK_S_MAX = 2_592_000.0
FAILURES_MIN_MAX = 1_000
FINISHED_MIN_MAX = 1_000_000
IN_FLIGHT_MAX = 1_000_000
AUTO_IN_FLIGHT = 5
"""Devices in flight before a stage has passed its test: what a bad release can reach beyond those
that stopped it."""
DEADLINE_S_MAX = 2_592_000.0
TRIES_MAX = 20
RETRY_DELAY_S_MAX = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SequentialTest(WaldBounds):
    """Limits of the sequential test.

    Attributes:
        goal: Failure rate a good release keeps, above 0.
        never_above: Failure rate that must stop it, above goal and below 1.
        alpha: Chance of stopping a release that keeps the goal.
        beta: Chance of passing one that fails at ``never_above``.
    """

    goal: float = 0.02
    never_above: float = 0.10
    alpha: float = 0.05
    beta: float = 0.05

    def __post_init__(self) -> None:
        if not 0 < self.goal < self.never_above < 1:
            raise ValueError(
                f"0 < goal < never above < 1 must hold, got goal {say_share(self.goal)} and"
                f" never above {say_share(self.never_above)}"
            )
        self.check_error_shares()

    def weigh(self, finished: int, failed: int) -> float:
        """Give the log likelihood ratio of *never above* to *goal*; grows with every failure.

        >>> round(SequentialTest().weigh(finished=49, failed=0) / SequentialTest().advance_at, 2)
        1.42
        """
        bad = math.log(self.never_above / self.goal)
        good = math.log((1 - self.never_above) / (1 - self.goal))
        return failed * bad + (finished - failed) * good


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedThreshold:
    """A plain share instead of the test: halts above it, once enough devices have finished.

    Attributes:
        failure_share_max: Share of finished devices that may fail, 0 to below 1.
        finished_min: Devices that must have finished before it is looked at, 1 or more.
    """

    failure_share_max: float
    finished_min: int = 20

    def __post_init__(self) -> None:
        if not 0 <= self.failure_share_max < 1:
            raise ValueError(
                f"failure_share_max must be 0 to below 1, got {self.failure_share_max}"
            )
        if not 1 <= self.finished_min <= FINISHED_MIN_MAX:
            raise ValueError(
                f"finished_min must be 1 to {FINISHED_MIN_MAX}, got {self.finished_min}"
            )


class OnInconclusive(StrEnum):
    """What happens when a complete stage decided neither."""

    PAUSE = "pause"
    ADVANCE = "advance"
    HALT = "halt"


@dataclass(frozen=True, slots=True, kw_only=True)
class GatePolicy:
    """What a stage must show.

    Attributes:
        test: The rule for install outcomes.
        soak_s: Seconds between a stage's decision and the next stage, 0 to 30 days.
        failures_min: Failures needed to halt a stage that finished undecided, 1 or more.
        on_inconclusive: What happens when a complete stage decided neither.
        is_flight_holding: A device in flight counts as holding until it has failed, where the test
            is asked to halt. False only in rollouts that were planned before this was so.
    """

    test: SequentialTest | FixedThreshold = SequentialTest()
    soak_s: float = 0.0
    failures_min: int = 2
    on_inconclusive: OnInconclusive = OnInconclusive.PAUSE
    is_flight_holding: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.soak_s <= SOAK_S_MAX:  # written so that NaN is refused too
            raise ValueError(f"soak_s must be 0 to {SOAK_S_MAX:g}, got {self.soak_s}")
        if not 1 <= self.failures_min <= FAILURES_MIN_MAX:
            raise ValueError(
                f"failures_min must be 1 to {FAILURES_MIN_MAX}, got {self.failures_min}"
            )


class OnHalt(StrEnum):
    """Who returns to the version before when the gate halts."""

    ROLL_BACK = "rollback"
    """Every device this rollout offered the version to."""
    ROLL_BACK_STAGE = "rollback-stage"
    """The devices of the stage that was halted."""
    STAY = "stay"
    """Nobody; the operator decides."""


_PROBATION = ProbationPolicy()


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutPolicy:
    """Everything a rollout is held to besides who gets it.

    Attributes:
        gate: What each stage must show.
        on_halt: Who goes back when the gate halts.
        in_flight_max: Devices offered and not finished at once; 0 lets it grow: as many as have
            confirmed in stages that have passed their test, at least AUTO_IN_FLIGHT.
        is_held_by_alarms: Drift alarms that open among its devices hold the next stage.
        deadline_s: Seconds from an offer plus the shadow's time-out, or from the start of its
            probation plus the probation's own, after which a device without an outcome counts as
            silent.
        tries_max: Offers to one device, 1 to 20; only failures that a retry can help are retried.
        retry_delay_s: Seconds before the second try; doubled for each further one.
        is_again: Devices on which the package failed before, or whose operator went back from it,
            try it again instead of refusing it as known bad.
        probation: What a candidate must show on a device.
        shadow: How it is compared with what is confirmed there before; None when it is not.
        disagreement: How far it may differ there; None when it is not judged.
        family: Which member each device takes; None where all take one version.
        members: How single members of a family are checked; None when they are not.
    """

    gate: GatePolicy = GatePolicy()
    on_halt: OnHalt = OnHalt.ROLL_BACK
    in_flight_max: int = 0
    is_held_by_alarms: bool = True
    deadline_s: float = 3_600.0
    tries_max: int = 3
    retry_delay_s: float = 60.0
    is_again: bool = False
    probation: ProbationPolicy = _PROBATION
    shadow: ShadowPolicy | None = None
    disagreement: DisagreementTest | None = None
    family: FamilyPlan | None = None
    members: MemberTest | None = None

    def __post_init__(self) -> None:
        for name, low, high in (
            ("in_flight_max", 0, IN_FLIGHT_MAX),
            ("deadline_s", 1, DEADLINE_S_MAX),
            ("tries_max", 1, TRIES_MAX),
            ("retry_delay_s", 0, RETRY_DELAY_S_MAX),
        ):
            value = getattr(self, name)
            if not low <= value <= high:  # written so that NaN is refused too
                raise ValueError(f"{name} must be {low:g} to {high:g}, got {value}")
        if self.disagreement is not None and self.shadow is None:
            raise ValueError("limits on rows that differ in shadow need a time of shadowing")

    def to_json(self) -> dict[str, Any]:
        """Give the JSON form."""
        gate = self.gate
        test = {"kind": "fixed" if isinstance(gate.test, FixedThreshold) else "sequential"}
        return {
            "gate": {
                "test": {**test, **asdict(gate.test)},
                "soak_s": gate.soak_s,
                "failures_min": gate.failures_min,
                "on_inconclusive": str(gate.on_inconclusive),
                "is_flight_holding": gate.is_flight_holding,
            },
            "on_halt": str(self.on_halt),
            "in_flight_max": self.in_flight_max,
            "is_held_by_alarms": self.is_held_by_alarms,
            "deadline_s": self.deadline_s,
            "tries_max": self.tries_max,
            "retry_delay_s": self.retry_delay_s,
            "is_again": self.is_again,
            "probation": self.probation.to_json(),
            "shadow": self.shadow.to_json() if self.shadow is not None else None,
            "disagreement": self.disagreement.to_json() if self.disagreement is not None else None,
            **({} if self.family is None else {"family": self.family.to_json()}),
            **({} if self.members is None else {"members": self.members.to_json()}),
        }

    @property
    def goal(self) -> float:
        """The failure rate that a good release keeps; of a plain share that share."""
        test = self.gate.test
        return test.failure_share_max if isinstance(test, FixedThreshold) else test.goal

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "RolloutPolicy":
        """Read the JSON form that ``to_json`` gave."""
        parts = {
            "is_again",
            "gate",
            "on_halt",
            "probation",
            "shadow",
            "disagreement",
            "family",
            "members",
        }
        known = {f.name for f in fields(cls)} - parts
        shadow, limits = value.get("shadow"), value.get("disagreement")
        family, members = value.get("family"), value.get("members")
        return cls(
            gate=read_gate(value["gate"]),
            on_halt=OnHalt(value["on_halt"]),
            is_again=value.get("is_again", False),
            probation=ProbationPolicy.from_json(value["probation"]),
            shadow=None if shadow is None else ShadowPolicy.from_json(shadow),
            disagreement=None if limits is None else DisagreementTest.from_json(limits),
            family=None if family is None else FamilyPlan.from_json(family),
            members=None if members is None else MemberTest(**members),
            **{name: value[name] for name in known},
        )


def read_gate(value: Mapping[str, Any]) -> GatePolicy:
    """Read the JSON form of a gate's policy."""
    limits = {name: number for name, number in value["test"].items() if name != "kind"}
    is_fixed = value["test"]["kind"] == "fixed"
    return GatePolicy(
        test=FixedThreshold(**limits) if is_fixed else SequentialTest(**limits),
        soak_s=value["soak_s"],
        failures_min=value["failures_min"],
        on_inconclusive=OnInconclusive(value["on_inconclusive"]),
        is_flight_holding=value.get("is_flight_holding", False),
    )
