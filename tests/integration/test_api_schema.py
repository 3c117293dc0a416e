"""The API against its own OpenAPI document: whatever is sent, no 5xx and no undocumented answer.

schemathesis makes requests that fit the document and requests that do not, from a fixed seed. A
longer run: docs/api.md.
"""

import os
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

from fleet_server.core.roles import Role
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


@pytest.mark.parametrize("role", [Role.ADMIN, None], ids=["admin", "nobody"])
def test_no_request_leads_to_a_5xx_or_an_answer_that_is_not_documented(
    bench: ApiBench, schema: Any, role: Role | None
) -> None:
    headers = bench.as_(role) if role else {}
    counts: dict[int, int] = {}
    for method, path, operation in operations(bench.app.openapi()):
        one = schema[path][method]
        cases = st.one_of(*(one.as_strategy(generation_mode=mode) for mode in _modes(operation)))

        @settings(
            max_examples=EXAMPLES if role else 2,
            derandomize=True,
            database=None,
            deadline=None,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=cases)
        def send(case: Any) -> None:
            answer = case.call(headers=headers)
            counts[answer.status_code] = counts.get(answer.status_code, 0) + 1
            case.validate_response(answer, checks=CHECKS)

        send()
    assert sum(counts.values()) > 100
    if role is None:
        assert set(counts) <= {200, 400, 401, 403, 405, 413, 422, 429}
    else:
        assert counts[200] > 50
        assert not [status for status in counts if status >= 500]


def _modes(operation: dict[str, Any]) -> list[GenerationMode]:
    takes = operation.get("parameters") or operation.get("requestBody")
    return list(GenerationMode) if takes else [GenerationMode.POSITIVE]
