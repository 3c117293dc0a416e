"""The API against its own OpenAPI document: whatever is sent, no 5xx and no undocumented answer.

schemathesis makes requests that fit the document and requests that do not, from a fixed seed. A
longer run: docs/api.md.
"""

import os
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import (
    content_type_conformance,
    not_a_server_error,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from fleet_server.api.access import ROLE_KEY
from fleet_server.core.roles import Role
from fleet_server.services.note_refusals import NOBODY
from tests.support.api import ApiBench, operations

EXAMPLES = int(os.environ.get("EDGEFLEET_API_EXAMPLES", "8"))
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiBench]:
    bench = ApiBench(tmp_path_factory.mktemp("schema"))
    bench.add_alarm()
    with bench.client:
        yield bench


@pytest.fixture(scope="module")
def schema(bench: ApiBench) -> Any:
    return schemathesis.openapi.from_asgi(
        "/v1/openapi.json", bench.app, headers=bench.as_(Role.ADMIN)
    )


def test_no_request_leads_to_a_5xx_or_an_answer_that_is_not_documented(
    bench: ApiBench, schema: Any
) -> None:
    counts: Counter[int] = Counter()
    for method, path, operation in operations(bench.app.openapi()):
        try_operation(bench, schema[path][method], operation, counts)
    assert counts[200] > 40
    assert max(counts) < 500


def try_operation(
    bench: ApiBench, one: Any, operation: dict[str, Any], counts: Counter[int]
) -> None:
    """Send made-up requests to one operation, some of them without a token."""
    admin, is_open = bench.as_(Role.ADMIN), operation[ROLE_KEY] == NOBODY
    sent: Counter[str] = Counter()

    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=st.one_of(*(one.as_strategy(generation_mode=m) for m in _modes(operation))))
    def send(case: Any) -> None:
        answer = case.call(headers=admin)
        counts[answer.status_code] += 1
        case.validate_response(answer, checks=CHECKS)
        sent["admin"] += 1
        if sent["nobody"] < EXAMPLES / 4:
            sent["nobody"] += 1
            answer = case.call()
            case.validate_response(answer, checks=CHECKS)
            assert is_open or answer.status_code in (401, 413)

    send()
    assert sent["admin"] > 0, operation["operationId"]


def _modes(operation: dict[str, Any]) -> list[GenerationMode]:
    takes = operation.get("parameters") or operation.get("requestBody")
    return list(GenerationMode) if takes else [GenerationMode.POSITIVE]
