"""The agent's local API over one inference service: a request in, a response out.

Open Inference Protocol v2 under ``/v2``; under ``/v1`` rows by field name and labels that became
known later; ``/metrics``. Knows neither sockets nor threads. ``{m}`` in a path is the name of a
slot, or of a model that only one slot runs. Every error is ``{"error": "sentence"}``; the table
from error to status is here and nowhere else.
"""

import logging
from collections.abc import Callable, Hashable, Mapping, Sequence
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote
from weakref import WeakKeyDictionary

from edge_agent import __version__
from edge_agent.adapters.batch_gain import GAIN_MIN
from edge_agent.adapters.feedback_json import take_feedback
from edge_agent.adapters.http_connection import Application, error_response
from edge_agent.adapters.http_parser import HttpError, Request, Response
from edge_agent.adapters.inference_binary import BINARY_EXTENSION
from edge_agent.adapters.inference_service import InferenceService
from edge_agent.adapters.model_reader import (
    ModelReader,
    Question,
    check_encoding,
    describe_named,
    describe_tensors,
    identify,
)
from edge_agent.adapters.request_json import encode_json
from edge_agent.adapters.served_model import ServedModel
from edge_agent.adapters.serving_metrics import ANSWERING, TEXT_TYPE, ServingMetrics
from edge_agent.errors import (
    InferenceError,
    InputError,
    ServingError,
    StoppedModelError,
    UnknownModelError,
)
from edge_agent.ports import LabelSink

HEAVY_BODY_BYTES = 131_072
"""A larger body takes longer to decode than another connection should wait."""
HEAVY_LATENCY_MS = 5.0
BATCHED_LATENCY_MS = 0.3
"""A model that gains by batches is heavy from here on: in the loop nobody could join."""
BATCH_ROWS_MAX = 256
PATHS_KEPT_MAX = 64
_STATUS_OF_ERROR: Mapping[type[ServingError], HTTPStatus] = {
    InputError: HTTPStatus.BAD_REQUEST,
    UnknownModelError: HTTPStatus.NOT_FOUND,
    StoppedModelError: HTTPStatus.SERVICE_UNAVAILABLE,
    InferenceError: HTTPStatus.INTERNAL_SERVER_ERROR,
}
_SERVER = {"name": "edge-agent", "version": __version__, "extensions": [BINARY_EXTENSION]}
_PATHS = (["v2"], ["v2", "health", "live"], ["v2", "health", "ready"], ["metrics"])
_ENDPOINTS = {
    "": "metadata", "ready": "ready", "infer": "infer", "predict": "predict",
    "feedback": "feedback", "metrics": "metrics", "health": "health",
}  # fmt: skip
_LOG = logging.getLogger(__name__)


