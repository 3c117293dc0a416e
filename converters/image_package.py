"""Make the package of packed pixels one that takes pictures: the front goes into its graph.

The package was built, quantized and judged on rows of pixels that ``pack_pictures`` made, so the
front adds no difference: the whole graph is compared with the two halves here. Golden rows become
real pictures cut to a small size, and the drift reference is of their figures.
"""

import hashlib
import io
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converters.errors import ConversionError, InvalidRequestError, ProfileMisfitError
from converters.evidence import encode_evidence, read_evidence
from converters.golden import encode_arrays
from converters.graph import ML_DOMAIN, count_operators, find_opset, parse_model
from converters.image_front import add_image_front, check_picture, pack_pictures
from converters.needs import find_needs
from converters.normalise import normalise
from converters.request import BuiltPackage
from converters.runtime import GraphRunner
from device_profiles.compatibility import find_misfits
from device_profiles.profile import DeviceProfile
from edge_agent.contract.errors import ContractError
from edge_agent.contract.image import FIGURES, FIGURES_OUTPUT, ImageInput
from edge_agent.contract.onnx_check import check_onnx
from edge_agent.contract.package import (
    EVIDENCE,
    GOLDEN,
    GOLDEN_INPUT,
    GOLDEN_OUTPUT_PREFIX,
    GOLDEN_TOLERANCE_PREFIX,
    MODEL,
    REFERENCE,
    SCHEMA,
    pack_members,
    unpack_members,
)
from edge_agent.contract.schema import Feature, ModelSchema, Role
from edge_agent.statistics.reference import build_reference

Pictures = Sequence[NDArray[np.uint8]]
GOLDEN_PICTURES = 8
GOLDEN_SIDE_MAX = 96
TIMED_RUNS = 30
_AGREEMENT = 1e-4


def take_pictures(
    built: BuiltPackage,
    image: ImageInput,
    pictures: Pictures,
    profile: DeviceProfile,
    *,
    trained_on: NDArray[np.float32] | None = None,
) -> BuiltPackage:
    """Give the package that answers pictures.

    Args:
        built: Of rows of pixels, width height * width * channels, made by ``pack_pictures``.
        image: What the graph does to a picture.
        pictures: Held-out ones, uint8 [height, width, 3] of any sizes: golden rows and reference.
        profile: As it was built for.
        trained_on: Figures of the training pictures, as ``pack_pictures`` gives them: the
            reference is of these; None takes the figures of the held-out ones.

    Raises:
        InvalidRequestError: The package takes other rows, or a picture is none.
        ProfileMisfitError: The front needs more than the profile has.
        ConversionError: The whole graph does not answer as its halves, or is too large.
    """
    pixels = image.height * image.width * image.channels
    if built.schema.image is not None or built.schema.width != pixels:
        raise InvalidRequestError(
            f"the package takes {built.schema.width} numbers a row, a picture of {image.height} x"
            f" {image.width} x {image.channels} becomes {pixels}"
        )
    members = unpack_members(built.blob)
    model = parse_model(members[MODEL], what="the built graph")
    add_image_front(model, image)
    content = normalise(model, profile)
    needs = find_needs(parse_model(content, what="the graph"), built.precision)
    if misfits := find_misfits(needs, profile):
        raise ProfileMisfitError(profile.id, misfits)
    runner = GraphRunner(content, profile)
    answers, figures = _answer(runner, pictures, image)
    _check_halves(GraphRunner(members[MODEL], profile), answers, pictures, image, profile)
    schema = give_image(built.schema, image)
    known = figures if trained_on is None else trained_on
    reference = build_reference(schema, known, answers).encode()
    golden, shape = _build_golden(runner, pictures, members[GOLDEN], built)
    evidence = encode_evidence(
        {
            **built.evidence,
            "limits": _tighten(built.evidence["limits"], profile),
            "parity": _leave_pixels_out(built.evidence["parity"]),
            "image": {
                **image.to_json(),
                "pictures": len(pictures),
                "golden": list(shape),
                "latency_ms_median": _time(runner, pictures[0]),
                "front_ms": built.evidence["measured_with"].get("front_ms"),
                "timed_pixels": list(pictures[0].shape[:2]),
            },
            "graph": _describe_graph(content),
            "needs": needs.describe(),
        }
    )
    blob = pack_members(
        {
            MODEL: content,
            SCHEMA: schema.encode(),
            GOLDEN: golden,
            REFERENCE: reference,
            EVIDENCE: evidence,
        }
    )
    if len(blob) > profile.package_bytes_max:
        raise ConversionError(
            f"the package has {len(blob)} bytes, {profile.id} takes {profile.package_bytes_max}"
        )
    try:
        check_onnx(content)
    except ContractError as error:
        raise ConversionError(f"a device would refuse the package: {error}") from error
    return replace(
        built,
        blob=blob,
        sha256=hashlib.sha256(blob).hexdigest(),
        evidence=read_evidence(evidence),
        schema=schema,
        reference=reference,
        needs=replace(needs, package_bytes=len(blob)),
    )


