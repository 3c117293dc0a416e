"""Open a network that is to take pictures: what it sees is read off its input, or said.

Its input may be [N, channels, height, width], [N, height, width, channels], or packed rows
[N, width] of which somebody says the size. The source that comes of it takes packed pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx

from converters.answers import find_classes, find_last_step
from converters.errors import InvalidRequestError
from converters.file_requests import FileSource, schema_of
from converters.from_file import ForeignModel, describe_model, find_kind
from converters.from_onnx import OnnxSource
from converters.graph import (
    find_producer,
    fresh_name,
    list_input_names,
    parse_foreign,
    tensor_shape,
    tensor_type,
)
from converters.interface import unpack_rows
from converters.source_files import is_graph, is_package, load_estimator, read_file
from device_profiles.profile import DeviceProfile
from edge_agent.contract.image import ColourOrder, ImageInput, ResizeMode
from edge_agent.contract.schema import WIDTH_MAX, Feature

Shape = tuple[int | None, ...]
_CHANNELS = (1, 3)
_LINEAR = frozenset({"Add", "Conv", "Gemm", "LogSoftmax", "MatMul"})
"""What no graph of probabilities ends with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureWishes:
    """What the user says of the pictures; all else is read off the network.

    Attributes:
        size: Height and width the network sees; None where its input says so.
        is_channels_first: None where its input says so.
        colours: None takes grey for one channel and RGB for three.
        resize: How another size becomes the network's.
        mean: Of each channel, after the scale.
        deviation: Of each channel.
        scale: What 0 to 255 is multiplied with first.
        pixels_max: Largest picture, here and on devices.
        classes: In the order of the network's answers; empty takes the sorted labels.
    """

    size: tuple[int, int] | None = None
    is_channels_first: bool | None = None
    colours: ColourOrder | None = None
    resize: ResizeMode = ResizeMode.BILINEAR_SMOOTH
    mean: tuple[float, ...] = ()
    deviation: tuple[float, ...] = ()
    scale: float = 1 / 255
    pixels_max: int = 16_777_216
    classes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureSource:
    """A source of packed pixels and how pictures become them.

    Attributes:
        source: The model.
        image: What goes before it.
        notes: What was done to it, one sentence each.
    """

    source: FileSource
    image: ImageInput
    notes: tuple[str, ...] = ()


def open_picture_source(
    path: Path,
    wishes: PictureWishes,
    labels: Sequence[str],
    *,
    is_value: bool = False,
    name: str,
    profile: DeviceProfile,
) -> PictureSource:
    """Read a network.

    Args:
        path: A ``.onnx``, ``.pt2``, ``.skops``, ``.lgb``, ``.ubj`` or ``.json`` file.
        wishes: What the user says.
        labels: Of the pictures, in any order.
        is_value: Whether labels may be numbers to be answered, if the model answers one.
        name: Model name of the schema.
        profile: A foreign source runs with its threads.

    Raises:
        InvalidRequestError: Not such a network, or it has other classes than the pictures.
    """
    classes = wishes.classes or tuple(sorted(set(labels)))
    if is_package(path):
        raise InvalidRequestError(f"{path.name} is a package; give the model it was made of")
    if is_graph(path):
        return _open_graph(path, wishes, classes, is_value=is_value, name=name, profile=profile)
    kind = find_kind(path)
    if kind is not None:
        content = read_file(path)
        facts = describe_model(content, kind)
        image = find_image(facts.shape or (facts.width,), wishes)
        classes = () if facts.classes == 0 and is_value else classes
        if facts.classes or len(classes) != 2:
            _check_classes(classes, facts.classes, path.name)
        schema = schema_of(name, (_pixels(image),), classes)
        model = ForeignModel(content, schema, profile, kind=kind)
        source = FileSource(model=model, schema=schema, labels=tuple(range(len(classes))))
        return PictureSource(source=source, image=image)
    estimator = load_estimator(path)
    width = int(getattr(estimator, "n_features_in_", 0))
    image = find_image((width,), wishes)
    found = find_classes(find_last_step(estimator))
    own = () if found is None else tuple(found.tolist())
    classes = wishes.classes or tuple(str(label) for label in own)
    _check_classes(classes, len(own), path.name)
    is_bare = bool(own) and not hasattr(estimator, "predict_proba")
    schema = schema_of(name, (_pixels(image),), classes, is_label_only=is_bare)
    return PictureSource(source=FileSource(model=estimator, schema=schema, labels=own), image=image)


def find_image(shape: Shape, wishes: PictureWishes) -> ImageInput:
    """Tell what a network sees from the shape of one row of its input.

    Args:
        shape: Without the number of rows; None where a side is open.
        wishes: What the user says; must not contradict.

    Raises:
        InvalidRequestError: It is no picture's, or does not say enough.
        ContractError: A size, mean or deviation is out of range.

    >>> find_image((3, 32, 24), PictureWishes()).width
    24
    >>> find_image((8, 8, 1), PictureWishes()).colours
    <ColourOrder.GREY: 'grey'>
    """
    height, width, channels, is_first = _read_shape(shape, wishes)
    if height * width * channels > WIDTH_MAX:
        raise InvalidRequestError(
            f"the network sees {height} x {width} x {channels} numbers, the limit is {WIDTH_MAX}"
        )
    colours = wishes.colours or (ColourOrder.GREY if channels == 1 else ColourOrder.RGB)
    image = ImageInput(
        height=height,
        width=width,
        colours=colours,
        is_channels_first=is_first,
        resize=wishes.resize,
        pixels_max=wishes.pixels_max,
        mean=wishes.mean,
        deviation=wishes.deviation,
        scale=wishes.scale,
    )
    if image.channels != channels:
        raise InvalidRequestError(
            f"the network sees {channels} channels, {colours} has {image.channels}"
        )
    return image