class InferenceRoutes(Application):
    """Answers requests; may be called from several threads at once."""

    def __init__(
        self,
        service: InferenceService,
        *,
        labels: LabelSink | None = None,
        outbox_counts: Callable[[], Mapping[str, float]] | None = None,
    ) -> None:
        """Prepare to answer.

        Args:
            service: The slots.
            labels: Takes late labels; without it feedback is refused.
            outbox_counts: Gives counts of the telemetry outbox by name, for the metrics.
        """
        self._service, self._labels = service, labels
        self._outbox_counts = outbox_counts or dict
        self._readers: WeakKeyDictionary[ServedModel, ModelReader] = WeakKeyDictionary()
        self._metrics = ServingMetrics()
        self._asked: dict[str, str] = {}
        """Slots and models by the paths they were asked under, so as not to take these apart."""

    def is_heavy(self, request: Request) -> bool:
        """Tell whether answering would hold up the other connections of an event loop."""
        if request.method != "POST":
            return request.path == "/metrics"  # asks the outbox, which may wait for the disk
        if len(request.body) > HEAVY_BODY_BYTES:
            return True
        for served in self._service.slots().values():
            limit_ms = HEAVY_LATENCY_MS if served.batch_gain < GAIN_MIN else BATCHED_LATENCY_MS
            if served.latency_ms_last > limit_ms:
                return True
        return False

    def batch_key(self, request: Request) -> Hashable | None:
        """Return the model that small requests of rows share, if batches pay for it."""
        parts = _split(request)
        if len(parts) < 4 or parts[-1] not in ("infer", "predict"):
            return None
        try:
            served = self._service.find(parts[2])
        except ServingError:
            return None
        is_small = len(request.body) <= HEAVY_BODY_BYTES
        return served if is_small and served.batch_gain >= GAIN_MIN else None

    def answer(self, request: Request) -> Response:
        """Answer; never raises."""
        try:
            question = self._route(request)
            if isinstance(question, Response):
                return question
            return question.respond(question.served.predict(question.features))
        except Exception as error:  # noqa: BLE001 - a mistake of ours must not end the server
            return self._answer_error(request, error)

    def answer_many(self, requests: Sequence[Request]) -> list[Response]:
        """Answer requests, those of one model in one run; never raises."""
        if len(requests) == 1:
            return [self.answer(requests[0])]
        answers: dict[int, Response] = {}
        questions: dict[int, Question] = {}
        for n, request in enumerate(requests):
            try:
                found = self._route(request)
            except Exception as error:  # noqa: BLE001 - as in answer
                answers[n] = self._answer_error(request, error)
                continue
            if isinstance(found, Response):
                answers[n] = found
            else:
                questions[n] = found
        for group in _group(questions):
            answers |= self._answer_group(requests, {n: questions[n] for n in group})
        return [answers[n] for n in range(len(requests))]

    def count(self, response: Response, seconds: float) -> None:
        """Count an answer in the metrics."""
        self._metrics.count(response, seconds)

    def _answer_group(
        self, requests: Sequence[Request], questions: Mapping[int, Question]
    ) -> dict[int, Response]:
        """Answer questions to one model together, or each alone when that fails."""
        served = next(iter(questions.values())).served
        try:
            predictions = served.predict_many([q.features for q in questions.values()])
        except InferenceError:
            return {n: self.answer(requests[n]) for n in questions}
        answers = {}
        for (n, question), prediction in zip(questions.items(), predictions, strict=True):
            try:
                answers[n] = question.respond(prediction)
            except Exception as error:  # noqa: BLE001 - as in answer
                answers[n] = self._answer_error(requests[n], error)
        return answers

    def _answer_error(self, request: Request, error: Exception) -> Response:
        if isinstance(error, ServingError):
            error = HttpError(_STATUS_OF_ERROR[type(error)], str(error))
        elif not isinstance(error, HttpError):
            _LOG.error("%s %s failed", request.method, request.path, exc_info=error)
            error = HttpError(
                HTTPStatus.INTERNAL_SERVER_ERROR, "the agent failed; its log says why"
            )
        parts = _split(request)
        slot, endpoint = "", _ENDPOINTS.get(parts[-1], "")
        if parts[1:2] == ["models"] and len(parts) > 2:
            served = self._find(parts[2])
            slot = served.slot if served else ""
            if served and endpoint in ANSWERING and error.status is HTTPStatus.BAD_REQUEST:
                served.recorder.count_refused()
        return error_response(error)._replace(endpoint=endpoint, slot=slot)

    def _find(self, name: str) -> ServedModel | None:
        """Find whom an error is about; as ``InferenceService.find``, None where that refuses."""
        slots = self._service.slots()
        matches = [served for served in slots.values() if served.model_name == name]
        return slots.get(name) or (matches[0] if len(matches) == 1 else None)

    def _route(self, request: Request) -> Response | Question:
        name = self._asked.get(request.path)
        if name is not None and request.method == "POST":
            served = self._service.find(name)
            return self._reader(served).read_tensors(request, served)
        parts = _split(request)
        if parts[:2] == ["v2", "models"] and len(parts) > 2:
            return self._route_model(request, parts[2], parts[3:])
        match parts:
            case ["v1", "models", name, "predict"]:
                _check_method(request, "POST")
                served = self._service.find(name)
                return self._reader(served).read_named(request, served)
            case ["v1", "feedback"]:
                return self._take_feedback(request)
        is_model = parts[:2] == ["v1", "models"] and len(parts) <= 3
        if not is_model and parts not in _PATHS:
            raise _no_such_path(request)
        _check_method(request, "GET")
        return self._get(parts)

    def _get(self, parts: Sequence[str]) -> Response:
        """Answer one of _PATHS, or what is known of the slots."""
        match parts:
            case ["v2"]:
                return _json(_SERVER, "metadata")
            case ["v2", "health", "live"]:
                return _json({"live": True}, "health")
            case ["v2", "health", _]:
                is_ready = bool(self._service.slots())
                status = HTTPStatus.OK if is_ready else HTTPStatus.SERVICE_UNAVAILABLE
                return _json({"ready": is_ready}, "health", status=status)
            case ["metrics"]:
                text = self._metrics.write(self._service.slots().values(), self._outbox_counts())
                return Response(body=text.encode(), content_type=TEXT_TYPE, endpoint="metrics")
            case ["v1", "models"]:
                slots = sorted(self._service.slots().values(), key=lambda served: served.slot)
                return _json({"models": [identify(served) for served in slots]}, "metadata")
        served = self._service.find(parts[2])
        return _json(describe_named(served), "metadata", slot=served.slot)

    def _route_model(self, request: Request, name: str, rest: list[str]) -> Response | Question:
        served = self._service.find(name)
        is_versioned = rest[:1] == ["versions"] and len(rest) > 1
        if is_versioned:
            if served.version != rest[1]:
                raise UnknownModelError(
                    f"{name!r} answers as version {served.version}, not {rest[1][:40]!r}"
                )
            rest = rest[2:]
        match rest:
            case ["infer"]:
                _check_method(request, "POST")
                if not is_versioned and len(self._asked) < PATHS_KEPT_MAX:
                    self._asked[request.path] = name
                return self._reader(served).read_tensors(request, served)
            case []:
                value, endpoint = describe_tensors(served), "metadata"
            case ["ready"]:
                value, endpoint = {"name": served.model_name, "ready": True}, "ready"
            case _:
                raise _no_such_path(request)
        _check_method(request, "GET")
        return _json(value, endpoint, slot=served.slot)

    def _take_feedback(self, request: Request) -> Response:
        _check_method(request, "POST")
        check_encoding(request)
        if self._labels is None:
            raise HttpError(HTTPStatus.NOT_IMPLEMENTED, "this agent takes no labels")
        return _json(take_feedback(self._labels, request.body), "feedback")

    def _reader(self, served: ServedModel) -> ModelReader:
        reader = self._readers.get(served)
        if reader is None:
            reader = self._readers[served] = ModelReader(served)
        return reader


def _group(questions: Mapping[int, Question]) -> list[list[int]]:
    """Put together what one run can answer: the same model, at most BATCH_ROWS_MAX rows."""
    groups: list[list[int]] = []
    filling: dict[int, tuple[list[int], int]] = {}
    for n, question in questions.items():
        group, rows = filling.get(id(question.served), ([], 0))
        if not group or rows + len(question.features) > BATCH_ROWS_MAX:
            group, rows = [], 0
            groups.append(group)
        group.append(n)
        filling[id(question.served)] = (group, rows + len(question.features))
    return groups


def _split(request: Request) -> list[str]:
    parts = request.path.strip("/").split("/")
    return [unquote(part) for part in parts] if "%" in request.path else parts


def _check_method(request: Request, wanted: str) -> None:
    if request.method != wanted and (request.method, wanted) != ("HEAD", "GET"):
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


def _json(
    value: Mapping[str, Any],
    endpoint: str,
    *,
    slot: str = "",
    status: HTTPStatus = HTTPStatus.OK,
) -> Response:
    body = encode_json(value).encode()
    return Response(status=status, body=body, endpoint=endpoint, slot=slot)
