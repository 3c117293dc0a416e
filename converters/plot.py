"""Draw a ladder: what each rung costs against what it loses, as an SVG text. Pure.

Two panels, metric drop upwards in both: latency against fp32 with its interval, and size. Filled
dots keep every limit, hollow ones do not; the line joins the Pareto front; a ring marks what ships.
Names stand beside their dots where there is room, else above or below the names that are there. The
drawing is made from ``evidence.json`` whenever it is wanted, so packages need not carry it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from xml.sax.saxutils import escape

WIDTH, HEIGHT, PANEL, LEFT, TOP = 920, 420, 360, 70, 50
NAMES_CHARS_MAX = 40
LINE, CHAR_WIDTH = 12, 6.2
LEGEND = (
    "ring: ships  ·  filled: keeps every limit  ·  hollow: breaks one  ·  dashed: nothing else is"
    " better in one respect and as good in the others"
)
_INK, _FAINT, _FRONT = "#222", "#ccc", "#0b6"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Axis:
    """A scale from figures to places."""

    low: float
    high: float
    start: float
    length: float

    def place(self, value: float) -> float:
        """Give the place of a figure, kept inside."""
        share = (value - self.low) / (self.high - self.low)
        return self.start + min(1.0, max(0.0, share)) * self.length


def plot_ladder(rungs: Sequence[Mapping[str, Any]], shipped: str, title: str) -> str:
    """Draw the rungs of ``evidence["ladder"]``.

    Args:
        rungs: As in the evidence; those that were not built are left out.
        shipped: Name of the rung that ships.
        title: Said above.

    >>> rung = {"name": "fp32", "is_built": True, "metric_drop": 0.0, "latency_ratio": 1.0,
    ...         "model_bytes": 1000, "reasons_against": []}
    >>> plot_ladder([rung], "fp32", "camera").count("<circle")
    4
    """
    built = [rung for rung in rungs if rung["is_built"]]
    drops = [_number(rung["metric_drop"]) for rung in built]
    height = _axis(drops, start=TOP + 300, length=-300)
    panels = [
        _panel(built, shipped, height, offset=LEFT, key="latency_ratio", name="latency / fp32"),
        _panel(
            built, shipped, height, offset=LEFT + PANEL + 80, key="model_bytes", name="graph bytes"
        ),
    ]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}"'
            ' font-family="sans-serif" font-size="11">',
            f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
            _text(LEFT, 24, title, size=14),
            *panels,
            _text(16, TOP - 14, "metric drop"),
            *(
                _text(LEFT - 8, height.place(value) + 4, f"{value:.3g}", anchor="end")
                for value in (height.low, (height.low + height.high) / 2, height.high)
            ),
            _text(LEFT, HEIGHT - 10, LEGEND, size=10),
            "</svg>",
            "",
        ]
    )


def _panel(
    built: Sequence[Mapping[str, Any]],
    shipped: str,
    height: _Axis,
    *,
    offset: float,
    key: str,
    name: str,
) -> str:
    width = _axis(
        [_number(rung[key]) for rung in built], start=offset, length=PANEL, is_positive=True
    )
    base = height.start
    parts = [
        f'<path d="M{offset} {TOP}V{base}H{offset + PANEL}" fill="none" stroke="{_INK}"/>',
        _text(offset + PANEL / 2, base + 36, name, anchor="middle"),
    ]
    parts += [
        _text(width.place(value), base + 18, _short(value), anchor="middle")
        for value in (width.low, (width.low + width.high) / 2, width.high)
    ]
    front = sorted(
        (width.place(_number(rung[key])), height.place(_number(rung["metric_drop"])))
        for rung in built
        if rung.get("is_on_front")
    )
    if len(front) > 1:
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in front)
        parts.append(f'<path d="M{path}" fill="none" stroke="{_FRONT}" stroke-dasharray="4 3"/>')
    taken: list[_Place] = []
    for rung in built:
        parts += _dot(rung, shipped, width, height, key)
        place = _find_place(rung, width, height, key, taken)
        taken.append(place)
        parts.append(_text(place.x, place.y, _name(rung), anchor=place.anchor))
    return "\n".join(parts)


def _name(rung: Mapping[str, Any]) -> str:
    return str(rung["name"])[:NAMES_CHARS_MAX]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """Where a name stands, and how far it reaches."""

    x: float
    y: float
    anchor: str
    left: float
    right: float

    def touches(self, other: "_Place") -> bool:
        """Tell whether two names would be written over each other."""
        is_apart = self.right < other.left or other.right < self.left
        return not is_apart and abs(self.y - other.y) < LINE - 0.5


def _find_place(
    rung: Mapping[str, Any], width: _Axis, height: _Axis, key: str, taken: Sequence[_Place]
) -> _Place:
    """Find the line nearest to a dot on which its name touches no other."""
    x = width.place(_number(rung[key]))
    y = height.place(_number(rung["metric_drop"])) - 8
    long = CHAR_WIDTH * len(_name(rung))
    is_right = x > width.start + width.length / 2
    x += -10 if is_right else 10
    ends = (x - long, x) if is_right else (x, x + long)
    tries = [
        _Place(
            x=x,
            y=y + LINE * step,
            anchor="end" if is_right else "start",
            left=ends[0],
            right=ends[1],
        )
        for step in sorted(range(-len(taken) - 1, len(taken) + 3), key=lambda n: (abs(n), n))
        if step != 1 and TOP - LINE <= y + LINE * step <= height.start  # 1 lies on the dots
    ]
    free = (place for place in tries if not any(place.touches(other) for other in taken))
    return next(free, tries[0])


def _dot(rung: Mapping[str, Any], shipped: str, width: _Axis, height: _Axis, key: str) -> list[str]:
    x = width.place(_number(rung[key]))
    y = height.place(_number(rung["metric_drop"]))
    parts = []
    for name, axis, is_flat in (
        (f"{key}_interval", width, True),
        ("metric_drop_interval", height, False),
    ):
        if name in rung:
            low, high = (axis.place(_number(value)) for value in rung[name])
            ends = f"M{low:.1f} {y:.1f}H{high:.1f}" if is_flat else f"M{x:.1f} {low:.1f}V{high:.1f}"
            parts.append(f'<path d="{ends}" stroke="{_FAINT}"/>')
    fill = "white" if rung["reasons_against"] else _INK
    parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{fill}" stroke="{_INK}"/>')
    if rung["name"] == shipped:
        parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="8" fill="none" stroke="{_FRONT}"'
            ' stroke-width="2"/>'
        )
    return parts


def _axis(
    values: Sequence[float], *, start: float, length: float, is_positive: bool = False
) -> _Axis:
    low, high = min(values, default=0.0), max(values, default=1.0)
    margin = 0.1 * (high - low) or max(1e-3, 0.1 * abs(high))
    bottom = max(0.0, low - margin) if is_positive else low - margin
    return _Axis(low=bottom, high=high + margin, start=start, length=length)


def _number(value: Any) -> float:
    """Read a figure of the evidence; what is not finite stands at 0."""
    number = float(value)
    return number if math.isfinite(number) else 0.0


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:.3g}"


def _text(x: float, y: float, words: str, *, anchor: str = "start", size: int = 11) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}"'
        f' fill="{_INK}">{escape(words)}</text>'
    )