def give_image(schema: ModelSchema, image: ImageInput) -> ModelSchema:
    """Give the schema of packed pixels as that of the package that takes pictures."""
    return replace(schema, image=image, features=tuple(Feature(name=name) for name in FIGURES))


def pick_golden(count: int) -> list[int]:
    """Tell which of the held-out pictures become golden rows."""
    places = np.linspace(0, count - 1, GOLDEN_PICTURES)
    return [int(place) for place in np.unique(places.astype(np.int64))]


def measure_golden(pictures: Pictures) -> tuple[int, int]:
    """Give height and width of golden pictures: the smallest, and at most so much."""
    height, width = (
        min(GOLDEN_SIDE_MAX, *(picture.shape[axis] for picture in pictures)) for axis in (0, 1)
    )
    return height, width


def _answer(
    runner: GraphRunner, pictures: Pictures, image: ImageInput
) -> tuple[dict[str, NDArray[Any]], NDArray[np.float32]]:
    """Answer pictures of any sizes, one after the other."""
    if not len(pictures):
        raise InvalidRequestError("no pictures were given")
    found = [runner.run_pictures(check_picture(picture, image)[None]) for picture in pictures]
    answers = {name: np.concatenate([one[name] for one in found]) for name in found[0]}
    return answers, answers.pop(FIGURES_OUTPUT)


def _check_halves(
    inner: GraphRunner,
    answers: dict[str, NDArray[Any]],
    pictures: Pictures,
    image: ImageInput,
    profile: DeviceProfile,
) -> None:
    rows, _ = pack_pictures(pictures, image, profile)
    # One row a run, as the pictures came: dynamic int8 scales by the largest of a batch.
    wanted = [inner.run(row[None]) for row in rows]
    for name, got in answers.items():
        want = np.concatenate([one[name] for one in wanted])
        if not np.allclose(got, want, atol=_AGREEMENT, rtol=_AGREEMENT):
            worst = float(np.abs(got.astype(np.float64) - want).max())
            raise ConversionError(
                f"{name} of the graph with its front is off by {worst:.3g} from the two halves"
            )


def _build_golden(
    runner: GraphRunner, pictures: Pictures, inner: bytes, built: BuiltPackage
) -> tuple[bytes, tuple[int, ...]]:
    """Cut the middle of some pictures to one small size and record the answers."""
    chosen = [pictures[place] for place in pick_golden(len(pictures))]
    height, width = measure_golden(chosen)
    cut = np.stack([_cut(picture, height, width) for picture in chosen])
    expected = runner.run_pictures(cut)
    arrays: dict[str, NDArray[Any]] = {GOLDEN_INPUT: cut}
    with np.load(io.BytesIO(inner), allow_pickle=False) as stored:
        for output in built.schema.outputs:
            arrays[GOLDEN_OUTPUT_PREFIX + output.name] = expected[output.name]
            if output.role is not Role.LABEL:
                name = GOLDEN_TOLERANCE_PREFIX + output.name
                # Resizing in float32 differs by its own rounding between processors.
                arrays[name] = np.array(max(float(stored[name]), _AGREEMENT))
    return encode_arrays(arrays), cut.shape


def _cut(picture: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    top, left = (picture.shape[0] - height) // 2, (picture.shape[1] - width) // 2
    return picture[top : top + height, left : left + width]


def _tighten(limits: Mapping[str, Any], profile: DeviceProfile) -> dict[str, Any]:
    """Say the limit of the whole package: that of pixels may have had room for golden rows."""
    name = "package_bytes_max"
    return {**limits, name: min(limits[name], profile.package_bytes_max)}


def _leave_pixels_out(parity: Mapping[str, Any]) -> dict[str, Any]:
    """Say which held-out pictures are worst by their places: a device needs no pixels of them."""
    worst = [{**row, "inputs": {}} for row in parity["worst"]]
    return {**parity, "worst": worst}


def _time(runner: GraphRunner, picture: NDArray[np.uint8]) -> float:
    """Give the median time of one picture with its front, milliseconds."""
    times = []
    for _ in range(TIMED_RUNS):
        began = time.perf_counter()
        runner.run_pictures(picture[None])
        times.append((time.perf_counter() - began) * 1e3)
    return float(np.median(times))


def _describe_graph(content: bytes) -> dict[str, Any]:
    model = parse_model(content, what="the graph")
    return {
        "ir": model.ir_version,
        "opset": find_opset(model, ""),
        "opset_ml": find_opset(model, ML_DOMAIN),
        "operators": count_operators(model),
        "bytes": len(content),
    }
