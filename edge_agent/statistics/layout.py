"""Where each counter of a window stands; the reference alone decides it.

Order: per watched column its bins, ``missing``, ``outside`` · answers · 16 latency bins ·
errors, rejected rows, non-finite outputs, one spare. Device and server derive the same layout
from the same ``reference.json``; nothing of it travels.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_agent.statistics.reference import (
    BINS_MAX,
    ClassOutputReference,
    LabelsOutputReference,
    Reference,
    TargetsOutputReference,
)

_TAIL = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class CounterLayout:
    """Slices into the int64 counter vector.

    Attributes:
        features: One slice a watched column: its bins, then missing, then outside.
        output: Answers, as in the reference's output counts.
        latency: One more than the latency edges; counts requests, not rows.
        errors: Index of failed requests.
        rejected: Index of rows refused before the model saw them.
        non_finite: Index of rows whose answer was not a number or no known class.
        size: Length of the vector.
    """

    features: tuple[slice, ...]
    output: slice
    latency: slice
    errors: int
    rejected: int
    non_finite: int
    size: int

    @classmethod
    def of(cls, reference: Reference) -> "CounterLayout":
        """Derive the layout."""
        at, features = 0, []
        for feature in reference.features:
            features.append(slice(at, at + len(feature.counts)))
            at += len(feature.counts)
        output = slice(at, at + len(reference.output.counts))
        latency = slice(output.stop, output.stop + len(reference.latency_edges_ms) + 1)
        tail = latency.stop
        return cls(
            features=tuple(features),
            output=output,
            latency=latency,
            errors=tail,
            rejected=tail + 1,
            non_finite=tail + 2,
            size=tail + _TAIL,
        )


def answer_mix(reference: Reference, output_counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Sum the answers' counters over confidence: rows a class, or rows a value bin.

    Args:
        reference: Fixes the shape.
        output_counts: The ``output`` slice of a window, or the reference's own counts.
    """
    if isinstance(reference.output, ClassOutputReference):
        mix: NDArray[np.int64] = output_counts.reshape(len(reference.output.classes), -1).sum(1)
        return mix
    return output_counts


def answer_mixes(
    reference: Reference, output_counts: NDArray[np.int64]
) -> Mapping[str, NDArray[np.int64]]:
    """Give the mix of each of several answers by its name; else the only one, without a name."""
    output = reference.output
    if isinstance(output, LabelsOutputReference):
        each = zip(output.labels, output.slices, strict=True)
        return {
            label.name: output_counts[place].reshape(-1, BINS_MAX).sum(1) for label, place in each
        }
    if isinstance(output, TargetsOutputReference):
        named = zip(output.targets, output.slices, strict=True)
        return {target.name: output_counts[place] for target, place in named}
    return {"": answer_mix(reference, output_counts)}
