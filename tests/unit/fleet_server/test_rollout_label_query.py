"""Label queries: what each form means, and how a bad one reads."""

import pytest

from fleet_server.core.label_query import (
    NESTING_MAX,
    QUERY_CHARS_MAX,
    QueryError,
    device_facts,
    parse_query,
)

DEVICES = {
    "cam-1": device_facts("cam-1", "camera", {"site": "hall"}),
    "cam-2": device_facts("cam-2", "camera", {"site": "lab"}),
    "gw-1": device_facts("gw-1", "iot-gateway", {"site": "two words"}),
    "srv-1": device_facts("srv-1", "onprem-server", {"profile": "camera"}),
}


@pytest.mark.parametrize(
    ("query", "ids"),
    [
        ("all", "cam-1 cam-2 gw-1 srv-1"),
        ("profile=camera", "cam-1 cam-2"),
        ("profile=camera and site!=lab", "cam-1"),
        ("site!=lab", "cam-1 gw-1 srv-1"),
        ("site=''", "srv-1"),
        ('site="two words"', "gw-1"),
        ("id in (cam-1, srv-1)", "cam-1 srv-1"),
        ("id not in (cam-1,srv-1)", "cam-2 gw-1"),
        ("site=lab or profile=iot-gateway and site!=hall", "cam-2 gw-1"),
        ("(site=lab or profile=iot-gateway) and site!=lab", "gw-1"),
        ("not (profile=camera or profile=iot-gateway)", "srv-1"),
        ("not not id=gw-1", "gw-1"),
        ("  id = gw-1  ", "gw-1"),
        ("id='all'", ""),
    ],
)
def test_means(query: str, ids: str) -> None:
    parsed = parse_query(query)
    assert [name for name, facts in DEVICES.items() if parsed.is_match(facts)] == ids.split()


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("", "empty; write `all`"),
        ("  ", "empty"),
        ("profile", "expected `=`, `!=` or `in` after 'profile', found the end"),
        ("profile=", "expected a value, found the end"),
        (
            "profile=camera site=lab",
            "expected `and`, `or` or the end, found 'site' at character 16",
        ),
        ("id in cam-1", r"expected `\(`"),
        ("id in (cam-1", r"expected `\)`"),
        ("id in ()", "expected a value"),
        ("all and id=x", "expected a label"),
        ("site=and", "expected a value, found 'and'"),
        ("site=$x", "cannot read '\\$x'"),
        ("site='x", "cannot read"),
        ("(" * (NESTING_MAX + 2) + "id=x" + ")" * (NESTING_MAX + 2), "nested more than"),
        ("a" * (QUERY_CHARS_MAX + 1), "the limit is"),
    ],
)
def test_refuses(query: str, message: str) -> None:
    with pytest.raises(QueryError, match=message):
        parse_query(query)


def test_reads_at_the_limits() -> None:
    nested = "(" * NESTING_MAX + "id=x" + ")" * NESTING_MAX
    assert parse_query(nested).is_match({"id": "x"})
    assert parse_query("id=x" + " " * (QUERY_CHARS_MAX - 4)).is_match({"id": "x"})
