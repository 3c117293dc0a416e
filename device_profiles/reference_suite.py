"""The reference graphs and how they are timed: the same on a device and where packages are built.

The graphs are written here, so that a device needs no onnx package and every machine runs the very
same bytes; their constants come from a fixed rule, not from chance. Loading and timing are handed
in: this module knows no runtime and no clock.

Left out: what the figures mean (``calibration.py``).
"""

import struct
from collections.abc import Callable, Iterator
from statistics import median, quantiles
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from device_profiles.calibration import CALL, MEMORY, Calibration
from device_profiles.onnx_bytes import (
    FLOAT,
    INT8,
    UINT8,
    Attribute,
    Node,
    Tensor,
    Value,
    write_model,
)

Feed = tuple[int, ...]
"""Shape of the one float32 input ``x``; it is fed with what ``list_inputs`` gives."""
Call = Callable[[], object]
Load = Callable[[bytes, Feed], Call]
"""Makes of a model and the shape of its input something that runs it once; raises what it will."""

ROUNDS = 7
ROUND_S = 0.01
RUNS_MAX, RUNS_MIN = 400, 3
OPSETS = {"": 13, "ai.onnx.ml": 1}
"""Older than any profile's limits, so that every runtime of every profile runs them."""
MEMORY_BYTES = 8_388_608
_WIDTH, _LAYERS = 256, 3
_CHANNELS, _SIDE = 16, 16
_TREES, _DEPTH, _FEATURES, _TREE_ROWS = 40, 6, 16, 64


def reference_graphs() -> dict[str, tuple[bytes, Feed]]:
    """Write every graph, with the shape of its input ``x`` (float32)."""
    return {
        CALL: (_identity(), (1, 4)),
        "matmul_fp32": (_products(is_int8=False), (1, _WIDTH)),
        "matmul_int8": (_products(is_int8=True), (1, _WIDTH)),
        "conv_fp32": (_convolutions(is_int8=False), (1, _CHANNELS, _SIDE, _SIDE)),
        "conv_int8": (_convolutions(is_int8=True), (1, _CHANNELS, _SIDE, _SIDE)),
        "trees": (_trees(), (_TREE_ROWS, _FEATURES)),
    }


def measure_suite(
    load: Load,
    clock: Callable[[], float],
    *,
    onnxruntime: str,
    threads: int,
    rounds: int = ROUNDS,
    round_s: float = ROUND_S,
) -> Calibration:
    """Time every graph, round by round, and one copy of memory.

    By default that is about half a second of work on a server, some seconds on a board. The
    fastest round counts: other work on the machine only ever adds time, so fewer or shorter rounds
    give the same figures where the machine is idle. A graph that this runtime does not load is
    left out.

    Args:
        load: Makes a graph callable.
        clock: Gives seconds; never goes back.
        onnxruntime: Release that runs them.
        threads: Of one request, as ``load`` sets them.
        rounds: Of each graph, 2 or more.
        round_s: What one graph may take of a round, seconds; three runs in any case.

    Raises:
        Exception: What ``load`` raises for the graph of no work, without which nothing is known.
    """
    calls: dict[str, Call] = {}
    for name, (model, feed) in reference_graphs().items():
        try:
            calls[name] = load(model, feed)
            calls[name]()
        except Exception:  # whatever a runtime raises: this kind of work is not known here
            calls.pop(name, None)
            if name == CALL:
                raise
    calls[MEMORY] = _copy_of_memory()
    runs = {name: _plan_runs(call, clock, round_s) for name, call in calls.items()}
    found: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            found[name].append(_time(call, runs[name], clock))
    return Calibration(
        onnxruntime=onnxruntime,
        threads=threads,
        ms={name: min(times) for name, times in found.items()},
        noise={name: _spread(times) for name, times in found.items()},
    )


def list_inputs(feed: Feed) -> list[float]:
    """Give the numbers to feed a graph with, in row order."""
    count = 1
    for size in feed:
        count *= size
    values: list[float] = _numbers(count, seed=7).tolist()
    return values


