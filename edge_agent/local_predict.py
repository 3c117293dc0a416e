"""Lets the running agent answer the rows of a CSV file; this process loads no model.

The columns are found by name with the schema of the very package that answers. One request
carries ROWS_PER_REQUEST rows, so a long file does not hold up other applications.
"""

import csv
import http.client
import json
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import quote

from edge_agent.adapters.blob_store import DirectoryBlobStore
from edge_agent.adapters.directory_lock import is_locked, read_holder
from edge_agent.contract.package import SCHEMA, unpack_members
from edge_agent.contract.schema import INPUT_NAME, ModelSchema
from edge_agent.core.agent_state import AgentState
from edge_agent.errors import AgentError, InputError, ServingError
from edge_agent.local_state import load_state

ROWS_PER_REQUEST = 256
TIMEOUT_S = 60.0


def predict_file(directory: Path, slot: str | None, path: str) -> Iterator[dict[str, Any]]:
    """Yield one answer a row: its number from 1, then each output by name.

    Raises:
        AgentError: No agent runs, the file lacks a column, or a cell is no number.
    """
    host, port = _find_address(directory)
    name = slot or _only_slot(load_state(directory))
    model = _ask(host, port, "GET", f"/v2/models/{quote(name, safe='')}", None)
    blob = DirectoryBlobStore(directory / "blobs").read(model["parameters"]["sha256"])
    schema = ModelSchema.decode(unpack_members(blob)[SCHEMA])
    try:
        with Path(path).open(newline="", encoding="utf-8") as file:
            rows = _read_rows(csv.DictReader(file), schema.columns, path)
            first = 1
            while batch := list(islice(rows, ROWS_PER_REQUEST)):
                yield from _predict(host, port, name, batch, first)
                first += len(batch)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error


def _find_address(directory: Path) -> tuple[str, int]:
    facts = read_holder(directory) if is_locked(directory) else None
    if not facts or "http_port" not in facts:
        raise ServingError(f"no agent runs on {directory}; start it with edge-agent run")
    return str(facts["http_host"]), int(facts["http_port"])


def _only_slot(state: AgentState) -> str:
    if len(state.slots) == 1:
        return next(iter(state.slots))
    raise InputError(f"name a slot with --slot; there are {', '.join(state.slots) or 'none yet'}")


def _read_rows(
    reader: "csv.DictReader[str]", columns: Sequence[str], path: str
) -> Iterator[list[float]]:
    missing = [name for name in columns if name not in (reader.fieldnames or ())]
    if missing:
        raise InputError(f"{path} lacks column {', '.join(missing[:5])}; the model needs them all")
    for row in reader:
        values = []
        for name in columns:
            try:
                values.append(float(row[name]))
            except (TypeError, ValueError) as error:
                raise InputError(
                    f"{path} line {reader.line_num}: {name} is {row[name]!r:.40}, not a number"
                ) from error
        yield values


def _predict(
    host: str, port: int, name: str, rows: list[list[float]], first: int
) -> Iterator[dict[str, Any]]:
    tensor = {
        "name": INPUT_NAME,
        "datatype": "FP32",
        "shape": [len(rows), len(rows[0])],
        "data": rows,
    }
    path = f"/v2/models/{quote(name, safe='')}/infer"
    answer = _ask(host, port, "POST", path, {"inputs": [tensor]})
    for number in range(len(rows)):
        given: dict[str, Any] = {"row": first + number}
        for output in answer["outputs"]:
            width = len(output["data"]) // len(rows)
            cells = output["data"][number * width : (number + 1) * width]
            given[output["name"]] = cells[0] if len(output["shape"]) == 1 else cells
        yield given


def _ask(host: str, port: int, method: str, path: str, body: Any) -> Any:
    connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
    try:
        connection.request(method, path, None if body is None else json.dumps(body))
        response = connection.getresponse()
        answer = json.loads(response.read())
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise AgentError(f"the agent on {host} port {port} does not answer: {error}") from error
    finally:
        connection.close()
    if response.status != http.client.OK:
        raise ServingError(str(answer.get("error", response.reason)))
    return answer
