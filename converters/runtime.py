"""Run a graph with onnxruntime as a device of a profile would. The home of onnxruntime here.

Threads, spinning and arena are the profile's; the log level is raised so that a refused graph
speaks through its exception only.
"""

from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper

from converters.errors import RuntimeRefusedError
from device_profiles.profile import DeviceProfile
from edge_agent.contract.image import IMAGE_INPUT
from edge_agent.contract.schema import INPUT_NAME, ModelSchema

Array = NDArray[Any]
BATCH_ROWS = 4_096
BATCH_ROWS_TEXTS = 256
"""A graph of texts holds a number for each row and term of a vocabulary."""
_LOG_FATAL = 4


class GraphRunner:
    """One loaded graph.

    Raises:
        RuntimeRefusedError: onnxruntime does not load it.
    """

    def __init__(self, model: bytes, profile: DeviceProfile, *, threads: int | None = None) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = _LOG_FATAL
        options.intra_op_num_threads = threads or profile.intra_op_threads
        options.inter_op_num_threads = 1
        options.enable_cpu_mem_arena = profile.arena
        spinning = "1" if profile.allow_spinning else "0"
        options.add_session_config_entry("session.intra_op.allow_spinning", spinning)
        try:
            self._session = onnxruntime.InferenceSession(
                model, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # its binding raises undeclared classes
            raise RuntimeRefusedError(f"onnxruntime does not load the graph: {error}") from error
        self.output_names = [output.name for output in self._session.get_outputs()]

    def run(self, rows: Array, *, batch_rows: int = BATCH_ROWS) -> dict[str, Array]:
        """Answer rows [N, width] float32, in batches; outputs by tensor name.

        Args:
            rows: To answer.
            batch_rows: Of one run.

        Raises:
            RuntimeRefusedError: The graph fails on these rows.
        """
        packed = np.ascontiguousarray(rows, np.float32)
        parts = [
            self._run_batch(packed[start : start + batch_rows])
            for start in range(0, max(1, len(packed)), batch_rows)
        ]
        return {
            name: np.concatenate([part[position] for part in parts])
            for position, name in enumerate(self.output_names)
        }

    def run_pictures(self, pictures: Array) -> dict[str, Array]:
        """Answer pictures of one size, uint8 [N, height, width, 3]; outputs by tensor name.

        Raises:
            RuntimeRefusedError: The graph fails on them.
        """
        try:
            outputs = self._session.run(None, {IMAGE_INPUT: pictures})
        except Exception as error:  # its binding raises undeclared classes
            raise RuntimeRefusedError(f"onnxruntime fails on these pictures: {error}") from error
        return dict(zip(self.output_names, outputs, strict=True))

    def bind(self, rows: Array) -> list[Callable[[], object]]:
        """Give one call a row, each answering that row alone: what latency is measured on."""
        run = self._session.run
        feeds = [{INPUT_NAME: np.ascontiguousarray(row, np.float32)[None, :]} for row in rows]
        return [partial(run, None, feed) for feed in feeds]

    def _run_batch(self, packed: Array) -> list[Array]:
        try:
            outputs: list[Array] = self._session.run(None, {INPUT_NAME: packed})
        except Exception as error:  # its binding raises undeclared classes
            raise RuntimeRefusedError(f"onnxruntime fails on these rows: {error}") from error
        return outputs


def find_batch_rows(schema: ModelSchema) -> int:
    """Tell how many rows of a schema one run may take."""
    return BATCH_ROWS_TEXTS if schema.texts else BATCH_ROWS


def watch_tensors(
    model: ModelProto,
    names: Sequence[str],
    rows: Array,
    profile: DeviceProfile,
    *,
    wide: Collection[str] = (),
) -> list[Array]:
    """Give inner float32 tensors of a graph for some rows, in the order of their names.

    Args:
        model: The graph.
        names: Of the tensors.
        rows: What is asked.
        profile: How the graph is run.
        wide: Those of them that are float64.

    Raises:
        RuntimeRefusedError: The graph does not run, or a tensor is of another type.
    """
    return open_watcher(model, names, profile, wide=wide)(rows)


def open_watcher(
    model: ModelProto,
    names: Sequence[str],
    profile: DeviceProfile,
    *,
    wide: Collection[str] = (),
) -> Callable[[Array], list[Array]]:
    """Load a graph once to watch inner tensors of several parts of the rows; see ``watch_tensors``.

    Raises:
        RuntimeRefusedError: It does not load, or a tensor is of another type.
    """
    float64, float32 = TensorProto.DOUBLE, TensorProto.FLOAT
    watched = ModelProto()
    watched.CopyFrom(model)
    own = {value.name for value in watched.graph.output}
    inner = [name for name in dict.fromkeys(names) if name != INPUT_NAME and name not in own]
    watched.graph.output.extend(
        helper.make_tensor_value_info(name, float64 if name in wide else float32, None)
        for name in inner
    )
    runner = GraphRunner(watched.SerializeToString(), profile)

    def watch(rows: Array) -> list[Array]:
        outputs = runner.run(rows)
        outputs[INPUT_NAME] = np.ascontiguousarray(rows, np.float32)
        return [outputs[name] for name in names]

    return watch


def runtime_version() -> str:
    """Name the release of onnxruntime."""
    return str(onnxruntime.__version__)