def _plan_runs(call: Call, clock: Callable[[], float], round_s: float) -> int:
    once = max(1e-7, min(_time(call, 1, clock) for _ in range(RUNS_MIN)) / 1e3)
    return int(min(RUNS_MAX, max(RUNS_MIN, round_s / once)))


def _time(call: Call, runs: int, clock: Callable[[], float]) -> float:
    """Give the median milliseconds of one run."""
    times = []
    for _ in range(runs):
        began = clock()
        call()
        times.append(clock() - began)
    return max(1e-6, median(times) * 1e3)


def _spread(times: list[float]) -> float:
    low, _, high = quantiles(times, n=4)
    return (high - low) / median(times)


def _copy_of_memory() -> Call:
    source = bytes(MEMORY_BYTES)
    target = bytearray(MEMORY_BYTES)

    def copy() -> None:
        target[:] = source

    return copy


class _Ends(TypedDict):
    inputs: list[Value]
    outputs: list[Value]


def _identity() -> bytes:
    node = Node(operator="Identity", inputs=("x",), outputs=("y",))
    shape = (1, 4)
    return write_model([node], **_ends(shape, shape), opsets={"": OPSETS[""]})


def _products(*, is_int8: bool) -> bytes:
    nodes: list[Node] = []
    tensors: list[Tensor] = [*_scales()] if is_int8 else []
    at = "x"
    for layer in range(_LAYERS):
        weights = f"w{layer}"
        tensors.append(_weights(weights, (_WIDTH, _WIDTH), seed=layer + 1, is_int8=is_int8))
        left, right = _quantized(nodes, at, weights) if is_int8 else (at, weights)
        nodes.append(Node(operator="MatMul", inputs=(left, right), outputs=(f"m{layer}",)))
        at = _relu(nodes, f"m{layer}")
    _finish(nodes, at, is_int8=is_int8)
    shape = (1, _WIDTH)
    return write_model(nodes, **_ends(shape, shape), tensors=tensors, opsets={"": OPSETS[""]})


def _convolutions(*, is_int8: bool) -> bytes:
    nodes: list[Node] = []
    tensors: list[Tensor] = [*_scales()] if is_int8 else []
    at = "x"
    for layer in range(_LAYERS):
        weights = f"w{layer}"
        size = (_CHANNELS, _CHANNELS, 3, 3)
        tensors.append(_weights(weights, size, seed=layer + 1, is_int8=is_int8))
        left, right = _quantized(nodes, at, weights) if is_int8 else (at, weights)
        nodes.append(
            Node(
                operator="Conv",
                inputs=(left, right),
                outputs=(f"m{layer}",),
                attributes={"pads": [1, 1, 1, 1], "kernel_shape": [3, 3]},
            )
        )
        at = _relu(nodes, f"m{layer}")
    _finish(nodes, at, is_int8=is_int8)
    shape = (1, _CHANNELS, _SIDE, _SIDE)
    return write_model(nodes, **_ends(shape, shape), tensors=tensors, opsets={"": OPSETS[""]})


def _quantized(nodes: list[Node], activations: str, weights: str) -> tuple[str, str]:
    """Write the QDQ form, which runtimes fuse into integer arithmetic."""
    names = (f"q_{activations}", f"d_{activations}", f"d_{weights}")
    nodes += [
        Node(operator="QuantizeLinear", inputs=(activations, "sx", "zx"), outputs=names[:1]),
        Node(operator="DequantizeLinear", inputs=(names[0], "sx", "zx"), outputs=names[1:2]),
        Node(operator="DequantizeLinear", inputs=(weights, "sw", "zw"), outputs=names[2:]),
    ]
    return names[1], names[2]


def _relu(nodes: list[Node], name: str) -> str:
    nodes.append(Node(operator="Relu", inputs=(name,), outputs=(f"r_{name}",)))
    return f"r_{name}"


