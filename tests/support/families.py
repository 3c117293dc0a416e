"""Families in a workspace, registered as training does."""

import json
from collections.abc import Mapping

from fleet_server.bootstrap import Fleet
from tests.support.trust_fleet import register

LINES = "line-{route}"


def register_member(
    fleet: Fleet,
    route: str,
    version: int = 1,
    *,
    mae: float = 0.5,
    gain: float | None = None,
    pattern: str = LINES,
    is_fallback: bool = False,
    values: Mapping[str, str] | None = None,
) -> str:
    """Register one member and give its model name.

    Args:
        fleet: The workspace.
        route: Its value; also of its name.
        version: Number.
        mae: Its metric.
        gain: How much better it is than the champion, with bounds of a tenth; None: not compared.
        pattern: Of the family.
        is_fallback: Whether it is for devices without a member.
        values: Instead of the route.
    """
    name = pattern.replace("{route}", route)
    family = {
        "pattern": pattern,
        "values": {} if is_fallback else dict(values or {"route": route.upper()}),
        "is_fallback": is_fallback,
    }
    compared = gain is not None and {"value": gain, "low": gain - 0.1, "high": gain + 0.1}
    register(
        fleet,
        name,
        version,
        ["camera"],
        run=json.dumps({"primary": "mae", "family": family}),
        metrics=json.dumps({"mae": mae}),
        evaluation=json.dumps({"against_champion": compared or None}),
    )
    return name
