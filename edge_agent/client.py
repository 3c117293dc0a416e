"""Ask for predictions from Python code: of an agent that runs beside, or inside this process.

A program of its own connects; it needs numpy and no other library of the agent:

    from edge_agent.client import connect

    with connect() as agent:                          # the agent of ~/.edge-agent
        answer = agent.predict({"heat": 21.5, "door": 1})
        answer.class_names[0], answer.outputs["probabilities"], answer.prediction_id
        agent.feedback(answer.prediction_id, "storm")

An application that embeds the agent asks without socket and JSON, with the same slots, swaps and
telemetry:

    model = LocalModel(service, "main")
    answer = model.predict(rows)                      # float32 [rows, width]
"""

import os
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote, urlsplit

import numpy as np

from edge_agent.client_connection import Address, AgentConnections, RawAnswer
from edge_agent.client_wire import (
    BINARY_EXTENSION,
    Answer,
    FeedbackResult,
    as_rows,
    decode_named,
    decode_object,
    decode_tensors,
    encode_json,
    encode_rows,
    encode_texts,
    raise_error,
    read_feedback,
)
from edge_agent.contract.cells import CellError, CellReader
from edge_agent.contract.schema import ModelSchema
from edge_agent.contract.texts import read_text
from edge_agent.core.late_labels import Truth
from edge_agent.errors import InputError, ServingError, UnknownModelError
from edge_agent.statistics.packed_texts import TextPlaces, pack_text

if TYPE_CHECKING:  # a program that connects must not load the runtime
    from edge_agent.adapters.inference_service import InferenceService
    from edge_agent.adapters.served_model import Prediction

TIMEOUT_S = 60.0
_PNG = b"\x89PNG"
_NOT_SERVED = frozenset({404, 405, 501})


def connect(
    directory: str | os.PathLike[str] | None = None,
    *,
    url: str = "",
    token: str = "",
    tls: ssl.SSLContext | None = None,
    timeout_s: float = TIMEOUT_S,
) -> "Client":
    """Find a running agent; the first question connects.

    Args:
        directory: Directory of an agent on this machine; None takes ``EDGE_AGENT_DIR``, else
            ``~/.edge-agent``. Its address, token and certificate are looked up there.
        url: Instead of a directory: where the agent answers, as ``http://127.0.0.1:8090``.
        token: What the agent wants to see, when it wants one.
        tls: What to speak to an ``https`` address: authority and client certificate; None trusts
            what the system trusts, or the certificate of the agent's directory.
        timeout_s: Longest wait for the agent to take or send anything.

    Raises:
        InputError: Both directory and url, or a url that is none.
        AgentError: The directory's settings are wrong, or its token cannot be read.
    """
    if timeout_s <= 0:
        raise InputError(f"timeout_s must be above 0, got {timeout_s:g}")
    if url:
        if directory is not None:
            raise InputError("give either directory or url, both were given")
        address = _read_url(url, tls)
        return Client(
            AgentConnections(lambda: address, headers=_bearer(token), timeout_s=timeout_s)
        )
    from edge_agent.client_directory import find_address, find_token
    from edge_agent.settings import find_directory

    where = find_directory(None if directory is None else os.fspath(directory))
    headers = _bearer(token or find_token(where))
    find = partial(find_address, Path(where), tls)
    return Client(AgentConnections(find, headers=headers, timeout_s=timeout_s))


