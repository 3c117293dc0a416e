"""One model: what a whole build takes beside bare ``to_onnx``, and a member's package alone."""

import time
from statistics import median

from benchmarks.convert_family import (
    HELD_OUT,
    PROFILE,
    SCHEMA,
    convert_naively,
    fit,
    make_rows,
)
from benchmarks.convert_figures import Figure
from converters.build import build_package
from converters.families.family_builder import FamilyBuilder
from converters.families.member_converter import Way
from converters.request import BuildRequest

BUYS = "normal form, repairs, ladder, parity, golden rows, drift reference, evidence, a trial run"


def measure_single() -> list[Figure]:
    """Time whole builds of one model beside the bare conversion; told, without a goal."""
    figures = []
    for kind in ("scaler_ridge", "mlp", "histogram_100"):
        whole, bare = [], []
        for seed in range(5):
            model, _ = fit(kind, seed)
            request = make_request(model, seed)
            began = time.perf_counter()
            convert_naively(model, request.holdout)
            middle = time.perf_counter()
            build_package(request)
            whole.append(time.perf_counter() - middle)
            bare.append(middle - began)
        figures.append(
            Figure(
                name=f"single.{kind}.times_to_onnx",
                value=median(whole) / median(bare),
                more={
                    "build_ms": round(median(whole) * 1e3, 1),
                    "to_onnx_ms": round(median(bare) * 1e3, 1),
                    "buys": BUYS,
                },
            )
        )
    return figures


def time_packages(models: int) -> float:
    """Return processor seconds of a member's package once the first are built."""
    builder, taken = FamilyBuilder(), []
    for seed in range(models + 2):
        model, _ = fit("scaler_ridge", seed)
        request = make_request(model, seed)
        began = time.process_time()
        built = builder.build(request)
        if built.way is not Way.FULL:
            taken.append(time.process_time() - began)
    return median(taken)


def make_request(model: object, seed: int) -> BuildRequest:
    """Ask for a package of one of the family's models."""
    rows, targets = make_rows(seed)
    return BuildRequest(
        estimator=model,
        schema=SCHEMA,
        profile=PROFILE,
        calibration=rows[:-HELD_OUT],
        holdout=rows[-HELD_OUT:],
        holdout_targets=targets[-HELD_OUT:],
    )
