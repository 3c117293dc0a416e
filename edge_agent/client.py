"""Ask for predictions from Python code that runs in the agent's own process.

For an application that embeds the agent: no socket, no JSON, the same slots, swaps and telemetry
as over HTTP. A program of its own asks over HTTP instead (Open Inference Protocol).

    model = LocalModel(service, "main")
    answer = model.predict(rows)          # float32 [rows, width]
    answer.outputs["label"], answer.class_names, answer.prediction_id
"""

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np

from edge_agent.adapters.inference_service import InferenceService, Prediction
from edge_agent.contract.schema import ModelSchema
from edge_agent.errors import InputError


class LocalModel:
    """One slot of the service; always asks whatever answers there now."""

    def __init__(self, service: InferenceService, slot: str) -> None:
        self._service, self._slot = service, slot
        # Not a method: one call less on the way of every request.
        self.predict = partial(service.predict, slot)
        """Answer packed rows, float32 [rows, width]; see ``InferenceService.predict``."""

    @property
    def schema(self) -> ModelSchema:
        """Inputs and outputs of what answers now; raises UnknownModelError when nothing does."""
        return self._service.find(self._slot).schema

    def predict_records(self, records: Sequence[Mapping[str, float | None]]) -> Prediction:
        """Answer rows given by column name; None is a missing value.

        Raises:
            InputError: A column is missing, unknown or not a number; and as ``predict``.
        """
        columns = self.schema.columns
        rows = np.empty((len(records), len(columns)), np.float32)
        for n, record in enumerate(records):
            if record.keys() != set(columns):
                missing = [c for c in columns if c not in record]
                unknown = [c for c in record if c not in columns]
                raise InputError(f"record {n}: missing {missing[:5]}, unknown {unknown[:5]}")
            try:
                rows[n] = [record[column] for column in columns]
            except (TypeError, ValueError) as error:
                raise InputError(f"record {n}: {error}") from error
        return self.predict(rows)
