"""Convert the members of a family: the first in full, the others by filling their numbers in.

Every so often a member is converted in full as well and compared to the byte; a difference ends
the use of the template. A member of another architecture is converted in full.
"""

from collections import deque
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converters.families.graph_template import (
    MEMBERS_MIN,
    GraphTemplate,
    find_template,
    say_why_none,
)
from converters.graph import parse_model
from converters.normalise import normalise
from converters.repairs import prepare
from converters.shrink_trees import shrink_trees
from converters.source import Conversion, SourceModel
from converters.sources import is_torch, make_source
from device_profiles.profile import DeviceProfile
from edge_agent.contract.schema import ModelSchema

Array = NDArray[Any]
CHECK_FIRST, CHECK_EVERY = 50, 200
"""Of the members that are filled in, which one is converted in full as well, and then each of."""
TRIES_MAX = 8
"""Members converted in full before a family without a template is left in peace."""
FIRST = f"the first {MEMBERS_MIN} of each process show what can be filled in"
OTHER_GRAPH = "its graph differs in more than numbers from the first ones"
OTHER_BYTES = "filled in it had other bytes; nothing is filled in any more"


class Way(StrEnum):
    """How a member's graph was made."""

    FULL = "converted"
    FILLED = "filled in"
    CHECKED = "filled in, and the same bytes as converted"


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberGraph:
    """A member's graph before quantization.

    Attributes:
        model: Normalised bytes.
        source: What it must answer like.
        conversion: How its kind is converted; a filled graph has that of the first members.
        way: How it was made.
        reason: Why it was converted in full; empty when its numbers were filled in.
    """

    model: bytes
    source: SourceModel
    conversion: Conversion
    way: Way
    reason: str = ""


class MemberConverter:
    """Converts one family for one profile in one process."""

    def __init__(self) -> None:
        self._leads: deque[tuple[Any, Any, bytes]] = deque(maxlen=MEMBERS_MIN)
        self._conversion: Conversion | None = None
        self._template: GraphTemplate | None = None
        self._is_repaired = True
        self._tries = 0
        self._filled = 0
        self._why_none = ""

    def convert(
        self, estimator: Any, schema: ModelSchema, profile: DeviceProfile, rows: Array
    ) -> MemberGraph:
        """Give a member's graph.

        Args:
            estimator: Fitted.
            schema: What goes in and comes out; the same for all members but for the names.
            profile: What the graph is for; the same for all members.
            rows: Held-out rows, in the type the model was trained on.

        Raises:
            ConversionError: As of a full conversion.
        """
        is_float32 = np.asarray(rows).dtype == np.float32
        source = make_source(estimator, schema, is_fed_float32=bool(is_float32))
        dtype = np.float32 if is_float32 else np.float64
        if self._template is None or self._conversion is None:
            full = self._convert_in_full(estimator, source, schema, profile, rows, dtype)
            return replace(full, reason=self._why_none or FIRST)
        prepared = estimator
        if self._is_repaired:
            prepared = prepare(estimator, schema, dtype).estimator
        model = self._template.render(prepared)
        if model is None:
            full = self._convert_in_full(estimator, source, schema, profile, rows, dtype)
            return replace(full, reason=OTHER_GRAPH)
        self._filled += 1
        filled = MemberGraph(
            model=model, source=source, conversion=self._conversion, way=Way.FILLED
        )
        if self._filled != CHECK_FIRST and self._filled % CHECK_EVERY:
            return filled
        full = self._convert_in_full(estimator, source, schema, profile, rows, dtype)
        if full.model == model:
            return replace(filled, way=Way.CHECKED)
        self._template, self._tries, self._why_none = None, TRIES_MAX, OTHER_BYTES
        return replace(full, reason=OTHER_BYTES)

    def _convert_in_full(
        self,
        estimator: Any,
        source: SourceModel,
        schema: ModelSchema,
        profile: DeviceProfile,
        rows: Array,
        dtype: type[np.floating[Any]],
    ) -> MemberGraph:
        conversion = source.convert(schema, profile, np.asarray(rows, np.float32))
        shrink_trees(conversion.model)
        model = normalise(conversion.model, profile)
        if is_torch(estimator):
            self._why_none = "a torch module is exported as a whole"
        elif schema.labels:
            self._why_none = "several labels a row are put together from parts"
        elif self._template is None and self._tries < TRIES_MAX:
            self._tries += 1
            self._learn(estimator, schema, dtype, conversion, model)
        return MemberGraph(model=model, source=source, conversion=conversion, way=Way.FULL)

    def _learn(
        self,
        estimator: Any,
        schema: ModelSchema,
        dtype: type[np.floating[Any]],
        conversion: Conversion,
        model: bytes,
    ) -> None:
        """Look for a template among the last members converted in full.

        Repairing costs more than filling in, so members are read as they are where that gives the
        same bytes, and repaired first where it does not.
        """
        self._conversion = conversion
        prepared = prepare(estimator, schema, dtype)
        self._leads.append((estimator, prepared.estimator, model))
        self._template = find_template([(raw, full) for raw, _, full in self._leads])
        self._is_repaired = self._template is None
        if self._is_repaired and prepared.repairs:
            self._template = find_template([(own, full) for _, own, full in self._leads])
        is_told = self._template is None and len(self._leads) == MEMBERS_MIN
        self._why_none = say_why_none(prepared.estimator) if is_told else ""


class FilledSource:
    """A source whose graph is there already."""

    def __init__(self, graph: MemberGraph) -> None:
        self._graph = graph
        self.name = graph.source.name
        self.answer, self.index_targets = graph.source.answer, graph.source.index_targets

    def convert(
        self, schema: ModelSchema, profile: DeviceProfile, rows: Array | None = None
    ) -> Conversion:
        """Give the graph."""
        del schema, profile, rows
        model = parse_model(self._graph.model, what="the member's graph")
        conversion = replace(self._graph.conversion, model=model)
        if self._graph.way is Way.FULL:
            return conversion
        return replace(conversion, tries=())  # they tell of another member's rows
