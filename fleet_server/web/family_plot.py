"""Draw the metric of a family over its members, as an SVG text. Pure.

Members stand in the order of the metric, the worst on the left. A dot is a member as it ships, by
its colour how it compares with what is in service; the ring below or above it is the fallback on
the same rows. Of very many members every so many-th is drawn, the ends always.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from fleet_server.core.family_summary import Standing

WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 960, 320, 64, 16, 16, 40
DOTS_MAX = 3_000
COLOURS = {
    Standing.BETTER: "#0a7",
    Standing.WORSE: "#c33",
    Standing.WITHIN_NOISE: "#468",
    Standing.NOT_COMPARED: "#468",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Dot:
    """One member.

    Attributes:
        name: Its model name.
        value: Of the metric.
        fallback: Of the fallback on the same rows, finite; None where that is not known.
        standing: Against what is in service.
    """

    name: str
    value: float
    fallback: float | None
    standing: Standing


def plot_members(dots: Sequence[Dot], metric: str) -> str:
    """Draw members in the order given; an empty text where no value is finite.

    >>> dot = Dot(name="a", value=0.5, fallback=0.4, standing=Standing.BETTER)
    >>> plot_members([dot], "mae").count("<circle"), plot_members([], "mae")
    (2, '')
    """
    shown = _thin([dot for dot in dots if math.isfinite(dot.value)])
    if not shown:
        return ""
    values = [dot.value for dot in shown]
    values += [value for dot in shown if (value := dot.fallback) is not None]
    low, high = min(values), max(values)
    margin = 0.05 * (high - low) or max(1e-3, 0.05 * abs(high))
    low, high = low - margin, high + margin
    base, width = HEIGHT - BOTTOM, WIDTH - LEFT - RIGHT
    step = width / len(shown)

    def place(value: float) -> float:
        return base - (value - low) / (high - low) * (base - TOP)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img"'
        f' aria-label="{escape(metric)} of each member">',
        f'<path d="M{LEFT} {TOP}V{base}H{WIDTH - RIGHT}" fill="none" stroke="currentColor"/>',
        _text(LEFT, TOP - 4, metric),
        _text(WIDTH - RIGHT, HEIGHT - 10, f"{len(dots):,} members, the worst first", "end"),
    ]
    parts += [
        _text(LEFT - 6, place(value) + 4, f"{value:.4g}", "end")
        for value in (low, (low + high) / 2, high)
    ]
    for rank, dot in enumerate(shown):
        x = LEFT + (rank + 0.5) * step
        if dot.fallback is not None:
            parts.append(
                f'<circle cx="{x:.1f}" cy="{place(dot.fallback):.1f}" r="2.5" fill="none"'
                ' stroke="#999"/>'
            )
        parts.append(
            f'<circle cx="{x:.1f}" cy="{place(dot.value):.1f}" r="3"'
            f' fill="{COLOURS[dot.standing]}"><title>{escape(dot.name)}: {dot.value:.4g}</title>'
            "</circle>"
        )
    return "\n".join([*parts, "</svg>"])


def _thin(dots: Sequence[Dot]) -> list[Dot]:
    """Keep every so many-th, and both ends."""
    if len(dots) <= DOTS_MAX:
        return list(dots)
    return [dots[round(rank * (len(dots) - 1) / (DOTS_MAX - 1))] for rank in range(DOTS_MAX)]


def _text(x: float, y: float, words: str, anchor: str = "start") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="11"'
        f' fill="currentColor">{escape(words)}</text>'
    )
