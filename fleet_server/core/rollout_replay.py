"""Make a stored verdict again from its stored inputs. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from fleet_server.core.member_gate import (
    MemberCounts,
    MemberTest,
    find_bad_members,
    weigh_member,
)
from fleet_server.core.rollout_gate import StageCounts, StageJudgement, Verdict, judge_stage
from fleet_server.core.rollout_limits import GatePolicy, SequentialTest, read_gate
from fleet_server.core.rollout_moves import CLOSE, EXCLUDE
from fleet_server.core.rollout_state import read_settled
from fleet_server.core.shadow_gate import (
    ShadowCounts,
    ShadowSettled,
    join_verdicts,
    judge_shadow,
    weigh_stage,
)
from fleet_server.core.shadow_limits import DisagreementTest


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """What the gate says today of the inputs of then.

    Attributes:
        verdict: As it comes out.
        is_same: It is the stored one.
        workings: The numbers behind it, one a line.
    """

    verdict: str
    is_same: bool
    workings: tuple[str, ...]


def replay_decision(verdict: str, inputs: Mapping[str, Any]) -> Replay | None:
    """Judge again; None for a verdict that no gate made, such as an operator's."""
    if "member" in inputs:
        return _replay_member(verdict, inputs)
    if "gate" not in inputs:
        return None
    counts = StageCounts(**inputs["counts"])
    gate = read_gate(inputs["gate"])
    found = judge_stage(
        counts,
        gate,
        read_settled(inputs["settled"]),
        now=datetime.fromisoformat(inputs["now"]),
        is_backed=inputs["is_backed"],
        alarms=inputs["alarms"],
    )
    workings = [
        f"{counts.targeted} devices: {counts.confirmed} confirmed, {counts.failed} failed,"
        f" {counts.left_out} left out, {counts.in_flight} in flight"
    ]
    if isinstance(gate.test, SequentialTest):
        evidence = gate.test.weigh(counts.finished, counts.failed)
        held = counts.in_flight if gate.is_flight_holding else 0
        against = gate.test.weigh(counts.finished + held, counts.failed)
        workings.append(
            f"evidence {against:+.2f}, halts at {gate.test.halt_at:+.2f}; without who is in flight"
            f" {evidence:+.2f}, passes at {gate.test.advance_at:+.2f}"
            f" (alpha {gate.test.alpha:g}, beta {gate.test.beta:g})"
        )
    workings.append(f"soak {gate.soak_s:g} s; open alarms: {', '.join(inputs['alarms']) or 'none'}")
    said = found.verdict
    if "shadow" in inputs:
        said, line = _replay_shadow(found, inputs, gate)
        workings.append(line)
    return Replay(verdict=str(said), is_same=said == verdict, workings=tuple(workings))


def _replay_member(verdict: str, inputs: Mapping[str, Any]) -> Replay:
    """Judge one member of a family again."""
    counts, test = MemberCounts(**inputs["counts"]), MemberTest(**inputs["test"])
    evidence = weigh_member(counts, inputs["goal"])
    is_bad = bool(find_bad_members({"": counts}, test, inputs["goal"]))
    condemned = CLOSE if verdict == CLOSE else EXCLUDE
    found = condemned if is_bad else str(Verdict.WAIT)
    line = (
        f"{counts.failed} of {counts.finished} failed, {counts.in_flight} in flight; evidence"
        f" {evidence:+.2f}; taken out at {test.halt_at:+.2f} ({test.members:,} members,"
        f" alpha {test.alpha:g})"
    )
    return Replay(verdict=found, is_same=found == verdict, workings=(line,))


def _replay_shadow(
    stage: StageJudgement, inputs: Mapping[str, Any], gate: GatePolicy
) -> tuple[Verdict, str]:
    """Judge again what was compared; return the verdict of both gates and the working."""
    given = inputs["shadow"]
    test = DisagreementTest.from_json(given["test"])
    counts = ShadowCounts.from_json(given["counts"])
    shadow = judge_shadow(
        counts,
        test,
        ShadowSettled.from_json(given["settled"]),
        now=datetime.fromisoformat(inputs["now"]),
        on_inconclusive=gate.on_inconclusive,
    )
    line = (
        f"in shadow: {counts.differing:,} of {counts.rows:,} rows on {counts.devices:,} devices"
        f" differ, {counts.to_come:,} devices to come; evidence {weigh_stage(counts, test):+.2f};"
        f" halts at {test.halt_at:+.2f}, passes at {test.advance_at:+.2f} (alpha {test.alpha:g},"
        f" beta {test.beta:g}, likeness of a device's rows {test.likeness:g})"
    )
    return join_verdicts(stage, shadow)[0], line
