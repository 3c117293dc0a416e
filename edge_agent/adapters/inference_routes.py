"""Open Inference Protocol v2 over one inference service: a request in, a response out.

Knows neither sockets nor threads. ``{m}`` in a path is the name of a slot, or of a model that
only one slot runs. Every error is ``{"error": "sentence"}``; the table from error to status is
here and nowhere else.
"""

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote
from weakref import WeakKeyDictionary

from edge_agent import __version__
from edge_agent.adapters.http_parser import HttpError, Request, Response
from edge_agent.adapters.inference_json import (
    BINARY_HINT,
    ModelCodec,
    describe_model,
    encode_json,
)
from edge_agent.adapters.inference_service import InferenceService, ServedModel
from edge_agent.errors import (
    InferenceError,
    InputError,
    ServingError,
    StoppedModelError,
    UnknownModelError,
)

HEAVY_BODY_BYTES = 131_072
"""A larger body takes longer to decode than another connection should wait."""
HEAVY_LATENCY_MS = 5.0
PLATFORM = "onnx_onnxv1"
_STATUS_OF_ERROR: Mapping[type[ServingError], HTTPStatus] = {
    InputError: HTTPStatus.BAD_REQUEST,
    UnknownModelError: HTTPStatus.NOT_FOUND,
    StoppedModelError: HTTPStatus.SERVICE_UNAVAILABLE,
    InferenceError: HTTPStatus.INTERNAL_SERVER_ERROR,
}
_SERVER = {"name": "edge-agent", "version": __version__, "extensions": []}
_BINARY_HEADER = b"inference-header-content-length"
_LOG = logging.getLogger(__name__)


class InferenceRoutes:
    """Answers requests; may be called from several threads at once."""

    def __init__(self, service: InferenceService) -> None:
        self._service = service
        self._codecs: WeakKeyDictionary[ServedModel, ModelCodec] = WeakKeyDictionary()

    def is_heavy(self, request: Request) -> bool:
        """Tell whether answering would hold up the other connections of an event loop."""
        if request.method != "POST":
            return False
        if len(request.body) > HEAVY_BODY_BYTES:
            return True
        slots = self._service.slots().values()
        return any(served.latency_ms_last > HEAVY_LATENCY_MS for served in slots)

    def answer(self, request: Request) -> Response:
        """Answer; never raises."""
        try:
            return self._route(request)
        except HttpError as error:
            return error_response(error)
        except ServingError as error:
            return error_response(HttpError(_STATUS_OF_ERROR[type(error)], str(error)))
        except Exception:  # noqa: BLE001 - a mistake of ours must not end the server
            _LOG.exception("%s %s failed", request.method, request.path)
            return error_response(
                HttpError(HTTPStatus.INTERNAL_SERVER_ERROR, "the agent failed; its log says why")
            )

    def _route(self, request: Request) -> Response:
        parts = request.path.strip("/").split("/")
        if "%" in request.path:
            parts = [unquote(part) for part in parts]
        if parts[:2] == ["v2", "models"] and len(parts) > 2:
            return self._route_model(request, parts[2], parts[3:])
        value: Mapping[str, Any]
        status = HTTPStatus.OK
        match parts:
            case ["v2"]:
                value = _SERVER
            case ["v2", "health", "live"]:
                value = {"live": True}
            case ["v2", "health", "ready"]:
                is_ready = bool(self._service.slots())
                value = {"ready": is_ready}
                status = HTTPStatus.OK if is_ready else HTTPStatus.SERVICE_UNAVAILABLE
            case _:
                raise _no_such_path(request)
        _check_method(request, "GET")
        return _json(value, status)

    def _route_model(self, request: Request, name: str, rest: list[str]) -> Response:
        served = self._service.find(name)
        if rest[:1] == ["versions"] and len(rest) > 1:
            if served.version != rest[1]:
                raise UnknownModelError(
                    f"{name!r} answers as version {served.version}, not {rest[1][:40]!r}"
                )
            rest = rest[2:]
        match rest:
            case ["infer"]:
                _check_method(request, "POST")
                return self._infer(request, served)
            case []:
                value = _describe(served)
            case ["ready"]:
                value = {"name": served.model_name, "ready": True}
            case _:
                raise _no_such_path(request)
        _check_method(request, "GET")
        return _json(value)

    def _infer(self, request: Request, served: ServedModel) -> Response:
        if _BINARY_HEADER in request.headers:
            raise InputError(f"header Inference-Header-Content-Length: {BINARY_HINT}")
        if request.headers.get(b"content-encoding", b"identity").lower() != b"identity":
            raise HttpError(
                HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "compressed bodies are not served; send plain"
            )
        codec = self._codecs.get(served)
        if codec is None:
            codec = self._codecs[served] = ModelCodec(served)
        infer = codec.decode(request.body)
        served.check_ranges(infer.features)
        prediction = served.predict(infer.features)
        return Response(body=codec.encode(prediction, infer.request_id, infer.outputs))


def error_response(error: HttpError) -> Response:
    """Build the answer to a request that was not served."""
    body = encode_json({"error": str(error)}).encode()
    return Response(status=error.status, body=body, headers=error.headers)


def _describe(served: ServedModel) -> dict[str, Any]:
    return {
        "name": served.model_name,
        "versions": [served.version],
        "platform": PLATFORM,
        **describe_model(served.schema),
        "parameters": {"slot": served.slot, "target": served.target, "sha256": served.sha256},
    }


def _check_method(request: Request, wanted: str) -> None:
    if request.method != wanted:
        raise HttpError(
            HTTPStatus.METHOD_NOT_ALLOWED,
            f"{request.method} is not served here, use {wanted}",
            {"Allow": wanted},
        )


def _no_such_path(request: Request) -> HttpError:
    return HttpError(
        HTTPStatus.NOT_FOUND,
        f"no such path {request.path[:80]!r}; begin at /v2 or /v2/models/NAME",
    )


def _json(value: Mapping[str, Any], status: HTTPStatus = HTTPStatus.OK) -> Response:
    return Response(status=status, body=encode_json(value).encode())
