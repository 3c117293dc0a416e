"""Options of ``edgefleet rollout plan`` as people write them: shares and durations."""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fleet_server.errors import MisuseError

if TYPE_CHECKING:
    from edge_agent.contract.assignment import ProbationPolicy
    from edge_agent.contract.shadow import ShadowPolicy
    from fleet_server.core.rollout_limits import RolloutPolicy
    from fleet_server.core.shadow_limits import DisagreementTest

_SHARE = re.compile(r"(\d{1,3}(?:\.\d{1,6})?)\s*%")
_PLAIN_SHARE = re.compile(r"0?\.\d{1,9}|0|1")
_DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,3})?)\s*(ms|s|min|m|h|d)?")
_SECONDS = {"ms": 0.001, "s": 1.0, "": 1.0, "m": 60.0, "min": 60.0, "h": 3_600.0, "d": 86_400.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyOptions:
    """What was written; empty texts and zeros take the defaults of the policy."""

    soak: str
    goal: str
    never_above: str
    fixed: str
    fixed_after: int
    on_inconclusive: str
    on_halt: str
    max_parallel: int
    is_despite_alarms: bool
    deadline: str
    tries: int
    is_again: bool
    probation: str
    probation_rows: int
    probation_timeout: str
    shadow: str
    shadow_rows: int
    shadow_timeout: str
    shadow_share: str
    shadow_cpu: str
    disagree_goal: str
    disagree_never_above: str
    disagree_by: str
    error_rate_max: str
    output_shift_max: str


def parse_share(text: str, option: str) -> float:
    """Read ``2%`` or ``0.02``.

    Raises:
        MisuseError: It is neither; names the option.

    >>> parse_share("2%", "--goal")
    0.02
    """
    written = text.strip()
    if match := _SHARE.fullmatch(written):
        share = float(match[1]) / 100
        if share <= 1:
            return share
    elif _PLAIN_SHARE.fullmatch(written):
        return float(written)
    raise MisuseError(f"{option} {text[:40]!r}: write a share of 0% to 100%, such as 2%")


def parse_seconds(text: str, option: str) -> float:
    """Read ``90``, ``90s``, ``5m``, ``2h`` or ``1d`` as seconds.

    Raises:
        MisuseError: It is none of them; names the option.

    >>> parse_seconds("5m", "--soak")
    300.0
    """
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise MisuseError(f"{option} {text[:40]!r}: write a duration such as 90s, 5m, 2h or 1d")
    return float(match[1]) * _SECONDS[match[2] or ""]


def make_policy(options: PolicyOptions) -> "RolloutPolicy":
    """Build the policy.

    Raises:
        MisuseError: A value cannot be read or is out of its range.
    """
    from fleet_server.core.rollout_limits import (
        FixedThreshold,
        GatePolicy,
        OnHalt,
        OnInconclusive,
        RolloutPolicy,
        SequentialTest,
    )

    try:
        if options.fixed:
            test: FixedThreshold | SequentialTest = FixedThreshold(
                failure_share_max=parse_share(options.fixed, "--fixed"),
                finished_min=options.fixed_after,
            )
        else:
            test = SequentialTest(
                goal=parse_share(options.goal, "--goal"),
                never_above=parse_share(options.never_above, "--never-above"),
            )
        return RolloutPolicy(
            gate=GatePolicy(
                test=test,
                soak_s=parse_seconds(options.soak, "--soak"),
                on_inconclusive=OnInconclusive(options.on_inconclusive),
            ),
            on_halt=OnHalt(options.on_halt),
            in_flight_max=options.max_parallel,
            is_held_by_alarms=not options.is_despite_alarms,
            deadline_s=parse_seconds(options.deadline, "--deadline"),
            tries_max=options.tries,
            is_again=options.is_again,
            probation=_make_probation(options),
            shadow=_make_shadow(options),
            disagreement=_make_disagreement(options),
        )
    except ValueError as error:
        raise MisuseError(str(error)) from error


def _make_probation(options: PolicyOptions) -> "ProbationPolicy":
    from edge_agent.contract.assignment import ProbationPolicy
    from edge_agent.contract.errors import ContractError

    written = {
        "duration_s": parse_seconds(options.probation, "--probation"),
        "rows_min": options.probation_rows,
        "timeout_s": parse_seconds(options.probation_timeout, "--probation-timeout"),
        "error_rate_max": parse_share(options.error_rate_max, "--error-rate-max"),
        "output_shift_max": parse_share(options.output_shift_max, "--output-shift-max"),
    }
    try:
        return ProbationPolicy.from_json(written)
    except ContractError as error:
        raise MisuseError(str(error)) from error


def _make_shadow(options: PolicyOptions) -> "ShadowPolicy | None":
    from edge_agent.contract.errors import ContractError
    from edge_agent.contract.shadow import ShadowPolicy

    if not options.shadow:
        return None
    written = {
        "duration_s": parse_seconds(options.shadow, "--shadow"),
        "rows_min": options.shadow_rows,
        "timeout_s": parse_seconds(options.shadow_timeout, "--shadow-timeout"),
        "share": parse_share(options.shadow_share, "--shadow-share"),
        "cpu_share": parse_share(options.shadow_cpu, "--shadow-cpu"),
    }
    try:
        return ShadowPolicy.from_json(written)
    except ContractError as error:
        raise MisuseError(str(error)) from error


def _make_disagreement(options: PolicyOptions) -> "DisagreementTest | None":
    from fleet_server.core.shadow_limits import GOAL_SHARE, DisagreementTest

    if not options.disagree_never_above:
        if options.disagree_goal or options.disagree_by:
            raise MisuseError(
                "--disagree-goal and --disagree-by need --disagree-never-above, the share that"
                " stops a candidate in shadow"
            )
        return None
    if not options.shadow:
        raise MisuseError("--disagree-never-above needs --shadow: how long candidates are compared")
    never_above = parse_share(options.disagree_never_above, "--disagree-never-above")
    goal = never_above * GOAL_SHARE
    if options.disagree_goal:
        goal = parse_share(options.disagree_goal, "--disagree-goal")
    try:
        difference_min = float(options.disagree_by or 0)
    except ValueError as error:
        raise MisuseError(f"--disagree-by {options.disagree_by[:40]!r}: no number") from error
    return DisagreementTest(goal=goal, never_above=never_above, difference_min=difference_min)
