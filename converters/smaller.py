"""Put smaller models of the same family on the ladder, when the request allows another model.

Each way is tried at ever smaller shares until the answers break a limit; the smallest that keeps
them becomes a rung. It has no duty to be the same function: what it may lose is what the spec says.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from converters.criteria import is_smaller
from converters.distil import distil
from converters.errors import ConversionError
from converters.graph import count_operators, parse_model
from converters.int8_weights import WEIGHT_BITS, store_int8
from converters.ladder import Rung, find_losses
from converters.normalise import normalise
from converters.quantize import find_obstacle, quantize
from converters.request import Smaller
from converters.rungs import Workshop
from converters.smaller_convolutions import Narrowing
from converters.smaller_networks import list_network_cuts, narrow_network
from converters.smaller_trees import list_tree_cuts
from converters.source import SourceModel
from device_profiles.profile import Precision

SHARES_QUICK = (0.5, 0.25)
SHARES_FULL = (0.75, 0.5, 0.35, 0.25, 0.15, 0.1, 0.05)
STUDENT_ROWS_MAX = 20_000
STAY_SAID_MAX = 10
_NARROWER = "narrower_convolutions"


def build_smaller(work: Workshop, fp32: bytes, source: SourceModel) -> None:
    """Put pruned models, and a student where asked for, on the ladder."""
    if work.request.smaller is Smaller.NO:
        return
    rows, profile = work.rows.calibration, work.request.profile
    cuts: dict[str, Callable[[float], bytes]] = dict(list_tree_cuts(fp32, rows, profile))
    is_of_trees = bool(cuts)
    finite = rows[np.isfinite(rows).all(axis=1)]
    narrowing = Narrowing(fp32, finite, profile)
    if narrowing.is_possible:
        cuts[_NARROWER] = narrowing.cut
    said = {"left_alone": narrowing.stay[:STAY_SAID_MAX]} if narrowing.stay else {}
    for name in list_network_cuts(fp32) if len(finite) else []:
        cuts[name] = lambda share: narrow_network(fp32, share, finite, profile)
    found = {
        name: _search(work, name, cut, said if name == _NARROWER else {})
        for name, cut in cuts.items()
    }
    slim = found.get(_NARROWER)
    if slim is not None and found.get("narrower_layers") is not None:
        _search(
            work, "narrower_network", lambda share: narrow_network(slim, share, finite, profile)
        )
    if not cuts:
        operators = ", ".join(
            name.rpartition(":")[2]
            for name in count_operators(parse_model(fp32, what="the fp32 graph"))
        )
        work.add(
            "smaller",
            Precision.FP32,
            None,
            note=f"nothing to cut among {operators}: no trees, no hidden dense layer and no"
            f" convolution that may be narrower{_join(narrowing.stay)}",
        )
    if work.request.smaller is Smaller.DISTILLED:
        _teach(work, source, is_of_trees=is_of_trees)


def _join(reasons: list[str]) -> str:
    return f" ({'; '.join(reasons[:STAY_SAID_MAX])})" if reasons else ""


def _search(
    work: Workshop,
    name: str,
    cut: Callable[[float], bytes],
    said: Mapping[str, Any] | None = None,
) -> bytes | None:
    """Try shares from large to small; the smallest within the limits is the rung, and given."""
    tried: list[dict[str, Any]] = []
    best: tuple[float, bytes] | None = None
    note = ""
    for share in SHARES_FULL if work.is_full else SHARES_QUICK:
        try:
            model = cut(share)
            if best is not None and model == best[1]:
                continue
            rung = work.judge(Rung(name=name, precision=Precision.FP32), work.examine(model))
        except (ConversionError, ValueError, np.linalg.LinAlgError) as error:
            note = str(error)[:200]
            break
        lost = find_losses(rung, work.limits)
        tried.append(
            {
                "share": share,
                "model_bytes": len(model),
                "flip_share": rung.flip_share,
                "metric": rung.metric,
                "is_within": not lost,
            }
        )
        if lost:
            note = ", ".join(lost)
            break
        best = (share, model)
    if best is None:
        first = f" at a share of {tried[0]['share']:g}" if tried else ""
        work.add(
            name, Precision.FP32, None, note=f"no limit is kept{first}: {note}",
            settings={"tried": tried, **(said or {})},
        )  # fmt: skip
        return None
    share, model = best
    settings = {"share": share, "tried": tried, **(said or {})}
    work.add(name, Precision.FP32, model, settings=settings)
    _quantize_too(work, name, model)
    return model


def _quantize_too(work: Workshop, name: str, model: bytes) -> None:
    """Put the int8 forms of a smaller network on the ladder, too: stored where it pays, static."""
    precision, profile = Precision.INT8_STATIC, work.request.profile
    if work.is_full and Precision.INT8_DYNAMIC in profile.precisions:
        stored = store_int8(model, profile).model
        if stored is not None and is_smaller(len(stored), len(model)):
            settings = {"bits": WEIGHT_BITS}
            work.add(f"{name}_int8_weights", Precision.INT8_DYNAMIC, stored, settings=settings)
    is_wanted = work.is_full and precision in profile.precisions and len(work.calibration.rows) > 0
    if not is_wanted or find_obstacle(parse_model(model, what="it"), precision):
        return
    made = quantize(model, precision, work.calibration.rows, profile)
    work.add(f"{name}_int8_static", precision, made.model, note=made.note)


def _teach(work: Workshop, source: SourceModel, *, is_of_trees: bool) -> None:
    rows, profile = work.rows.calibration[:STUDENT_ROWS_MAX], work.request.profile
    try:
        student = distil(
            work.exam.schema, profile, rows, source.answer(rows), is_of_trees=is_of_trees
        )
        work.add("distilled", Precision.FP32, normalise(student, profile))
    except ConversionError as error:
        work.add("distilled", Precision.FP32, None, note=str(error)[:400])
