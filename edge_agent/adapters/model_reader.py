"""Requests for rows, read for one served model, and the answers to them.

Reading and answering are apart, so that several requests can be answered in one run. Left out:
paths and methods (``inference_routes.py``).
"""

from collections.abc import Callable
from http import HTTPStatus
from typing import Any, NamedTuple

from numpy.typing import NDArray

from edge_agent.adapters.batch_gain import GAIN_MIN
from edge_agent.adapters.http_parser import HttpError, Request, Response
from edge_agent.adapters.inference_binary import BINARY_HEADER, BINARY_HEADER_KEY
from edge_agent.adapters.inference_json import ModelCodec, check_answer_size, describe_model
from edge_agent.adapters.label_answers import describe_labels
from edge_agent.adapters.named_fields import FieldReader, describe_fields, encode_predictions
from edge_agent.adapters.request_json import read_object
from edge_agent.adapters.served_model import Prediction, ServedModel
from edge_agent.contract.image import ImageInput
from edge_agent.contract.schema import ModelSchema
from edge_agent.errors import InputError

PLATFORM = "onnx_onnxv1"
RAW_TYPE = "application/octet-stream"


class Question(NamedTuple):
    """A request whose rows are read and checked.

    Attributes:
        served: Who is to answer.
        features: As ``ServedModel.predict`` takes them.
        respond: Makes the response of the answer; raises InferenceError for what cannot be told.
    """

    served: ServedModel
    features: NDArray[Any]
    respond: Callable[[Prediction], Response]


class ModelReader:
    """Reads requests for one served model; made once for each, used from any thread."""

    def __init__(self, served: ServedModel) -> None:
        # Not the model itself: the readers are kept by model, and would keep each other alive.
        self._image = served.schema.image
        self._codec = _find_codec(served.schema)(served)
        self._fields = FieldReader(served.schema)
        self._numbers_a_row = max(1, served.schema.probability_columns)

    def read_tensors(self, request: Request, served: ServedModel) -> Question:
        """Read an infer request; raises InputError, HttpError."""
        check_encoding(request)
        codec = self._codec
        asked = codec.decode(request.body, request.headers.get(BINARY_HEADER_KEY))
        served.check_ranges(asked.features)
        slot, rows = served.slot, len(asked.features)

        def respond(prediction: Prediction) -> Response:
            answer = codec.encode(prediction, asked)
            if answer.json_bytes is None:
                return Response(body=answer.body, endpoint="infer", slot=slot, rows=rows)
            return Response(
                body=answer.body,
                headers={BINARY_HEADER: str(answer.json_bytes)},
                content_type=RAW_TYPE,
                endpoint="infer",
                slot=slot,
                rows=rows,
            )

        return Question(served, asked.features, respond)

    def read_named(self, request: Request, served: ServedModel) -> Question:
        """Read a request of rows by field name; raises InputError, HttpError."""
        check_encoding(request)
        image = self._image
        if image is not None:
            return self._ask_picture(request, served, image)
        asked = read_object(request.body)
        extra = next((name for name in asked if name != "rows"), None)
        if extra is not None:
            raise InputError(f"the body has field {extra[:80]!r}, it takes rows alone")
        features = self._fields.read(asked.get("rows"))
        check_answer_size(len(features), self._numbers_a_row)
        served.check_ranges(features)
        slot, rows = served.slot, len(features)

        def respond(prediction: Prediction) -> Response:
            body = encode_predictions(prediction)
            return Response(body=body, endpoint="predict", slot=slot, rows=rows)

        return Question(served, features, respond)

    def _ask_picture(self, request: Request, served: ServedModel, image: ImageInput) -> Question:
        """Read a request whose body is a picture file."""
        from edge_agent.adapters.picture_reader import FILE_TYPES, read_file_body

        kind = request.headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
        if kind not in FILE_TYPES:
            raise InputError(
                f"{served.model_name} takes pictures: send the bytes of a file as Content-Type"
                " image/jpeg or image/png, or a UINT8 tensor to /v2"
            )
        features: NDArray[Any] = read_file_body(request.body, image)
        served.check_ranges(features)
        slot = served.slot

        def respond(prediction: Prediction) -> Response:
            body = encode_predictions(prediction)
            return Response(body=body, endpoint="predict", slot=slot, rows=1)

        return Question(served, features, respond)


def _find_codec(schema: ModelSchema) -> type[ModelCodec]:
    """Return what reads tensors of such a model, loaded with the first one of its kind."""
    if schema.image is not None:
        from edge_agent.adapters.picture_reader import PictureCodec

        return PictureCodec
    if schema.texts:
        from edge_agent.adapters.text_codec import TextCodec

        return TextCodec
    return ModelCodec


def check_encoding(request: Request) -> None:
    """Refuse compressed bodies; raises HttpError."""
    if request.headers.get(b"content-encoding", b"identity").lower() != b"identity":
        raise HttpError(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "compressed bodies are not served; send plain"
        )


def identify(served: ServedModel) -> dict[str, Any]:
    """Say what answers in a slot."""
    return {
        "slot": served.slot,
        "name": served.model_name,
        "version": served.version,
        "target": served.target,
        "sha256": served.sha256,
    }


def describe_named(served: ServedModel) -> dict[str, Any]:
    """Say what a row by field name holds, and what is answered."""
    return {
        **identify(served),
        "task": served.schema.task,
        **_describe_input(served.schema),
        "classes": served.schema.classes,
        "targets": served.schema.targets,
        "labels": describe_labels(served.schema.labels),
        "batching": {"is_on": served.batch_gain >= GAIN_MIN, "gain": round(served.batch_gain, 2)},
    }


def _describe_input(schema: ModelSchema) -> dict[str, Any]:
    if schema.image is None:
        return {"fields": describe_fields(schema)}
    return {"fields": [], "image": schema.image.to_json()}


def describe_tensors(served: ServedModel) -> dict[str, Any]:
    """Give the metadata of the Open Inference Protocol."""
    return {
        "name": served.model_name,
        "versions": [served.version],
        "platform": PLATFORM,
        **describe_model(served.schema),
        "parameters": {"slot": served.slot, "target": served.target, "sha256": served.sha256},
    }