def _finish(nodes: list[Node], name: str, *, is_int8: bool) -> None:
    """Give the answer; a quantized layer is fused only between two quantizations."""
    if not is_int8:
        nodes.append(Node(operator="Identity", inputs=(name,), outputs=("y",)))
        return
    nodes += [
        Node(operator="QuantizeLinear", inputs=(name, "sx", "zx"), outputs=("q_y",)),
        Node(operator="DequantizeLinear", inputs=("q_y", "sx", "zx"), outputs=("y",)),
    ]


def _scales() -> Iterator[Tensor]:
    for name, value in (("sx", 0.02), ("sw", 0.01)):
        yield Tensor(name=name, element=FLOAT, shape=(), raw=struct.pack("<f", value))
    yield Tensor(name="zx", element=UINT8, shape=(), raw=bytes([0]))
    yield Tensor(name="zw", element=INT8, shape=(), raw=bytes([0]))


def _weights(name: str, shape: tuple[int, ...], *, seed: int, is_int8: bool) -> Tensor:
    count = 1
    for size in shape:
        count *= size
    values = _numbers(count, seed=seed)
    if is_int8:
        raw = np.rint(60 * values).astype(np.int8).tobytes()
        return Tensor(name=name, element=INT8, shape=shape, raw=raw)
    raw = (0.1 * values).astype("<f4").tobytes()
    return Tensor(name=name, element=FLOAT, shape=shape, raw=raw)


def _trees() -> bytes:
    """Write complete trees; node ids count within a tree, children of n are 2n+1 and 2n+2."""
    inner, count = 2**_DEPTH - 1, 2 ** (_DEPTH + 1) - 1
    numbers: list[float] = _numbers(_TREES * count, seed=11).tolist()
    ids = [n for _ in range(_TREES) for n in range(count)]
    leaves = [(tree, n) for tree in range(_TREES) for n in range(inner, count)]
    attributes: dict[str, Attribute] = {
        "n_targets": 1,
        "nodes_treeids": [tree for tree in range(_TREES) for _ in range(count)],
        "nodes_nodeids": ids,
        "nodes_featureids": [(n * 7 + 3) % _FEATURES if n < inner else 0 for n in ids],
        "nodes_modes": ["BRANCH_LEQ" if n < inner else "LEAF" for n in ids],
        "nodes_values": [
            value if n < inner else 0.0 for n, value in zip(ids, numbers, strict=True)
        ],
        "nodes_truenodeids": [2 * n + 1 if n < inner else 0 for n in ids],
        "nodes_falsenodeids": [2 * n + 2 if n < inner else 0 for n in ids],
        "target_treeids": [tree for tree, _ in leaves],
        "target_nodeids": [n for _, n in leaves],
        "target_ids": [0 for _ in leaves],
        "target_weights": [numbers[tree * count + n] for tree, n in leaves],
    }
    node = Node(
        operator="TreeEnsembleRegressor",
        inputs=("x",),
        outputs=("y",),
        attributes=attributes,
        domain="ai.onnx.ml",
    )
    return write_model([node], **_ends((_TREE_ROWS, _FEATURES), (_TREE_ROWS, 1)), opsets=OPSETS)


def _ends(taken: tuple[int, ...], given: tuple[int, ...]) -> _Ends:
    return {
        "inputs": [Value(name="x", element=FLOAT, shape=taken)],
        "outputs": [Value(name="y", element=FLOAT, shape=given)],
    }


def _numbers(count: int, *, seed: int) -> NDArray[Any]:
    """Give float64 numbers in [-1, 1) by a fixed rule (a linear congruence).

    One step is ``factor * state + term``; so are two steps at once, and four, with factors and
    terms of their own. Thus each pass doubles what is known.
    """
    factor, term, modulus = 1_103_515_245, 12_345, 2**31
    states = np.array([(factor * seed + term) % modulus], np.uint64)
    while len(states) < count:
        # Products stay below 2**62; the mask is the remainder.
        further = states * np.uint64(factor) + np.uint64(term) & np.uint64(modulus - 1)
        states = np.concatenate([states, further])
        factor, term = factor * factor % modulus, (factor * term + term) % modulus
    numbers: NDArray[Any] = states[:count] / 2.0**30 - 1.0
    return numbers
