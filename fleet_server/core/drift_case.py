"""The case for an alarm: features, severity and sentence, with the inputs to make them again."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from fleet_server.core.drift_attribution import Blame, Scene
from fleet_server.core.drift_cells import AFFECTED_LOG_P, take_evidence
from fleet_server.core.drift_counts import HORIZONS
from fleet_server.core.drift_finding import LOG_HORIZONS, Evidence, judge_evidence
from fleet_server.core.drift_policy import DriftPolicy, Level, Severity
from fleet_server.core.drift_tails import Floats
from fleet_server.core.drift_test import Variation
from fleet_server.core.drift_words import AlarmFacts, say_alarm

EVIDENCE_MAX = 3
"""Features whose counters are kept with a case."""
CONFIRMED_HORIZON = 1
"""Index into HORIZONS from which one look is enough."""
SINCE_SHARE = 0.8
"""The shift lasts over the longest horizon that still shows this part of the largest effect."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AlarmCase:
    """Why an alarm should be open now.

    Attributes:
        level: Device, group or fleet.
        subject: Who.
        features: That crossed, largest effect first.
        severity: Of the largest effect.
        windows: Of the shortest horizon that crossed.
        is_confirmed: Several windows added crossed, too: one look is enough.
        since_ms: Estimated start of the shift.
        sentence: For people.
        inputs: JSON values from which ``replay_case`` makes severity and sentence again.
    """

    level: Level
    subject: str
    features: tuple[str, ...]
    severity: Severity
    windows: int
    is_confirmed: bool
    since_ms: int
    sentence: str
    inputs: Mapping[str, Any]


def make_case(scene: Scene, blame: Blame, names: Sequence[str]) -> AlarmCase:
    """Put the case for one subject that moved."""
    if blame.level is Level.DEVICE:
        sums, results, s = scene.sums, scene.devices, int(np.flatnonzero(blame.members)[0])
    else:
        sums, s = scene.add(blame.members[None]), 0
        results = scene.against_reference(sums)
    psi = np.where(blame.crossed, results.psi[s], 0.0)
    effect = psi.max(0)
    order = sorted(np.flatnonzero(effect > 0).tolist(), key=lambda f: (-effect[f], f))
    spans = {f: _find_span(psi[:, f]) for f in order}
    worst, span = order[0], spans[order[0]]
    shows = scene.devices.log_p[blame.members, :, worst].min(1) + LOG_HORIZONS < AFFECTED_LOG_P
    rest = None
    if blame.others.any():
        others = scene.add(blame.others[None], sums.output_of[s : s + 1])
        rest = take_evidence(scene, others, (0, span, worst), names[worst]).to_json()
    inputs = {
        "level": str(blame.level),
        "subject": blame.subject,
        "policy": _encode_policy(scene.policy),
        "log_threshold": scene.log_threshold,
        "features": [names[f] for f in order],
        "features_total": len(names),
        "since_ms": int(results.since_ms[s, span]),
        "affected": int(shows.sum()),
        "devices": int(blame.members.sum()),
        "evidence": [
            take_evidence(scene, sums, (s, spans[f], f), names[f]).to_json()
            for f in order[:EVIDENCE_MAX]
        ],
        "rest": rest,
    }
    severity, sentence = replay_case(inputs)
    return AlarmCase(
        level=blame.level,
        subject=blame.subject,
        features=tuple(names[f] for f in order),
        severity=severity,
        windows=HORIZONS[int(np.flatnonzero(blame.crossed.any(1))[0])],
        is_confirmed=bool(blame.crossed[CONFIRMED_HORIZON:].any()),
        since_ms=int(results.since_ms[s, span]),
        sentence=sentence,
        inputs=inputs,
    )


def replay_case(inputs: Mapping[str, Any]) -> tuple[Severity, str]:
    """Make severity and sentence of stored inputs again.

    Raises:
        ValueError: The inputs do not make an alarm under their own policy and threshold.
    """
    policy = _decode_policy(inputs["policy"])
    variation = policy.variation
    findings = [judge_evidence(Evidence.from_json(e), variation) for e in inputs["evidence"]]
    worst, rest = findings[0], inputs["rest"]
    if worst.log_p - LOG_HORIZONS >= inputs["log_threshold"] or worst.psi < policy.psi_watch:
        raise ValueError(f"{worst.feature}: p {worst.p_value:.1e}, PSI {worst.psi:.3f} is no alarm")
    is_rest_moved = None
    if rest:
        is_rest_moved = judge_evidence(Evidence.from_json(rest), variation).psi >= policy.psi_watch
    facts = AlarmFacts(
        level=str(inputs["level"]),
        subject=str(inputs["subject"]),
        since_ms=int(inputs["since_ms"]),
        affected=int(inputs["affected"]),
        devices=int(inputs["devices"]),
        moved=len(inputs["features"]),
        features=int(inputs["features_total"]),
        is_rest_moved=is_rest_moved,
    )
    return policy.grade(worst.psi), say_alarm(facts, worst)


def _encode_policy(policy: DriftPolicy) -> dict[str, Any]:
    values = asdict(policy)
    if math.isinf(policy.variation.concentration):
        values["variation"]["concentration"] = None
    return values


def _decode_policy(values: Mapping[str, Any]) -> DriftPolicy:
    variation = dict(values["variation"])
    if variation["concentration"] is None:
        variation["concentration"] = math.inf
    return DriftPolicy(**{**values, "variation": Variation(**variation)})


def _find_span(psi: Floats) -> int:
    return int(np.flatnonzero(psi >= SINCE_SHARE * psi.max())[-1])
