"""Put the way from a picture to the packed tensor into a graph, as standard operators.

uint8 RGB pixels of any size are resized, brought into the model's colours and order, scaled and
packed. The same graph answers four figures of the picture for telemetry, taken after the resizing.
Measured (tests/integration/test_conversion_images.py): ``bilinear_smooth`` is Pillow's BILINEAR
but for its rounding to whole numbers, and torch's bilinear with antialias; ``bilinear`` is torch's
without; ``nearest`` is Pillow's NEAREST and torch's nearest-exact, but where the place asked for
lies on the edge between two pixels.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnx.version_converter
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper
from onnx.helper import make_node, make_tensor_value_info

from converters.errors import InvalidRequestError
from converters.graph import list_input_names, rename_tensor
from converters.runtime import GraphRunner
from device_profiles.profile import DeviceProfile
from edge_agent.contract.image import (
    FIGURES,
    FIGURES_OUTPUT,
    IMAGE_CHANNELS,
    IMAGE_INPUT,
    ColourOrder,
    ImageInput,
    ResizeMode,
)
from edge_agent.contract.schema import INPUT_NAME

OPSET = 18
"""The first whose Resize can smooth."""
IR = 8
_LUMA = (0.299, 0.587, 0.114)
_PREFIX = "image/"


def add_image_front(model: ModelProto, image: ImageInput) -> None:
    """Let a graph of packed pixels take pictures, and answer their figures as well.

    Args:
        model: Its only input is ``features`` float32 [N, height * width * channels]: pixels after
            scale, mean and deviation, in the order ``image`` says. Changed in place.
        image: What the graph does to a picture.

    Raises:
        InvalidRequestError: The graph has another input, or cannot be brought to operator set 18.
    """
    names = list_input_names(model.graph)
    if names != [INPUT_NAME]:
        raise InvalidRequestError(f"the graph takes {names}, needs {INPUT_NAME!r} alone")
    _raise_opset(model)
    rename_tensor(model, INPUT_NAME, f"{_PREFIX}packed")
    front = _Front(image)
    inner = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*front.nodes, *inner])
    model.graph.initializer.extend(front.constants)
    del model.graph.input[:]
    model.graph.input.append(
        make_tensor_value_info(IMAGE_INPUT, TensorProto.UINT8, ["N", "H", "W", IMAGE_CHANNELS])
    )
    model.graph.output.append(
        make_tensor_value_info(FIGURES_OUTPUT, TensorProto.FLOAT, ["N", len(FIGURES)])
    )


def make_front(image: ImageInput) -> ModelProto:
    """Give the front alone: pictures to ``features`` and ``figures``."""
    width = image.height * image.width * image.channels
    inner = onnx.helper.make_graph(
        [make_node("Identity", [INPUT_NAME], ["pixels"])],
        "front",
        [make_tensor_value_info(INPUT_NAME, TensorProto.FLOAT, ["N", width])],
        [make_tensor_value_info("pixels", TensorProto.FLOAT, ["N", width])],
    )
    model = onnx.helper.make_model(
        inner, opset_imports=[onnx.helper.make_opsetid("", OPSET)], ir_version=IR
    )
    add_image_front(model, image)
    return model


def pack_pictures(
    pictures: Sequence[NDArray[np.uint8]], image: ImageInput, profile: DeviceProfile
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Give the packed rows and the figures of pictures, as the graph itself makes them.

    Args:
        pictures: Each uint8 [height, width, 3], of any size.
        image: What the graph does to a picture.
        profile: Runs the front with its threads.

    Raises:
        InvalidRequestError: No picture, or one that is not of that kind or too large.
    """
    if not len(pictures):
        raise InvalidRequestError("no pictures were given")
    packer = PicturePacker(image, profile)
    packed = [packer.pack(picture) for picture in pictures]
    return np.stack([row for row, _ in packed]), np.stack([figures for _, figures in packed])


