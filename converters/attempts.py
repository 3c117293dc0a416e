"""Try ways to convert in order and keep the first that answers as the source does.

Every way is compared with the source on the held-out rows; none is believed. When no way is exact
the nearest is kept, and the limits of the build decide about it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from converters.errors import ConversionError, RuntimeRefusedError
from converters.normalise import normalise
from converters.opsets import bring_down
from converters.parity import compare_outputs
from converters.runtime import GraphRunner, find_batch_rows
from converters.source import Conversion, Try
from device_profiles.profile import DeviceProfile
from edge_agent.contract.outputs import NamedLabel, slice_labels
from edge_agent.contract.schema import ModelSchema, Role, Task

Array = NDArray[Any]
PLAIN = "plain"
TIE = 1e-6
"""Two best probabilities this near are one place shared: votes of few members may be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """One way to convert.

    Attributes:
        name: What is done; ``plain`` when nothing is.
        make: Give the graph; raises ConversionError.
    """

    name: str
    make: Callable[[], ModelProto]


def convert_in_turn(
    ways: Sequence[Way],
    schema: ModelSchema,
    profile: DeviceProfile,
    rows: Array | None,
    truth: Callable[[Array], Mapping[str, Array]],
    *,
    is_detector: bool = False,
) -> Conversion:
    """Give the first exact conversion, else the nearest.

    Args:
        ways: In the order to try; one at least.
        schema: What goes in and comes out.
        profile: What the graph is for.
        rows: Held-out rows; None takes the first way that gives a graph.
        truth: The source's answers to rows.
        is_detector: Whether the sign of the value is a verdict.

    Raises:
        ConversionError: No way gives a graph; what the first said.
    """
    tries: list[Try] = []
    best: tuple[tuple[int, int, float], ModelProto, Try] | None = None
    refusal: ConversionError | None = None
    wanted: Mapping[str, Array] | None = None
    for way in ways:
        try:
            brought = bring_down(way.make(), profile)
            model, name = brought.model, _name(way.name, brought.change)
            runner = GraphRunner(normalise(model, profile), profile)
            if rows is None:
                return Conversion(model=model, repairs=_sentences(name))
            got = runner.run(rows, batch_rows=find_batch_rows(schema))
            wanted = truth(rows) if wanted is None else wanted
            _check_shapes(wanted, got)
        except ConversionError as error:
            refusal = refusal or error
            tries.append(Try(way=way.name, note=str(error)[:500]))
            continue
        done = measure_try(
            name, schema.task, wanted, got, is_detector=is_detector, labels=schema.labels
        )
        tries.append(done)
        rank = (done.flips, done.rows_off, done.max_abs_error)
        if best is None or rank < best[0]:
            best = rank, model, done
        if done.is_exact:
            break
    if best is None:
        raise refusal or ConversionError("there is no way to convert")
    _, model, done = best
    return Conversion(model=model, repairs=_sentences(done.way), tries=tuple(tries))


def measure_try(
    way: str,
    task: Task,
    truth: Mapping[str, Array],
    got: Mapping[str, Array],
    *,
    is_detector: bool = False,
    labels: Sequence[NamedLabel] = (),
) -> Try:
    """Compare one graph's answers with the source's; ``labels`` are those of a row of several."""
    parity = compare_outputs(task, truth, got)
    flips = parity.flips
    if task is Task.CLASSIFICATION and flips:
        shares = np.asarray(truth[Role.PROBABILITIES], np.float64)
        columns = slice_labels(labels) or (slice(None),)
        best = [np.sort(shares[:, own], axis=1)[:, -2:] for own in columns]
        is_tie = np.stack([two[:, -1] - two[:, 0] < TIE for two in best], axis=1)
        differs = np.asarray(truth[Role.LABEL]) != np.asarray(got[Role.LABEL])
        flips = int((differs.reshape(len(shares), -1) & ~is_tie).any(axis=1).sum())
    elif is_detector:
        flips = count_verdicts(truth, got)
    return Try(
        way=way,
        rows=parity.rows,
        flips=flips,
        rows_off=parity.rows_off,
        max_abs_error=parity.max_abs_error,
    )


def count_verdicts(truth: Mapping[str, Array], got: Mapping[str, Array]) -> int:
    """Count rows that a detector takes for outliers on one side only, but for those at the edge."""
    wanted, given = np.asarray(truth[Role.VALUE], np.float64), np.asarray(got[Role.VALUE])
    return int(np.sum(((wanted < 0) != (given < 0)) & (np.abs(wanted) > TIE)))


def _check_shapes(wanted: Mapping[str, Array], got: Mapping[str, Array]) -> None:
    for name, values in wanted.items():
        if values.shape != got[name].shape:
            raise RuntimeRefusedError(
                f"the graph answers {name} of shape {got[name].shape}, the model {values.shape}"
            )


def with_repairs(conversion: Conversion, repairs: Sequence[str]) -> Conversion:
    """Put what was changed beforehand before what was chosen."""
    return replace(conversion, repairs=(*repairs, *conversion.repairs))


def _name(way: str, change: str) -> str:
    """Name a way with what was done to come to the profile's operator sets."""
    return "; ".join(part for part in ((way if way != PLAIN else ""), change) if part) or PLAIN


def _sentences(way: str) -> tuple[str, ...]:
    return () if way == PLAIN else (way,)
