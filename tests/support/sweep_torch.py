"""PyTorch modules for the sweep of conversion; torch is asked for when a case is made."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from converters.attempts import measure_try
from converters.errors import ConversionError
from converters.normalise import normalise
from converters.runtime import GraphRunner
from converters.sources import make_source
from device_profiles.catalog import load_profile
from edge_agent.contract.schema import Feature, ModelSchema
from tests.support.convert import schema_of
from tests.support.sweep import EXACT, NONE, OTHER, REFUSED, SAME, Outcome, reason_of

TORCH = "PyTorch"


@dataclass(frozen=True, slots=True, kw_only=True)
class TorchCase:
    """One module: how it is made of ``torch``, the shape of a row, its classes and targets."""

    name: str
    make: Callable[[Any], Any]
    shape: tuple[int, ...]
    classes: int = 0
    targets: tuple[str, ...] = ()


def list_torch() -> list[TorchCase]:
    """Give every case."""
    return [
        TorchCase(name="MLP, softmax, dropout, batch norm", make=_mlp, shape=(6,), classes=4),
        TorchCase(name="one logit", make=lambda t: t.nn.Linear(6, 1), shape=(6,), classes=2),
        TorchCase(name="regression", make=lambda t: t.nn.Linear(6, 1), shape=(6,)),
        TorchCase(name="several targets", make=_regression, shape=(6,), targets=("a", "b", "c")),
        TorchCase(name="convolutions, images", make=_images, shape=(1, 8, 8), classes=10),
        TorchCase(name="exported program", make=_program, shape=(6,), classes=3),
        TorchCase(name="exported program of 4 rows", make=_fixed, shape=(6,), classes=3),
        TorchCase(name="two outputs", make=lambda t: t.nn.LSTM(6, 2), shape=(6,), classes=2),
        TorchCase(name="another width", make=lambda t: t.nn.Linear(5, 3), shape=(6,), classes=3),
        TorchCase(name="choice by the data", make=_branching, shape=(6,), classes=3),
    ]


def judge_torch(case: TorchCase) -> Outcome:
    """Convert one module and compare it."""
    import torch  # the rows are known without it

    torch.manual_seed(0)
    torch.set_num_threads(1)
    model, profile = case.make(torch), load_profile("camera")
    schema = _schema(case)
    rows = np.random.default_rng(0).normal(size=(60, schema.width)).astype(np.float32)
    try:
        source = make_source(model, schema)
        made = source.convert(schema, profile, rows)
    except ConversionError as error:
        return _outcome(case.name, REFUSED, reason_of(error))
    runner = GraphRunner(normalise(made.model, profile), profile)
    huge = rows * np.float32(1e12)
    same = [
        SAME
        if measure_try("", schema.task, source.answer(some), runner.run(some)).is_exact
        else OTHER
        for some in (rows, huge)
    ]
    verdict = EXACT if same[0] == SAME else REFUSED
    return _outcome(case.name, verdict, "", same[1])


def _outcome(name: str, verdict: str, how: str, huge: str = NONE) -> Outcome:
    return Outcome(
        kind=TORCH,
        name=name,
        verdict=NONE,
        verdict_float32=verdict,
        boundary=NONE,
        missing=NONE,
        huge=huge,
        how=how,
    )


def _schema(case: TorchCase) -> ModelSchema:
    plain = schema_of(6, [str(n) for n in range(case.classes)], targets=case.targets)
    return ModelSchema(
        model=plain.model,
        task=plain.task,
        features=(Feature(name="x", shape=case.shape),),
        outputs=plain.outputs,
        classes=plain.classes,
    )


def _mlp(t: Any) -> Any:
    return t.nn.Sequential(
        t.nn.Linear(6, 16),
        t.nn.BatchNorm1d(16),
        t.nn.ReLU(),
        t.nn.Dropout(0.5),
        t.nn.Linear(16, 4),
        t.nn.Softmax(dim=1),
    )


def _regression(t: Any) -> Any:
    return t.nn.Sequential(t.nn.Linear(6, 8), t.nn.ReLU(), t.nn.Linear(8, 3))


def _images(t: Any) -> Any:
    return t.nn.Sequential(
        t.nn.Conv2d(1, 4, 3), t.nn.ReLU(), t.nn.MaxPool2d(2), t.nn.Flatten(), t.nn.Linear(36, 10)
    )


def _program(t: Any) -> Any:
    rows = {0: t.export.Dim("rows")}
    return t.export.export(t.nn.Linear(6, 3), (t.zeros(3, 6),), dynamic_shapes=(rows,))


def _fixed(t: Any) -> Any:
    return t.export.export(t.nn.Linear(6, 3), (t.zeros(4, 6),))


def _branching(t: Any) -> Any:
    class Choosing(t.nn.Module):  # type: ignore[misc] # torch is an argument
        def forward(self, rows: Any) -> Any:
            return rows[:, :3] if rows.sum() > 0 else rows[:, 3:]

    return Choosing()
