"""What ``edge-convert`` prints: results on stdout, words on stderr."""

import json
import sys
from collections.abc import Callable
from typing import Any


def say(words: str) -> None:
    """Print a line on stderr."""
    sys.stderr.write(words + "\n")


def print_result(
    result: dict[str, Any], as_json: bool, show: Callable[[dict[str, Any]], None]
) -> None:
    """Print a result as JSON, or the way ``show`` does."""
    if as_json:
        from converters.evidence import encode_evidence

        result = json.loads(encode_evidence(result))
        sys.stdout.write(json.dumps(result, indent=2) + "\n")
    else:
        show(result)


def show_run(result: dict[str, Any]) -> None:
    """Print the ladder, the repairs and the decision."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("precision")
    for heading in ("graph", "p95", "vs fp32", "flips", "max error"):
        table.add_column(heading, justify="right")
    sentences = []
    for rung in result["ladder"]:
        if not rung["is_built"]:
            table.add_row(rung["precision"], "not built")
            continue
        table.add_row(
            rung["precision"],
            f"{rung['model_bytes']:,} B",
            f"{rung['latency_ms_p95']:.3f} ms",
            f"{rung['latency_ratio']:.2f} x",
            f"{rung['flip_share']:.2%}",
            f"{float(rung['max_abs_error']):.2g}",
        )
        sentences += [f"{rung['precision']} is out: {why}" for why in rung["reasons_against"]]
    sentences += [f"repaired {repair}" for repair in result["repairs"]]
    sentences.append(f"ships {result['decision']}")
    console = _console()
    console.print(table)
    for sentence in sentences:
        console.print(sentence, soft_wrap=True)


def show_description(result: dict[str, Any]) -> None:
    """Print a line a property."""
    from rich.table import Table

    table = Table(box=None, show_header=False, pad_edge=False)
    for name, value in result.items():
        table.add_row(name, _one_line(value))
    _console().print(table)


def show_parity(result: dict[str, Any]) -> None:
    """Print the counts and the worst rows."""
    from rich.table import Table

    console = _console()
    console.print(
        f"{result['rows']} rows, {result['flips']} labels differ, {result['rows_off']} rows off,"
        f" largest error {result['max_abs_error']:.3g}"
    )
    if not result["worst"]:
        return
    table = Table("row", "expected", "got", "error", box=None, pad_edge=False)
    for row in result["worst"]:
        table.add_row(
            str(row["row"]), f"{row['expected']:g}", f"{row['got']:g}", f"{row['error']:.3g}"
        )
    console.print(table)


def _console() -> Any:
    from rich.console import Console

    return Console(highlight=False, markup=False)


def _one_line(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_one_line(inner)}" for name, inner in value.items())
    if isinstance(value, list):
        return f"[{', '.join('N' if inner is None else str(inner) for inner in value)}]"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
