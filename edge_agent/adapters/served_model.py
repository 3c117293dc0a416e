"""One package answering in one slot, and its answers.

A request finishes on the model it began with, whatever takes over meanwhile. The way of a request
takes no lock but the recorder's.
"""

import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_agent.adapters.input_ranges import InputRanges
from edge_agent.adapters.onnx_model_runner import LoadedModel
from edge_agent.adapters.telemetry_recorder import TelemetryRecorder
from edge_agent.contract.schema import INPUT_NAME, Role
from edge_agent.errors import InferenceError, InputError, words_of

if TYPE_CHECKING:
    from edge_agent.adapters.shadow_run import ShadowTap

ROWS_PER_REQUEST_MAX = 4_096
_FLOAT32 = np.dtype(np.float32)


class Prediction(NamedTuple):
    """One answer; a named tuple, because it is built in a fraction of a microsecond.

    Attributes:
        values: Output tensors in the order of the schema.
        served: What answered.
        number: Counts the predictions of the slot within this boot from 0.
    """

    values: Sequence[NDArray[Any]]
    served: "ServedModel"
    number: int

    @property
    def outputs(self) -> dict[str, NDArray[Any]]:
        """The output tensors by name."""
        return dict(zip(self.served.output_names, self.values, strict=True))

    @property
    def class_names(self) -> list[str]:
        """Names of the predicted classes; empty for a regression."""
        names = self.served.schema.classes
        return [names[n] for n in self.outputs[Role.LABEL]] if names else []

    @property
    def target(self) -> str:
        """Target path of the package that answered."""
        return self.served.target

    @property
    def prediction_id(self) -> str:
        """Unique name of this answer, for a label that becomes known later."""
        return f"{self.served.id_prefix}-{self.number:x}"


class ServedModel:
    """One package answering in one slot."""

    def __init__(
        self,
        slot: str,
        target: str,
        model: LoadedModel,
        recorder: TelemetryRecorder,
        numbers: Iterator[int],
        id_prefix: str,
    ) -> None:
        self.slot, self.target = slot, target
        self.model_name, self.version = target.split("/")[:2]
        self.sha256, self.schema = model.sha256, model.schema
        self.id_prefix = id_prefix
        self.latency_ms_last = model.warm_up_ms
        self.batch_gain = model.batch_gain
        self.swaps = 0
        """How often another package answered in this slot before this one."""
        self.recorder = recorder
        self.output_names = model.output_names
        self._session_run = model.session_run
        self._one_row, self._numbers = (1, model.width), numbers
        self.tap: ShadowTap | None = None
        """Sees what is asked and answered while a candidate is compared with this one."""
        self._ranges = InputRanges(model.schema)

    def predict(self, features: NDArray[Any]) -> Prediction:
        """Answer rows; see ``InferenceService.predict``."""
        if features.dtype is not _FLOAT32 or features.shape != self._one_row:
            _check_tensor(features, self._one_row[1])
        began = time.perf_counter()
        try:
            values = self._session_run(self.output_names, {INPUT_NAME: features}, None)
        except Exception as error:
            self.recorder.record_error((time.perf_counter() - began) * 1e3)
            raise InferenceError(
                f"{self.target} failed on {len(features)} rows: {words_of(error)}"
            ) from error
        self.latency_ms_last = latency_ms = (time.perf_counter() - began) * 1e3
        number = next(self._numbers)
        self.recorder.record(features, values, latency_ms, number)
        tap = self.tap
        if tap is not None:
            tap.offer(features, values, latency_ms)
        return Prediction(values, self, number)

    def predict_many(self, parts: Sequence[NDArray[Any]]) -> list[Prediction]:
        """Answer several requests in one run; each is counted and named like one of its own.

        Args:
            parts: As ``predict`` takes them, checked; together at most ROWS_PER_REQUEST_MAX rows.

        Raises:
            InferenceError: The runtime failed; nothing was counted, so ask for each alone.
        """
        began = time.perf_counter()
        try:
            values = self._session_run(self.output_names, {INPUT_NAME: np.concatenate(parts)}, None)
        except Exception as error:
            raise InferenceError(f"{self.target} failed on {len(parts)} requests") from error
        latency_ms = (time.perf_counter() - began) * 1e3
        self.latency_ms_last = latency_ms / len(parts)
        predictions, first, tap = [], 0, self.tap
        for part in parts:
            own = [array[first : first + len(part)] for array in values]
            first += len(part)
            number = next(self._numbers)
            self.recorder.record(part, own, latency_ms, number)
            if tap is not None:
                tap.offer(part, own, latency_ms)
            predictions.append(Prediction(own, self, number))
        return predictions

    def check_ranges(self, features: NDArray[Any]) -> None:
        """Refuse rows that the schema does not allow, and count them as rejected.

        Raises:
            InputError: Names the first such row, its feature, value and what is allowed.
        """
        fault = self._ranges.find_fault(features)
        if fault:
            self.recorder.record_rejected(len(features))
            raise InputError(fault)


def _check_tensor(features: NDArray[np.float32], width: int) -> None:
    """Refuse what is not float32 [1 to ROWS_PER_REQUEST_MAX, width]; raises InputError."""
    if features.dtype != _FLOAT32 or features.shape[1:] != (width,):
        raise InputError(
            f"features must be float32 [rows, {width}], got {features.dtype} {list(features.shape)}"
        )
    if not 1 <= len(features) <= ROWS_PER_REQUEST_MAX:
        raise InputError(f"{len(features)} rows, a request takes 1 to {ROWS_PER_REQUEST_MAX}")
