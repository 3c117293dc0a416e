"""Channels of a network: which go together, what goes without loss, what the layers can spare."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from converters.channel_cuts import compact_channels, cut_channels, read_constant, write_constant
from converters.channel_groups import Group
from converters.channel_walk import find_groups
from converters.graph import parse_model
from converters.layer_samples import sample
from converters.normalise import normalise
from converters.runtime import GraphRunner
from converters.smaller_convolutions import Narrowing
from device_profiles.catalog import load_profile

Array = NDArray[Any]
CAMERA = load_profile("camera")
ROWS = np.random.default_rng(7).normal(size=(96, 64)).astype(np.float32)


class Net:
    """A graph of drawn weights under construction: 64 features as a picture of 8 x 8."""

    def __init__(self) -> None:
        self.random = np.random.default_rng(0)
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []
        self.last = self.add("Reshape", "features", np.array([-1, 1, 8, 8], np.int64))

    def add(self, kind: str, *inputs: Any, **attributes: Any) -> str:
        """Add a node; arrays become constants. Returns its output."""
        names = []
        for value in inputs:
            if not isinstance(value, str):
                name = f"c{len(self.constants)}"
                self.constants.append(numpy_helper.from_array(np.asarray(value), name))
                names.append(name)
            else:
                names.append(value)
        self.last = f"y{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, names, [self.last], **attributes))
        return self.last

    def draw(self, *shape: int) -> Array:
        return self.random.normal(size=shape).astype(np.float32)

    def conv(self, x: str, taken: int, made: int, size: int = 3, **attributes: Any) -> str:
        weights = self.draw(made, taken // attributes.get("group", 1), *[size] * 2)
        pads = {} if "auto_pad" in attributes else {"pads": [size // 2] * 4}
        return self.add("Conv", x, weights, self.draw(made), **{**pads, **attributes})

    def dense(self, x: str, taken: int, made: int) -> str:
        return self.add("Gemm", x, self.draw(taken, made) / np.float32(taken), self.draw(made))

    def finish(self) -> bytes:
        self.nodes[-1].output[0] = "value"
        graph = helper.make_graph(
            self.nodes,
            "net",
            [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["N", 64])],
            [helper.make_tensor_value_info("value", TensorProto.FLOAT, ["N", 3])],
            self.constants,
        )
        opset = [helper.make_opsetid("", 18)]
        return normalise(helper.make_model(graph, opset_imports=opset, ir_version=8), CAMERA)


def plain(net: Net) -> None:
    x = net.add("Relu", net.conv(net.last, 1, 6, strides=[2, 2]))
    x = net.add("MaxPool", net.conv(x, 6, 8, dilations=[2, 1]), kernel_shape=[2, 2])
    net.dense(net.add("Flatten", x), 8 * 1 * 3, 3)


def normalised_and_depthwise(net: Net) -> None:
    x = net.conv(net.last, 1, 6)
    norm = [net.draw(6), net.draw(6), net.draw(6), np.abs(net.draw(6)) + 1]
    x = net.add("PRelu", net.add("BatchNormalization", x, *norm), net.draw(6, 1, 1))
    x = net.add("Clip", net.conv(x, 6, 6, group=6), np.float32(-3), np.float32(3))
    x = net.add("AveragePool", net.conv(x, 6, 8, size=1), kernel_shape=[2, 2], strides=[2, 2])
    x = net.add("Add", x, net.draw(1, 8, 4, 4))
    x = net.add("Reshape", x, np.array([-1, 128], np.int64), allowzero=1)
    net.dense(x, 128, 3)


def residual(net: Net) -> None:
    x = net.add("Relu", net.conv(net.last, 1, 6))
    x = net.add("Add", x, net.conv(x, 6, 6))
    x = net.add("Add", net.conv(net.add("Relu", net.conv(x, 6, 8)), 8, 6), x)
    axes = np.array([2, 3], np.int64)
    x = net.add("ReduceMean", net.add("Relu", x), axes, keepdims=0)
    net.add("Add", net.add("MatMul", x, net.draw(6, 3)), net.draw(3))


def squeeze_and_excite(net: Net) -> None:
    x = net.add("HardSwish", net.conv(net.last, 1, 8))
    gate = net.conv(net.add("GlobalAveragePool", x), 8, 6, size=1)
    x = net.add("Mul", x, net.add("Sigmoid", net.conv(net.add("Relu", gate), 6, 8, size=1)))
    x = net.add("Mul", net.add("Sigmoid", x), x)
    pooled = net.add("GlobalMaxPool", net.conv(x, 8, 6, auto_pad="SAME_UPPER"))
    hidden = net.add("Tanh", net.dense(net.add("Squeeze", pooled, np.array([2, 3])), 6, 9))
    net.add("Gemm", hidden, net.draw(3, 9), net.draw(1, 3), transB=1)


NETS = [plain, normalised_and_depthwise, residual, squeeze_and_excite]


def build(design: Callable[[Net], None]) -> bytes:
    net = Net()
    design(net)
    return net.finish()


def answer(model: ModelProto | bytes, rows: Array = ROWS) -> Array:
    content = model if isinstance(model, bytes) else model.SerializeToString()
    value: Array = GraphRunner(content, CAMERA).run(rows)["value"]
    return value


def silence(model: ModelProto, group: Group, gone: list[int]) -> None:
    """Make the readers of a group multiply some of its channels with zero."""
    for cut in (cut for cut in group.cuts if cut.is_read):
        weights = np.moveaxis(read_constant(model, cut.tensor).copy(), cut.axis, 0)
        for channel in gone:
            weights[channel * cut.block : (channel + 1) * cut.block] = 0
        write_constant(model, cut.tensor, np.moveaxis(weights, 0, cut.axis))


# Which go together


@pytest.mark.parametrize("design", NETS)
def test_a_network_without_channels_answers_as_if_nobody_read_them(
    design: Callable[[Net], None],
) -> None:
    content = build(design)
    groups = find_groups(parse_model(content, what="it"))
    free = {number: group for number, group in groups.items() if not group.pinned}
    assert any(group.has_convolution for group in free.values())
    for group in free.values():
        cut, muted = (parse_model(content, what="it") for _ in range(2))
        kept = [channel for channel in range(group.channels) if channel % 3 != 1]
        silence(muted, group, [c for c in range(group.channels) if c not in kept])
        if residual is design and group.channels == 6:
            continue  # what it reads it also adds to: below
        cut_channels(cut, group, np.array(kept))
        np.testing.assert_allclose(answer(cut), answer(muted), rtol=1e-4, atol=1e-4)


def test_both_sides_of_a_sum_are_one_group() -> None:
    groups = find_groups(parse_model(build(residual), what="it"))
    assert [group.channels for group in groups.values()] == [6, 8, 3]
    whole = groups[0]
    assert len(whole.makers) == 3
    assert len(whole.readers) == 3
    model = parse_model(build(residual), what="it")
    cut_channels(model, whole, np.array([0, 2, 3]))
    assert answer(model).shape == (96, 3)


def concatenated(net: Net) -> None:
    x = net.add("Relu", net.conv(net.last, 1, 6))
    both = net.add("Concat", x, net.conv(x, 6, 6), axis=1)
    net.dense(net.add("Flatten", net.add("GlobalMaxPool", both)), 12, 3)


def shared(net: Net) -> None:
    weights = net.draw(6, 6, 3, 3)
    net.constants.append(numpy_helper.from_array(weights, "shared"))
    x = net.add("Conv", net.conv(net.last, 1, 6), "shared", pads=[1] * 4)
    x = net.add("Conv", net.add("Relu", x), "shared", pads=[1] * 4)
    net.dense(net.add("Flatten", net.add("GlobalMaxPool", x)), 6, 3)


def sorted_out(net: Net) -> None:
    x = net.add("Softmax", net.conv(net.last, 1, 6), axis=1)
    net.dense(net.add("Reshape", x, np.array([-1, 384], np.int64)), 384, 3)


@pytest.mark.parametrize(
    ("design", "reason"),
    [
        (concatenated, "6 channels: Concat reads it"),
        (shared, "6 channels: two nodes share a constant of it"),
        (sorted_out, "6 channels: Softmax reads it"),
    ],
)
def test_what_is_not_understood_stays_and_is_said(
    design: Callable[[Net], None], reason: str
) -> None:
    found = Narrowing(build(design), ROWS, CAMERA)
    assert not found.is_possible
    assert set(found.stay) == {reason}


def test_rows_mixed_by_a_reshape_pin_their_channels() -> None:
    def mixed(net: Net) -> None:
        x = net.conv(net.last, 1, 6)
        net.dense(net.add("Reshape", x, np.array([-1, 192], np.int64)), 192, 3)

    assert Narrowing(build(mixed), ROWS, CAMERA).stay == ["6 channels: Reshape reads it"]


# Without loss


def widen(content: bytes) -> bytes:
    """Give the first layer of ``plain`` copies, its second layer silent and unread channels."""
    model = parse_model(content, what="it")
    first, second, dense = (n for n in model.graph.node if n.op_type in ("Conv", "Gemm"))
    random = np.random.default_rng(1)

    def grow(name: str, change: Callable[[Array], Array]) -> None:
        write_constant(model, name, change(read_constant(model, name)).astype(np.float32))

    for name in first.input[1:]:
        grow(name, lambda one: np.concatenate([one, one[:4]]))
    grow(
        second.input[1],
        lambda one: np.concatenate(
            [
                np.concatenate([one[:, :4] * 0.25, one[:, 4:], one[:, :4] * 0.75], axis=1),
                np.zeros((5, 10, 3, 3)),
                random.normal(size=(3, 10, 3, 3)),
            ]
        ),
    )
    grow(second.input[2], lambda one: np.concatenate([one, np.zeros(5), np.ones(3)]))
    grow(
        dense.input[1],
        lambda one: np.concatenate([one, random.normal(size=(15, 3)), np.zeros((9, 3))]),
    )
    return normalise(model, CAMERA)


def test_copies_and_channels_nobody_needs_go_without_loss() -> None:
    narrow = build(plain)
    wide = widen(narrow)
    found = compact_channels(wide, ROWS, CAMERA)
    assert (found.unread, found.silent, found.copies) == (3, 5, 4)
    assert found.model is not None
    assert len(found.model) == len(narrow)
    np.testing.assert_allclose(answer(found.model), answer(wide), rtol=1e-4, atol=1e-4)
    again = compact_channels(found.model, ROWS, CAMERA)
    assert again.model is None


def test_a_channel_of_zeros_that_a_bias_lights_stays() -> None:
    model = parse_model(build(plain), what="it")
    layer = next(node for node in model.graph.node if node.op_type == "Conv")
    weights = read_constant(model, layer.input[1]).copy()
    weights[2:4] = 0
    write_constant(model, layer.input[1], weights)
    write_constant(model, layer.input[2], np.array([1, 1, 0.5, -0.5, 1, 1], np.float32))
    lit = normalise(model, CAMERA)
    found = compact_channels(lit, ROWS, CAMERA)
    assert (found.silent, found.copies) == (1, 0)  # the one below zero, which Relu puts out
    assert found.model is not None
    np.testing.assert_allclose(answer(found.model), answer(lit), rtol=1e-4, atol=1e-4)
    assert compact_channels(lit, ROWS[:0], CAMERA).model is None


# What the layers behind can spare


def test_many_channels_go_in_eights_and_where_the_layers_behind_lose_least() -> None:
    def uneven(net: Net) -> None:
        few = net.draw(4, 1, 3, 3)
        alike = (
            np.concatenate([few] * 8)
            * np.linspace(0.5, 2, 32, dtype=np.float32)[:, None, None, None]
        )
        x = net.add(
            "Relu", net.add("Conv", net.last, alike, np.zeros(32, np.float32), pads=[1] * 4)
        )
        x = net.add("Relu", net.conv(x, 32, 24))
        net.dense(net.add("Flatten", net.add("GlobalAveragePool", x)), 24, 3)

    content = build(uneven)
    small = Narrowing(content, ROWS, CAMERA).cut(0.6)
    kept = [group.channels for group in find_groups(parse_model(small, what="it")).values()]
    assert kept == [8, 24, 3]  # 4 would do for the first layer; the second spares none
    assert float(np.abs(answer(small) - answer(content)).max()) < 0.05 * float(
        answer(content).std()
    )


@pytest.mark.parametrize(
    "attributes",
    [
        {"pads": [1, 0, 2, 1], "strides": [2, 1]},
        {"dilations": [1, 2]},
        {"auto_pad": "SAME_UPPER", "strides": [3, 2]},
        {"auto_pad": "SAME_LOWER"},
        {"auto_pad": "VALID"},
    ],
)
def test_samples_of_a_convolution_are_what_it_multiplies(attributes: dict[str, Any]) -> None:
    random = np.random.default_rng(3)
    x = random.normal(size=(4, 2, 8, 8)).astype(np.float32)
    weights = random.normal(size=(5, 2, 3, 2)).astype(np.float32)
    node = helper.make_node("Conv", ["features", "w"], ["value"], **attributes)
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["N", 2, 8, 8])],
        [helper.make_tensor_value_info("value", TensorProto.FLOAT, ["N", 5, "H", "W"])],
        [numpy_helper.from_array(weights, "w")],
    )
    opset = [helper.make_opsetid("", 17)]
    made = answer(helper.make_model(graph, opset_imports=opset, ir_version=8), x)
    inputs, outputs = sample(node, weights.shape[2:], x, made, 20)
    assert inputs.shape == (20, 12)
    np.testing.assert_allclose(inputs @ weights.reshape(5, -1).T, outputs, rtol=1e-4, atol=1e-4)


def test_scaled_copies_are_spared_where_no_two_are_equal() -> None:
    """Half of the channels are another's at another size: half of them make the same network."""

    def doubled(net: Net) -> None:
        weights, bias = net.draw(8, 1, 3, 3), net.draw(8)
        sizes = np.linspace(0.3, 3, 8, dtype=np.float32)
        twice = np.concatenate([weights, weights * sizes[:, None, None, None]])
        x = net.add("Conv", net.last, twice, np.concatenate([bias, bias * sizes]), pads=[1] * 4)
        x = net.add("MaxPool", net.add("Relu", x), kernel_shape=[4, 4], strides=[4, 4])
        net.dense(net.add("Flatten", x), 16 * 4, 3)

    wide = build(doubled)
    assert compact_channels(wide, ROWS, CAMERA).model is None
    small = Narrowing(wide, ROWS, CAMERA).cut(0.5)
    assert find_groups(parse_model(small, what="it"))[0].channels == 8
    unseen = np.random.default_rng(8).normal(size=(200, 64)).astype(np.float32)
    truth = answer(wide, unseen)
    assert float(np.abs(answer(small, unseen) - truth).max()) < 0.02 * float(truth.std())


@pytest.mark.parametrize("design", NETS)
def test_every_network_gets_narrower_and_stays_near(design: Callable[[Net], None]) -> None:
    content = build(design)
    narrowing = Narrowing(content, ROWS, CAMERA)
    assert narrowing.cut(1.0) == content
    small = narrowing.cut(0.75)
    assert len(small) < len(content)
    truth, got = answer(content), answer(small)
    lost = float(np.mean((got - truth) ** 2) / np.mean((truth - truth.mean(axis=0)) ** 2))
    assert lost < 0.7


def test_the_same_rows_give_the_same_narrower_network() -> None:
    first, again = (Narrowing(build(plain), ROWS, CAMERA).cut(0.75) for _ in range(2))
    assert first == again


def test_a_layer_too_wide_to_fit_anew_gets_a_bias_that_keeps_its_mean(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    content = build(plain)
    monkeypatch.setattr("converters.smaller_convolutions.FEATURES_MAX", 20)
    small = Narrowing(content, ROWS, CAMERA).cut(0.75)
    truth = answer(content)
    np.testing.assert_allclose(
        answer(small).mean(axis=0), truth.mean(axis=0), atol=0.02 * float(truth.std())
    )
