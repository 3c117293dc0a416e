"""Microsoft Olive on the same graph, rows and machine: size, flips and wall time."""

import json
import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from benchmarks.convert_figures import Figure
from converters.build import build_package
from converters.request import MeasurementPlan
from tests.support.convert import load_table
from tests.support.networks import digits_cnn, request_of_cnn

FLIPS_MAX = 0.005
"""The limit of the camera's network."""
TIMEOUT_S = 600
HOW = (
    "no Olive: make an environment with olive-ai==0.13.0, torch (its CPU build) and requests,"
    " and name its Python: make bench NAME=convert ARGS='--olive PATH/bin/python'"
)


def measure_olive(python: Path | None) -> list[Figure]:
    """Quantize the camera's network with both; skipped where Olive is not there."""
    if python is None or not python.exists():
        return [Figure(name="olive", skipped=HOW)]
    began = time.perf_counter()
    package = build_package(request_of_cnn(plan=MeasurementPlan()))
    ours_s = time.perf_counter() - began
    rungs = {rung["name"]: rung for rung in package.evidence["ladder"]}
    ours = rungs[package.evidence["rung"]]
    theirs = [_run(python, way) for way in ("dynamic", "static")]
    within = [one for one in theirs if one["flips"] <= FLIPS_MAX]
    best = min(within or theirs, key=lambda one: one["bytes"])
    told = {"olive": theirs, "ours": {k: ours[k] for k in ("name", "model_bytes", "flip_share")}}
    return [
        Figure(
            name="olive.size",
            value=ours["model_bytes"] / best["bytes"],
            at_most=1.0,
            more={**told, "best": best["way"]},
        ),
        Figure(
            name="olive.wall_time",
            value=ours_s / sum(one["seconds"] for one in theirs),
            at_most=1.0,
            more={"ours_s": round(ours_s, 2)},
        ),
    ]


def _run(python: Path, way: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        (home / "cnn.onnx").write_bytes(digits_cnn())
        rows, _ = load_table("digits")
        cut = len(rows) * 6 // 10
        np.save(home / "rows.npy", rows[:256].astype(np.float32))
        done = subprocess.run(
            [
                str(python),
                str(Path(__file__).with_name("convert_olive_child.py")),
                way,
                str(home / "cnn.onnx"),
                str(home / "made"),
            ],
            env={
                **os.environ,
                "BENCH_ROWS": str(home / "rows.npy"),
                "BENCH_INPUT": "x",
                "OLIVE_DISABLE_TELEMETRY": "1",
            },
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=True,
        )
        model = (home / "made" / "model.onnx").read_bytes()
    held_out = rows[cut:].astype(np.float32)
    before, after = (_labels(graph, held_out) for graph in (digits_cnn(), model))
    return {
        "way": way,
        "bytes": len(model),
        "flips": round(float(np.mean(before != after)), 5),
        "seconds": round(float(json.loads(done.stdout.splitlines()[-1])["seconds"]), 2),
    }


def _labels(graph: bytes, rows: Any) -> Any:
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": rows})[0].argmax(axis=1)
