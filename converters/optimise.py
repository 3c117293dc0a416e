"""The graph as onnxruntime would rewrite it at load time, written down beforehand.

The rewriting is worth its load time alone: a device does it all the same when it loads fp32. Only
portable results are kept. The level "extended" fuses nodes into operators of onnxruntime's own
domain, which a package may not hold, and the level "all" bakes in layouts of this processor: so
"extended" is tried and, where it fuses so, "basic" takes its place.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import onnxruntime

from converters.graph import iterate_nodes, parse_model
from converters.normalise import normalise
from device_profiles.profile import DeviceProfile
from edge_agent.contract.onnx_check import DOMAINS

_LEVELS = (
    ("extended", onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED),
    ("basic", onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC),
)
_LOG_FATAL = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Optimised:
    """The outcome.

    Attributes:
        model: Normalised bytes; None when there is no portable graph that differs.
        note: Why there is none.
        level: How far onnxruntime went.
        foreign: Operators that kept a higher level out.
    """

    model: bytes | None
    note: str = ""
    level: str = ""
    foreign: tuple[str, ...] = ()


def optimise(fp32: bytes, profile: DeviceProfile) -> Optimised:
    """Let onnxruntime rewrite the normalised fp32 graph as far as the result stays portable."""
    foreign: tuple[str, ...] = ()
    for level, code in _LEVELS:
        try:
            model = parse_model(_rewrite(fp32, code), what="the optimised graph")
            strange = sorted(
                {f"{n.domain}:{n.op_type}" for n in iterate_nodes(model) if n.domain not in DOMAINS}
            )
            if strange:
                foreign = tuple(strange)
                continue
            small = normalise(model, profile)
        except Exception as error:  # noqa: BLE001 - its binding raises undeclared classes
            return Optimised(model=None, note=f"onnxruntime's optimiser fails: {str(error)[:200]}")
        if small == fp32:
            said = f" but for {', '.join(foreign)}, which is not portable" if foreign else ""
            return Optimised(model=None, note=f"the optimiser finds nothing{said}", foreign=foreign)
        return Optimised(model=small, level=level, foreign=foreign)
    return Optimised(
        model=None, note=f"the optimiser writes {', '.join(foreign)}: not portable", foreign=foreign
    )


def _rewrite(fp32: bytes, level: onnxruntime.GraphOptimizationLevel) -> bytes:
    with tempfile.TemporaryDirectory(prefix="edge-convert-") as directory:
        path = Path(directory) / "optimised.onnx"
        options = onnxruntime.SessionOptions()
        options.log_severity_level = _LOG_FATAL
        options.intra_op_num_threads = 1
        options.graph_optimization_level = level
        options.optimized_model_filepath = str(path)
        onnxruntime.InferenceSession(fp32, options, providers=["CPUExecutionProvider"])
        return path.read_bytes()
