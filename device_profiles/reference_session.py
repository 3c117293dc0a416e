"""Reference graphs in the installed onnxruntime, ready to be timed.

The one file of this package that loads numpy and onnxruntime.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
import onnxruntime

from device_profiles.reference_suite import Feed, list_inputs

_LOG_FATAL = 4


def load_graph(threads: int, model: bytes, feed: Feed) -> Callable[[], object]:
    """Return what runs a reference graph once, without spinning threads.

    Args:
        threads: Of one request.
        model: The graph, ONNX.
        feed: Shape of its input.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _LOG_FATAL
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    rows = np.array(list_inputs(feed), np.float32).reshape(feed)
    return partial(session.run, None, {"x": rows})