def _read_shape(shape: Shape, wishes: PictureWishes) -> tuple[int, int, int, bool]:
    if len(shape) == 1:
        return _read_flat(shape[0], wishes)
    is_first = wishes.is_channels_first
    if len(shape) == 2:
        shape, is_first = (1, *shape), True
    if len(shape) != 3:
        raise InvalidRequestError(f"the network takes {_say_shape(shape)}, which is no picture")
    if is_first is None:
        if shape[0] not in _CHANNELS and shape[2] not in _CHANNELS:
            raise InvalidRequestError(
                f"the network takes {_say_shape(shape)}: neither the first nor the last is 1 or 3"
                " channels"
            )
        is_first = shape[0] in _CHANNELS
    channels, sides = (shape[0], shape[1:]) if is_first else (shape[2], shape[:2])
    if channels not in _CHANNELS:
        raise InvalidRequestError(
            f"the network takes {_say_shape(shape)}, {channels or 'open'} channels; pictures have"
            " 1 or 3"
        )
    given = wishes.size or (None, None)
    found = [side if side is not None else said for side, said in zip(sides, given, strict=True)]
    if wishes.size is not None and tuple(found) != wishes.size:
        raise InvalidRequestError(
            f"the network sees {found[0]} x {found[1]}, --picture-size says {given[0]} x {given[1]}"
        )
    height, width = found
    if height is None or width is None:
        raise InvalidRequestError(
            "the network takes pictures of any size; say which one it shall see: --picture-size"
            " HEIGHTxWIDTH"
        )
    return height, width, channels, is_first


def _read_flat(width: int | None, wishes: PictureWishes) -> tuple[int, int, int, bool]:
    if wishes.size is None or width is None:
        raise InvalidRequestError(
            f"the model takes rows of {width or 'any number of'} numbers; say which picture they"
            " are: --picture-size HEIGHTxWIDTH"
        )
    pixels = wishes.size[0] * wishes.size[1]
    channels, rest = divmod(width, pixels)
    if rest or channels not in _CHANNELS:
        raise InvalidRequestError(
            f"the model takes rows of {width} numbers, a picture of {wishes.size[0]} x"
            f" {wishes.size[1]} has {pixels} or {3 * pixels}"
        )
    if channels == 3 and wishes.is_channels_first is None:
        raise InvalidRequestError(
            "the model takes rows of three channels; say their order: --layout nchw (a channel"
            " after the other) or nhwc (a pixel after the other)"
        )
    return *wishes.size, channels, wishes.is_channels_first is not False


def _open_graph(
    path: Path,
    wishes: PictureWishes,
    classes: tuple[str, ...],
    *,
    is_value: bool,
    name: str,
    profile: DeviceProfile,
) -> PictureSource:
    content = read_file(path)
    model = parse_foreign(content, what="the source")
    inputs = list_input_names(model.graph)
    if len(inputs) != 1 or tensor_type(model.graph, inputs[0]) != onnx.TensorProto.FLOAT:
        raise InvalidRequestError(
            f"{path.name} has the inputs {', '.join(inputs)}; needs one of pictures in float32"
        )
    shape = tensor_shape(model.graph, inputs[0])
    if len(shape) < 2 or shape[0] is not None:
        raise InvalidRequestError(
            f"{path.name} takes {_say_shape(shape)}; export it with an open number of pictures, as"
            " [N, 3, 224, 224]"
        )
    image = find_image(shape[1:], wishes)
    if len(shape) > 2:
        sides = (image.height, image.width)
        grid = (image.channels, *sides) if image.is_channels_first else (*sides, image.channels)
        width = image.height * image.width * image.channels
        unpack_rows(model, width, tuple(grid) if len(shape) == 4 else sides)
    floats = [
        output.name
        for output in model.graph.output
        if tensor_type(model.graph, output.name) == onnx.TensorProto.FLOAT
    ]
    answers = tensor_shape(model.graph, floats[0]) if len(floats) == 1 else ()
    if is_value and answers in ((None,), (None, 1)):
        classes = ()
    elif len(answers) == 2:
        _check_classes(classes, answers[1] or len(classes), path.name)
    notes = _add_softmax(model, floats[0]) if classes and len(floats) == 1 else ()
    schema = schema_of(name, (_pixels(image),), classes)
    source = OnnxSource(model.SerializeToString(), schema, profile)
    return PictureSource(
        source=FileSource(model=source, schema=schema, labels=tuple(range(len(classes)))),
        image=image,
        notes=notes,
    )


def _add_softmax(model: onnx.ModelProto, output: str) -> tuple[str, ...]:
    """Make probabilities of the answers of a graph that ends with something linear."""
    last = find_producer(model.graph, output)
    if last not in _LINEAR:
        return ()
    made = fresh_name(model, "softmax_of_answers")
    model.graph.node.append(onnx.helper.make_node("Softmax", [output], [made], axis=1))
    for value in model.graph.output:
        if value.name == output:
            value.name = made
    return (f"the network ends with {last}: a softmax makes probabilities of its answers",)


def _check_classes(classes: Sequence[str], wanted: int, name: str) -> None:
    if len(classes) != wanted:
        raise InvalidRequestError(
            f"{name} tells {wanted} classes apart, the pictures {len(classes)}; give --classes FILE"
            " with a name a line, in the order of the model's answers"
        )


def _pixels(image: ImageInput) -> Feature:
    sides = (image.height, image.width)
    shape = (image.channels, *sides) if image.is_channels_first else (*sides, image.channels)
    return Feature(name="pixels", shape=shape)


def _say_shape(shape: Shape) -> str:
    return "[" + ", ".join("any" if side is None else str(side) for side in shape) + "]"
