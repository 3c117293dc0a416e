"""Tables of ``edge-convert``: what a result looks like to a person."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from converters.cli.output import make_plain

REASON_CHARS_MAX = 110
_WHY_NOT = re.compile(r"\w+ (does not help|was not built|loses by|is out)\b")
_SHOWN_APART = frozenset(
    {"operators", "operator_versions", "parts", "profiles", "remarks", "refused", "misfits"}
    | {"inputs", "outputs", "input_types", "output_types", "profile", "opset", "opset_ml"}
)


def show_run(result: dict[str, Any]) -> None:
    """Print the ladder, the repairs and the decision."""
    _show_ladder(result["ladder"], result["decision"])
    sentences = [f"repaired {repair}" for repair in result["repairs"]]
    if estimate := result.get("estimate_on_device"):
        low, high = estimate["low_ms"], estimate["high_ms"]
        sentences.append(
            f"estimated on the device: p95 ~{estimate['p95_ms']:.3g} ms ({low:.3g} to {high:.3g})"
        )
    if image := result.get("image"):
        sides = " x ".join(map(str, image["timed_pixels"]))
        front = image.get("front_ms")
        said = (
            f"every time holds {front['p50']:.3g} ms (p95 {front['p95']:.3g}) of what goes before"
            " the network"
            if front
            else "times are of the network alone"
        )
        sentences.append(
            f"{said}; the whole graph answers a picture of {sides} in"
            f" {image['latency_ms_median']:.3g} ms (median)"
        )
    sentences += [f"note: {note}" for note in result["notes"]]
    _say_lines([*sentences, *_say_decision("ships", result["decision"])])


def show_bench(result: dict[str, Any]) -> None:
    """Print the ladder and what would ship."""
    _show_ladder(result["ladder"], result["ships"])
    if front := (result.get("measured_with") or {}).get("front_ms"):
        _say_lines([f"every time holds {front['p50']:.3g} ms of what goes before the network"])
    if result["ships"] is not None:
        _say_lines(_say_decision("would ship", result["ships"]))
    else:
        _say_lines([f"nothing would ship: {result['none_fits']}"])


def _list_reasons(decision: str | None) -> list[str]:
    """Give the reasons against every other build, where the decision holds one for each."""
    reasons = (decision or "").partition(": ")[2].split("; ")
    return reasons if all(_WHY_NOT.match(reason) for reason in reasons) else []


def _say_decision(word: str, decision: str) -> list[str]:
    """Give a decision, a line each reason, and what would have counted where nothing helped."""
    if not (reasons := _list_reasons(decision)):
        return [f"{word} {decision}"]
    lines = [f"{word} {decision.partition(':')[0]}:", *(f"  {reason}" for reason in reasons)]
    if any(" does not help (" in reason for reason in reasons):
        from converters import criteria  # loads numpy, which help must not

        lines.append(
            "a build helps that is better beyond the noise: by metric, by"
            f" {criteria.LATENCY_SHARE_MIN:.0%} of the latency, by {criteria.SAVING_SHARE_MIN:.0%}"
            f" and {criteria.SAVING_BYTES_MIN:,} bytes of the graph, or by"
            f" {criteria.MEMORY_BYTES_MIN:,} bytes of memory"
        )
    return lines


def show_description(result: dict[str, Any]) -> None:
    """Print a line a property, then tables: what goes in and out, operators, sizes, profiles."""
    from rich.table import Table

    lines = Table(box=None, show_header=False, pad_edge=False)
    for name, value in result.items():
        if name not in _SHOWN_APART:
            lines.add_row(name, make_plain(_one_line(value)))
    _console().print(lines)
    _show_values(result)
    versions = result["operator_versions"]
    _table(
        ("operator", "count", "version"),
        [
            (name, count, versions.get(name) or "unknown")
            for name, count in sorted(result["operators"].items(), key=lambda item: -item[1])
        ],
        right=(1, 2),
    )
    _table(
        ("largest parts", "type", "shape", "bytes"),
        [
            (
                part["name"],
                part["type"] + (f" in {part['file']}" if "file" in part else ""),
                " x ".join(map(str, part["shape"])),
                f"{part['bytes']:,}",
            )
            for part in result["parts"]
        ],
        right=(3,),
    )
    _say_lines([f"note: {remark}" for remark in result["remarks"]])
    if result["refused"]:
        _say_lines([f"no package may hold it: {result['refused']}"])
    _table(
        ("profile", "fits", "because"),
        [
            (one["profile"], "no" if one["misfits"] else "yes", _say_verdict(one))
            for one in result["profiles"]
        ],
    )


def _say_verdict(one: Mapping[str, Any]) -> str:
    words = list(one["misfits"])
    if one["lowered"]:
        words.append(f"{one['lowered']}; tried and compared with this file when a package is built")
    return "; ".join(words)


def show_parity(result: dict[str, Any]) -> None:
    """Print the counts and the worst rows."""
    _say_lines(
        [
            f"{result['rows']} rows, {result['flips']} labels differ, {result['rows_off']} rows"
            f" off, largest error {result['max_abs_error']:.3g}"
        ]
    )
    _table(
        ("target", "rows off", "largest error", "99 % within"),
        [
            (
                one["target"],
                one["rows_off"],
                f"{one['max_abs_error']:.3g}",
                f"{one['error_quantiles'].get('99', 0):.3g}",
            )
            for one in result.get("targets", ())
        ],
        right=(1, 2, 3),
    )
    _table(
        ("label", "flips", "rows off", "largest error", "99 % within"),
        [
            (
                one["label"],
                one["flips"],
                one["rows_off"],
                f"{one['max_abs_error']:.3g}",
                f"{one['error_quantiles'].get('99', 0):.3g}",
            )
            for one in result.get("labels", ())
        ],
        right=(1, 2, 3, 4),
    )
    if not result["worst"]:
        return
    _table(
        ("row", "expected", "got", "error", "inputs"),
        [
            (
                row["row"],
                " ".join(
                    filter(None, (row.get("target"), row.get("label"), f"{row['expected']:g}"))
                ),
                f"{row['got']:g}",
                f"{row['error']:.3g}",
                _shorten(row.get("picture") or _one_line(row.get("inputs") or "")),
            )
            for row in result["worst"]
        ],
        right=(0, 1, 2, 3),
    )


def _show_ladder(ladder: Sequence[Mapping[str, Any]], decision: str | None) -> None:
    """Print the builds, and why each was not chosen unless the decision says it of every one."""
    rows, sentences = [], []
    for rung in ladder:
        name = str(rung.get("name", rung["precision"]))
        if not rung["is_built"]:
            rows.append((name, "not built", "", "", "", "", "", "", ""))
            sentences.append(f"{name} was not built: {rung['note']}")
            continue
        rows.append(
            (
                name + (" *" if rung.get("is_on_front") else ""),
                f"{rung['model_bytes']:,} B",
                f"{rung['load_ms']:.3g}" if rung.get("load_ms") else "",
                f"{rung['latency_ms_p50']:.3f}",
                f"{rung['latency_ms_p95']:.3f}",
                _ratio(rung),
                f"{rung['rss_bytes'] / 2**20:.0f}" if rung.get("rss_bytes") else "",
                f"{rung['metric_drop']:+.3g}",
                f"{rung['flip_share']:.2%}",
            )
        )
        sentences += [f"{name} is out: {why}" for why in rung["reasons_against"]]
        if rung.get("beaten_by"):
            sentences.append(f"{name} is beaten by {rung['beaten_by']}")
    if _list_reasons(decision):
        sentences = []
    headings = ("build", "graph", "load ms", "p50 ms", "p95 ms", "time to fp32", "MiB")
    _table((*headings, "metric lost", "flips"), rows, right=range(1, 9))
    if any(row[0].endswith(" *") for row in rows):
        sentences.insert(0, "* nothing measured is better in one respect and as good in the others")
    _say_lines(sentences)


def _ratio(rung: Mapping[str, Any]) -> str:
    interval = rung.get("latency_ratio_interval")
    around = f" ({interval[0]:.2f} to {interval[1]:.2f})" if interval else ""
    return f"{rung['latency_ratio']:.2f}{around}"


def _show_values(result: Mapping[str, Any]) -> None:
    rows = [
        (kind, name, result[f"{kind}_types"].get(name, ""), _shape(shape))
        for kind in ("input", "output")
        for name, shape in result[f"{kind}s"].items()
    ]
    _table(("", "name", "type", "shape"), rows)


def _shape(shape: Sequence[Any] | None) -> str:
    if shape is None:
        return "unknown"
    return "[" + ", ".join("N" if size is None else str(size) for size in shape) + "]"


def _table(
    headings: Sequence[str], rows: Sequence[Sequence[object]], right: Sequence[int] = ()
) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    if not rows:
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for place, heading in enumerate(headings):
        table.add_column(heading, justify="right" if place in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(make_plain(str(cell))) for cell in row))
    _console().print(table)


def _say_lines(sentences: Sequence[str]) -> None:
    console = _console()
    for sentence in sentences:
        console.print(make_plain(sentence), soft_wrap=True)


def _console() -> Any:
    import sys

    from rich.console import Console

    width = None if sys.stdout.isatty() else 160
    return Console(highlight=False, markup=False, width=width)


def _shorten(text: str) -> str:
    return text if len(text) <= REASON_CHARS_MAX else text[: REASON_CHARS_MAX - 1] + "…"


def _one_line(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_one_line(inner)}" for name, inner in value.items())
    if isinstance(value, list | tuple):
        return f"[{', '.join('N' if inner is None else str(inner) for inner in value)}]"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
