"""A family against the naive loop: fit, ``to_onnx``, check, session, parity, one model at a time.

Ours does the same for each model (fit, fill the graph in, check its bytes, load it, compare it with
its source on every held-out row) in as many processes as there are processors. Packages with golden
rows, drift reference and evidence are more than the loop makes (``convert_single.py`` times one).
"""

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import joblib
import numpy as np
import onnx
import onnxruntime
from skl2onnx import to_onnx
from skl2onnx.common._container import ModelComponentContainer
from sklearn.ensemble import (
    GradientBoostingRegressor,
    HistGradientBoostingRegressor,
    RandomForestRegressor,
)
from sklearn.linear_model import Ridge
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from converters.families.member_converter import MemberConverter
from converters.parity import compare_outputs
from converters.runtime import GraphRunner
from device_profiles.catalog import load_profile
from edge_agent.contract.onnx_check import check_onnx
from edge_agent.contract.schema import Feature, ModelSchema, Output, Role, Task

ROWS, HELD_OUT, WIDTH = 500, 64, 10
CHUNK, TURN = 25, 250
"""Members of a job, and of one way's turn."""
TARGETS = {"": 18, "ai.onnx.ml": 3}
PROFILE = load_profile("onprem-server")
SCHEMA = ModelSchema(
    model="member",
    task=Task.REGRESSION,
    features=tuple(Feature(name=f"f{n}") for n in range(WIDTH)),
    outputs=(Output(name="value", role=Role.VALUE),),
)
MAKERS: dict[str, Callable[[], Any]] = {
    "scaler_ridge": lambda: make_pipeline(StandardScaler(), Ridge()),
    "mlp": lambda: make_pipeline(
        StandardScaler(), MLPRegressor(hidden_layer_sizes=(32,), max_iter=50, random_state=0)
    ),
    "boosting_100": lambda: GradientBoostingRegressor(random_state=0),
    "histogram_100": lambda: HistGradientBoostingRegressor(random_state=0),
    "forest_50": lambda: RandomForestRegressor(50, random_state=0),
}


@dataclass(slots=True)
class Seconds:
    """Processor seconds of one kind of model, summed."""

    fit: float = 0.0
    naive: float = 0.0
    ours: float = 0.0
    models: int = 0
    same_bytes: int = 0
    ways: dict[str, int] = field(default_factory=dict)


def make_rows(seed: int) -> tuple[Any, Any]:
    """Give 500 rows of ten columns and a target with a bend."""
    random = np.random.default_rng(seed)
    rows = random.normal(size=(ROWS, WIDTH)).astype(np.float32)
    noise = 0.1 * random.normal(size=ROWS)
    return rows, rows @ random.normal(size=WIDTH) + np.sin(3 * rows[:, 0]) + noise


def fit(kind: str, seed: int) -> tuple[Any, Any]:
    """Fit one model; gives it and its held-out rows."""
    rows, targets = make_rows(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = MAKERS[kind]().fit(rows[:-HELD_OUT], targets[:-HELD_OUT])
    return model, rows[-HELD_OUT:]


def convert_naively(model: Any, rows: Any) -> Any:
    """Convert as a loop over ``to_onnx`` does: nothing is kept from one model to the next."""
    if "_op_versions" in vars(ModelComponentContainer):
        del ModelComponentContainer._op_versions  # noqa: SLF001 - as if nobody had shared it
    return to_onnx(model, rows[:1], target_opset=TARGETS)


def time_conversion(kind: str, models: int) -> Seconds:
    """Time the conversion step alone, both ways, on the same models."""
    own, found = MemberConverter(), Seconds()
    reference = MemberConverter()
    for seed in range(models + 2):
        began = time.process_time()
        model, rows = fit(kind, seed)
        fitted = time.process_time()
        convert_naively(model, rows)
        naive = time.process_time()
        graph = own.convert(model, SCHEMA, PROFILE, rows)
        ours = time.process_time()
        if seed < 2:  # converted in full: what the others are filled into
            continue
        full = reference._convert_in_full(  # noqa: SLF001 - the bytes to compare with
            model,
            graph.source,
            SCHEMA,
            PROFILE,
            rows,
            np.float32,
        )
        found.fit += fitted - began
        found.naive += naive - fitted
        found.ours += ours - naive
        found.models += 1
        found.same_bytes += full.model == graph.model
        found.ways[graph.way] = found.ways.get(graph.way, 0) + 1
    return found


def run_naive(kind: str, seeds: range) -> float:
    """Return seconds of the loop: fit, convert, check, session, parity on every held-out row."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    began = time.perf_counter()
    for seed in seeds:
        model, rows = fit(kind, seed)
        graph = convert_naively(model, rows)
        onnx.checker.check_model(graph)
        session = onnxruntime.InferenceSession(
            graph.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        (answers,) = session.run(None, {session.get_inputs()[0].name: rows})
        worst = np.abs(answers.ravel() - model.predict(rows)).max()
        if not worst < 1e-3:
            raise SystemExit(f"the naive loop's model {seed} is off by {worst}")
    return time.perf_counter() - began


@cache
def converter_of(kind: str, run: str) -> MemberConverter:
    """Give this process's converter of a run, as a family's training keeps one a process."""
    del kind, run
    return MemberConverter()


def run_members(kind: str, run: str, seeds: range) -> tuple[int, float]:
    """Fit, convert, check, load and compare some members; a job of the pool.

    Returns:
        How many answer as their source does, and the processor seconds it took.
    """
    began = time.process_time()
    converter = converter_of(kind, run)
    exact = 0
    for seed in seeds:
        model, rows = fit(kind, seed)
        graph = converter.convert(model, SCHEMA, PROFILE, rows)
        check_onnx(graph.model)
        answers = GraphRunner(graph.model, PROFILE, threads=1).run(rows)
        parity = compare_outputs(Task.REGRESSION, graph.source.answer(rows), answers)
        exact += parity.rows_off == 0
    return exact, time.process_time() - began


@dataclass(slots=True)
class FamilyTimes:
    """Seconds of both ways, one entry a turn: they take turns, as the machine is shared.

    The processor seconds tell what of a ratio is two processes, and what is less work.
    """

    naive: list[float] = field(default_factory=list)
    ours: list[float] = field(default_factory=list)
    naive_cpu: float = 0.0
    ours_cpu: float = 0.0


def time_family(kind: str, models: int, jobs: int) -> FamilyTimes:
    """Time a family both ways in turns, its processes started before."""
    found = FamilyTimes()
    with joblib.Parallel(n_jobs=jobs) as pool:
        pool(joblib.delayed(run_members)(kind, "start", range(3)) for _ in range(jobs))
        for start in range(0, models, TURN):
            turn = range(start, min(start + TURN, models))
            before = time.process_time()
            found.naive.append(run_naive(kind, turn))
            found.naive_cpu += time.process_time() - before
            parts = [range(at, min(at + CHUNK, turn.stop)) for at in range(start, turn.stop, CHUNK)]
            began = time.perf_counter()
            done = pool(joblib.delayed(run_members)(kind, "timed", part) for part in parts)
            found.ours.append(time.perf_counter() - began)
            found.ours_cpu += sum(seconds for _, seconds in done)
            exact = sum(count for count, _ in done)
            if exact != len(turn):
                raise SystemExit(f"{len(turn) - exact} of {len(turn)} members are off")
    return found