class Client:
    """A running agent, asked over HTTP; may be used from several threads."""

    def __init__(self, connections: AgentConnections) -> None:
        self._connections = connections
        self._is_raw: bool | None = None
        self._only_slot = ""

    def predict(self, rows: Any, model: str | None = None) -> Answer:
        """Let the agent answer rows, all by one model.

        Args:
            rows: A dict by field name or a list of them; or an array or nested lists of numbers,
                [rows, columns] in the order of the schema, one row also flat; of a model of
                pictures uint8 [height, width, 3], red first, or several of one size.
            model: Slot or model; None for the only one.

        Raises:
            InputError: The rows do not follow the schema; says which row and field.
            ServingError: Nobody answers (``UnreachableError``), no such model, or it failed.
        """
        if isinstance(rows, Mapping):
            rows = [rows]
        is_named = isinstance(rows, Sequence) and len(rows) > 0 and isinstance(rows[0], Mapping)
        name = quote(model or self._find_only_slot(), safe="")
        if is_named:
            return decode_named(
                self._ask("POST", f"/v1/models/{name}/predict", encode_json({"rows": rows}))
            )
        body, headers = encode_rows(as_rows(rows), is_raw=self._offers_raw())
        return decode_tensors(self._ask("POST", f"/v2/models/{name}/infer", body, headers))

    def predict_texts(
        self, texts: Sequence[Sequence[str | None]], features: Any = None, model: str | None = None
    ) -> Answer:
        """Let a model of texts answer rows given in the order of its schema.

        Args:
            texts: Of each row all its texts; None for a missing one.
            features: Numbers [rows, columns] of the other features, if there are any.
            model: Slot or model; None for the only one.

        Raises:
            InputError: As ``predict``; a text longer than its field allows too.
            ServingError: As ``predict``.
        """
        name = quote(model or self._find_only_slot(), safe="")
        numbers = None if features is None else as_rows(features)
        body, headers = encode_texts(texts, numbers, is_raw=self._offers_raw())
        return decode_tensors(self._ask("POST", f"/v2/models/{name}/infer", body, headers))

    def predict_picture(self, content: bytes, model: str | None = None) -> Answer:
        """Let a model of pictures answer the bytes of a JPEG or PNG file.

        Args:
            content: Of the file.
            model: Slot or model; None for the only one.

        Raises:
            InputError: No such picture, too large, or the model takes none.
            ServingError: As ``predict``.
        """
        name = quote(model or self._find_only_slot(), safe="")
        kind = "image/png" if content.startswith(_PNG) else "image/jpeg"
        path = f"/v1/models/{name}/predict"
        return decode_named(self._ask("POST", path, content, {"Content-Type": kind}))

    def feedback(self, prediction_id: str, label: Truth) -> None:
        """Tell what turned out to be true.

        Args:
            prediction_id: As ``Answer.prediction_ids`` gives it.
            label: Name of a class, or the value of a regression; of an answer of several targets
                or labels all or some of them by name, as ``{"flow": 3.1, "heat": 20}``.

        Raises:
            InputError: The agent refuses the label; says why.
            ServingError: This agent takes no labels, or nobody answers.
        """
        raise_error(self._tell({"prediction_id": prediction_id, **_name_kind(label)}))

    def feedback_many(self, labels: Sequence[tuple[str, Truth]]) -> FeedbackResult:
        """Tell what turned out to be true of 1 to 1,000 answers, as ``feedback`` does of one.

        Raises:
            InputError: A label is neither text nor number, or there are too many.
            ServingError: This agent takes no labels, or nobody answers.
        """
        items = [{"prediction_id": name, **_name_kind(label)} for name, label in labels]
        return read_feedback(self._tell(items), len(items))

    def _tell(self, item: Any) -> RawAnswer:
        answer = self._connections.ask("POST", "/v1/feedback", encode_json(item), _JSON)
        if answer.status in _NOT_SERVED:
            raise ServingError(
                "this agent takes no labels; an agent of a later version does, or its operator"
                " has switched them off"
            )
        return answer

    def describe(self, model: str | None = None) -> dict[str, Any]:
        """Return what answers: ``slot``, ``version``, ``fields`` with their ranges, ``classes``."""
        name = quote(model or self._find_only_slot(), safe="")
        return decode_object(self._ask("GET", f"/v1/models/{name}"))

    def models(self) -> list[dict[str, Any]]:
        """Return what answers in which slot."""
        found = decode_object(self._ask("GET", "/v1/models")).get("models")
        if not isinstance(found, list):
            raise ServingError("the agent does not tell its models; update it")
        return found

    def close(self) -> None:
        """Close the connections."""
        self._connections.close()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        """Close."""
        self.close()

    def _find_only_slot(self) -> str:
        if not self._only_slot:
            slots = [str(found["slot"]) for found in self.models()]
            if len(slots) != 1:
                raise UnknownModelError(
                    f"name a slot or model; answering now: {', '.join(slots) or 'none'}"
                )
            self._only_slot = slots[0]
        return self._only_slot

    def _offers_raw(self) -> bool:
        if self._is_raw is None:
            extensions = decode_object(self._ask("GET", "/v2")).get("extensions")
            self._is_raw = isinstance(extensions, list) and BINARY_EXTENSION in extensions
        return self._is_raw

    def _ask(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> RawAnswer:
        answer = self._connections.ask(method, path, body, headers or (_JSON if body else None))
        raise_error(answer)
        return answer


class LocalModel:
    """One slot of the service in this process; always asks whatever answers there now."""

    def __init__(self, service: "InferenceService", slot: str) -> None:
        self._service, self._slot = service, slot
        # Not a method: one call less on the way of every request.
        self.predict = partial(service.predict, slot)
        """Answer packed rows, float32 [rows, width]; see ``InferenceService.predict``."""

    @property
    def schema(self) -> ModelSchema:
        """Inputs and outputs of what answers now; raises UnknownModelError when nothing does."""
        return self._service.find(self._slot).schema

    def predict_records(self, records: Sequence[Mapping[str, Any]]) -> "Prediction":
        """Answer rows given by column name: numbers, texts, None for missing.

        Raises:
            InputError: A column is missing, unknown or does not fit; and as ``predict``.
        """
        schema = self.schema
        readers = [
            (name, CellReader(replace(f, shape=())))
            for f in schema.features
            for name in f.columns
            if not f.is_text
        ]
        places = TextPlaces(schema.features)
        known = {name for name, _ in readers} | {f.name for f, _ in places.texts}
        rows = np.empty((len(records), schema.width), np.float32)
        for n, record in enumerate(records):
            if record.keys() != known:
                missing = [c for f in schema.features for c in f.table_columns if c not in record]
                unknown = [c for c in record if c not in known]
                raise InputError(f"record {n}: missing {missing[:5]}, unknown {unknown[:5]}")
            name = ""
            try:
                for column, (name, reader) in zip(places.numbers, readers, strict=True):
                    rows[n, column] = reader.read(record[name])
                for feature, cells in places.texts:
                    name = feature.name
                    pack_text(rows[n, cells], read_text(feature, record[name]))
            except CellError as error:
                raise InputError(f"record {n}: {name} {error}") from error
        return self.predict(rows)

    def feedback(self, prediction_id: str, label: Truth) -> None:
        """Tell what turned out to be true; as ``Client.feedback``, raises InputError."""
        self._service.labels.add(prediction_id, label)


_JSON: Mapping[str, str] = {"Content-Type": "application/json"}


def _name_kind(label: Truth) -> dict[str, Any]:
    """Put a label under the name its kind has in feedback; raises InputError."""
    given = label.values() if isinstance(label, Mapping) else (label,)
    for one in given:
        if isinstance(one, bool) or not isinstance(one, str | int | float):
            raise InputError(
                f"label must be the name of a class or a number, got {type(one).__name__}"
            )
    if isinstance(label, Mapping):
        return {"labels": dict(label)}
    return {"label" if isinstance(label, str) else "value": label}


def _bearer(token: str) -> dict[str, str]:
    if not token:
        return {}
    if not token.isascii() or not token.isprintable() or " " in token:
        raise InputError("token must be one word of ASCII characters")
    return {"Authorization": f"Bearer {token}"}


def _read_url(url: str, tls: ssl.SSLContext | None) -> Address:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise InputError(f"url {url[:80]!r}: {error}") from error
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.username:
        raise InputError(f"url must be as http://127.0.0.1:8090, got {url[:80]!r}")
    prefix = parts.path.rstrip("/")
    if parts.scheme == "http":
        return Address(host=parts.hostname, port=port or 80, prefix=prefix)
    context = tls or ssl.create_default_context()
    return Address(host=parts.hostname, port=port or 443, tls=context, prefix=prefix)
