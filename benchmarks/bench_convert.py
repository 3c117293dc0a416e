"""What conversion costs and gives: ``make bench NAME=convert``.

* A family of 2,000 models beside the naive loop over ``to_onnx``: the conversion step alone, on the
  same models and with bytes compared; then the whole family, both with parity on every model.
* One model beside bare ``to_onnx``: what a whole build takes, and what it buys.
* A convolutional network and a perceptron for ``camera``: size, latency and flips of what ships.
* Packages on the way to a device: what is sent beside plain zstd and a plain patch.
* Microsoft Olive's dynamic and static quantization of the same graph, when it is installed in the
  environment that ``--olive PYTHON`` names; skipped with a word otherwise.
"""

import os

os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.convert_camera import measure_camera
from benchmarks.convert_delta import measure_deltas
from benchmarks.convert_family import MAKERS, Seconds, time_conversion, time_family
from benchmarks.convert_figures import Figure
from benchmarks.convert_olive import measure_olive
from benchmarks.convert_single import measure_single, time_packages

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

PARTS = ("conversion", "family", "single", "camera", "deltas", "olive")
CONVERSION_GOAL = 10.0
FAMILY_GOAL = 4.0
TREES_SHARE_GOAL = 0.25
COMPARED = {
    "scaler_ridge": 200,
    "mlp": 30,
    "boosting_100": 10,
    "histogram_100": 10,
    "forest_50": 8,
}


def main() -> int:
    """Measure and print; 0 when every goal is met."""
    parser = argparse.ArgumentParser(prog="make bench NAME=convert", description=__doc__)
    parser.add_argument("--models", type=int, default=2_000, help="members of the family")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--part", choices=PARTS, help="only this one of them")
    parser.add_argument("--olive", type=Path, help="Python of an environment with olive-ai")
    options = parser.parse_args()
    parts: dict[str, Callable[[], Iterable[Figure]]] = {
        "conversion": measure_conversion,
        "family": lambda: measure_family(options.models, options.jobs),
        "single": measure_single,
        "camera": measure_camera,
        "deltas": measure_deltas,
        "olive": lambda: measure_olive(options.olive),
    }
    missed = 0
    for name, measure in parts.items():
        if options.part not in (None, name):
            continue
        for figure in measure():
            print(json.dumps(figure.to_json()), flush=True)
            missed += not figure.is_met
    return 1 if missed else 0


def measure_conversion() -> list[Figure]:
    """Time the conversion step of each kind of model, both ways, on the same models."""
    figures = []
    for kind in MAKERS:
        found = time_conversion(kind, COMPARED[kind])
        more = _tell(found)
        if kind in ("scaler_ridge", "mlp"):
            figures.append(
                Figure(
                    name=f"convert.{kind}.times_faster",
                    value=found.naive / found.ours,
                    at_least=CONVERSION_GOAL,
                    more=more,
                )
            )
        else:
            figures.append(
                Figure(
                    name=f"convert.{kind}.share_of_training",
                    value=found.ours / found.fit,
                    at_most=TREES_SHARE_GOAL,
                    more=more,
                )
            )
        figures.append(
            Figure(
                name=f"convert.{kind}.same_bytes",
                value=found.same_bytes / found.models,
                at_least=1.0,
                more={"models": found.models},
            )
        )
    return figures


def _tell(found: Seconds) -> dict[str, object]:
    return {
        "ours_ms": round(found.ours / found.models * 1e3, 3),
        "to_onnx_ms": round(found.naive / found.models * 1e3, 3),
        "fit_ms": round(found.fit / found.models * 1e3, 3),
        "ways": {str(way): count for way, count in found.ways.items()},
    }


def measure_family(models: int, jobs: int) -> list[Figure]:
    """Time a whole family of a scaler with ridge, both ways."""
    found = time_family("scaler_ridge", models, jobs)
    ratios = [naive / ours for naive, ours in zip(found.naive, found.ours, strict=True)]
    return [
        Figure(
            name="convert.family.times_faster",
            value=sum(found.naive) / sum(found.ours),
            at_least=FAMILY_GOAL,
            more={
                "models": models,
                "jobs": jobs,
                "ours_s": round(sum(found.ours), 2),
                "naive_s": round(sum(found.naive), 2),
                "cpu_ratio": round(found.naive_cpu / found.ours_cpu, 2),
                "by_turn": [round(ratio, 2) for ratio in ratios],
                "package_ms": round(time_packages(100) * 1e3, 2),
            },
        )
    ]


if __name__ == "__main__":
    sys.exit(main())