class PicturePacker:
    """The front alone, loaded once; any number of threads may ask it.

    Args:
        image: What the graph does to a picture.
        profile: Runs the front with its threads.
        threads: Of one picture, instead of the profile's.
    """

    def __init__(
        self, image: ImageInput, profile: DeviceProfile, *, threads: int | None = None
    ) -> None:
        front = make_front(image).SerializeToString()
        self._image, self._runner = image, GraphRunner(front, profile, threads=threads)

    def pack(self, picture: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Give the packed row and the figures of one picture; raises as ``check_picture``."""
        answer = self._runner.run_pictures(check_picture(picture, self._image)[None])
        return answer["pixels"][0], answer[FIGURES_OUTPUT][0]


def check_picture(picture: Any, image: ImageInput) -> NDArray[np.uint8]:
    """Check one picture; raises InvalidRequestError."""
    array: NDArray[Any] = np.asarray(picture)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != IMAGE_CHANNELS:
        raise InvalidRequestError(
            f"a picture is uint8 [height, width, {IMAGE_CHANNELS}], got {array.dtype}"
            f" {list(array.shape)}"
        )
    if not 0 < array.shape[0] * array.shape[1] <= image.pixels_max:
        raise InvalidRequestError(
            f"a picture has {array.shape[0]} x {array.shape[1]} pixels, the limit is"
            f" {image.pixels_max}"
        )
    return array


def _raise_opset(model: ModelProto) -> None:
    """Bring a graph of an older operator set to the one the front needs, in place."""
    opset = next((entry.version for entry in model.opset_import if entry.domain == ""), 0)
    if not opset:
        model.opset_import.append(onnx.helper.make_opsetid("", OPSET))
    if not 0 < opset < OPSET:
        return
    try:
        newer = onnx.version_converter.convert_version(model, OPSET)
    except Exception as error:  # its binding raises undeclared classes
        raise InvalidRequestError(
            f"the graph has operator set {opset}, pictures need {OPSET}: {error}"
        ) from error
    model.CopyFrom(newer)


class _Front:
    """Nodes and constants from ``image`` to the packed tensor and the figures."""

    def __init__(self, image: ImageInput) -> None:
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []
        resized = self._resize(image)
        luma = self._sum_channels(resized)
        self._figure(resized, luma, image)
        pixels = self._normalise(self._recolour(resized, luma, image), image)
        if not image.is_channels_first:
            pixels = self._node("Transpose", pixels, perm=[0, 2, 3, 1])
        shape = self._constant("flat", np.array([0, -1], np.int64))
        self._node("Reshape", pixels, shape, output=f"{_PREFIX}packed")

    def _constant(self, name: str, value: NDArray[Any]) -> str:
        full = f"{_PREFIX}{name}"
        self.constants.append(numpy_helper.from_array(value, full))
        return full

    def _node(self, kind: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        output = output or f"{_PREFIX}{len(self.nodes)}"
        self.nodes.append(make_node(kind, list(inputs), [output], name=output, **attributes))
        return output

    def _resize(self, image: ImageInput) -> str:
        pixels = self._node("Cast", IMAGE_INPUT, to=TensorProto.FLOAT)
        planes = self._node("Transpose", pixels, perm=[0, 3, 1, 2])
        kept = self._node("Shape", planes, start=0, end=2)
        size = self._constant("size", np.array([image.height, image.width], np.int64))
        sizes = self._node("Concat", kept, size, axis=0)
        how: dict[str, Any] = {"coordinate_transformation_mode": "half_pixel", "mode": "linear"}
        if image.resize is ResizeMode.NEAREST:
            how |= {"mode": "nearest", "nearest_mode": "round_prefer_ceil"}
        elif image.resize is ResizeMode.BILINEAR_SMOOTH:
            # Without it, pixels beyond the border would weigh as copies of those at it.
            how |= {"antialias": 1, "exclude_outside": 1}
        return self._node("Resize", planes, "", "", sizes, **how)

    def _sum_channels(self, planes: str) -> str:
        weights = self._constant("luma", np.array(_LUMA, np.float32).reshape(1, 3, 1, 1))
        axis = self._constant("channel", np.array([1], np.int64))
        return self._node("ReduceSum", self._node("Mul", planes, weights), axis, keepdims=1)

    def _figure(self, planes: str, luma: str, image: ImageInput) -> None:
        axes = self._constant("grid", np.array([1, 2, 3], np.int64))
        axis = f"{_PREFIX}channel"

        def mean(name: str) -> str:
            return self._node("ReduceMean", name, axes, keepdims=0)

        brightness = mean(luma)
        square = mean(self._node("Mul", luma, luma))
        variance = self._node("Sub", square, self._node("Mul", brightness, brightness))
        contrast = self._node("Sqrt", self._node("Relu", variance))
        most = self._node("ReduceMax", planes, axis, keepdims=1)
        least = self._node("ReduceMin", planes, axis, keepdims=1)
        saturation = mean(self._node("Sub", most, least))
        steps = [
            mean(self._node("Abs", self._difference(luma, place, size)))
            for place, size in ((2, image.height), (3, image.width))
        ]
        sharpness = self._node("Mean", *steps)
        ends = self._constant("each", np.array([1], np.int64))
        columns = [
            self._node("Unsqueeze", name, ends)
            for name in (brightness, contrast, saturation, sharpness)
        ]
        joined = self._node("Concat", *columns, axis=1)
        full = self._constant("full", np.array(255, np.float32))
        self._node("Div", joined, full, output=FIGURES_OUTPUT)

    def _difference(self, luma: str, place: int, size: int) -> str:
        """Give the differences of neighbours along a side."""
        axes = self._constant(f"side{place}", np.array([place], np.int64))
        first, last, one, end = (
            self._constant(f"{name}{place}", np.array([at], np.int64))
            for name, at in (("first", 0), ("last", size - 1), ("one", 1), ("end", size))
        )
        left = self._node("Slice", luma, first, last, axes)
        return self._node("Sub", self._node("Slice", luma, one, end, axes), left)

    def _recolour(self, planes: str, luma: str, image: ImageInput) -> str:
        if image.colours is ColourOrder.GREY:
            return luma
        if image.colours is ColourOrder.RGB:
            return planes
        order = self._constant("bgr", np.array([2, 1, 0], np.int64))
        return self._node("Gather", planes, order, axis=1)

    def _normalise(self, planes: str, image: ImageInput) -> str:
        channels = image.channels
        mean = np.array(image.mean or [0.0] * channels)
        deviation = np.array(image.deviation or [1.0] * channels)
        shape = (1, channels, 1, 1)
        factor = (image.scale / deviation).astype(np.float32).reshape(shape)
        offset = (-mean / deviation).astype(np.float32).reshape(shape)
        scaled = self._node("Mul", planes, self._constant("factor", factor))
        return self._node("Add", scaled, self._constant("offset", offset))
