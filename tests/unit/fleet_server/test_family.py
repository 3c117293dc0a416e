"""A table comes apart into the rows of each member; what cannot be named is refused."""

import math
from collections.abc import Sequence

import numpy as np
import pytest

from fleet_server.errors import RefusedError
from fleet_server.training.family import Partition, split_members
from fleet_server.training.spec import Spec
from fleet_server.training.spec_problems import SpecError
from tests.support.training import edit, raw_table, read_spec, value_spec

FAMILY = edit(
    value_spec(task="regression"),
    {
        'name = "small"': 'name = "line-{route}"',
        "[train]": '[family]\npartition = "route"\nrows_min = 10\n[train]',
    },
)


def family_spec(**changes: str) -> Spec:
    return read_spec(edit(FAMILY, changes))


def problems(changes: dict[str, str]) -> list[str]:
    with pytest.raises(SpecError) as caught:
        read_spec(edit(FAMILY, changes))
    return [say for _, say in caught.value.problems]


def split(routes: Sequence[str | None], spec: Spec | None = None) -> Partition:
    numbers = np.arange(len(routes), dtype=np.float64)
    table = raw_table({"x": numbers.tolist(), "t": numbers.tolist()}, {"route": routes})
    return split_members(spec or family_spec(), table, source="rows.csv")


def test_each_member_has_its_rows_in_the_order_of_the_table() -> None:
    routes: list[str | None] = ["b", "a"] * 12
    members = {member.name: member for member in split(routes).members}
    assert list(members) == ["line-a", "line-b"]
    assert members["line-b"].table.numbers["x"].values.tolist() == list(range(0, 24, 2))
    assert members["line-a"].values == {"route": "a"}
    assert "route" not in members["line-a"].table.words


def test_members_with_few_rows_and_rows_without_a_member_are_counted() -> None:
    found = split(["a"] * 10 + ["b"] * 9 + [None] * 3)
    assert [member.name for member in found.members] == ["line-a"]
    assert found.too_small == {"line-b": 9}
    assert found.rows_without == 3


def test_the_key_follows_the_rows_alone() -> None:
    one = split(["a"] * 10 + ["b"] * 10).members
    again = split(["a"] * 10 + ["b"] * 12).members
    assert one[0].key == again[0].key
    assert one[1].key != again[1].key
    assert one[0].key != one[1].key


def test_unreadable_numbers_stay_with_their_member() -> None:
    numbers = np.arange(20, dtype=np.float64)
    table = raw_table({"x": numbers.tolist(), "t": numbers.tolist()}, {"route": ["a", "b"] * 10})
    bad = table.numbers["x"]
    values = bad.values.copy()
    values[3] = math.nan
    broken = type(bad)(values=values, unreadable=np.array([3]), first_unreadable="?")
    marked = type(table)(rows=20, numbers={**table.numbers, "x": broken}, words=table.words)
    a, b = split_members(family_spec(), marked, source="rows.csv").members
    assert len(a.table.numbers["x"].unreadable) == 0
    assert b.table.numbers["x"].unreadable.tolist() == [1]
    assert b.table.numbers["x"].first_unreadable == "?"


def test_values_that_make_one_name_are_refused() -> None:
    with pytest.raises(RefusedError, match=r"make the name 'line-a-1'.*rename one"):
        split(["A 1"] * 10 + ["a-1"] * 10)


def test_the_fallback_has_the_rows_of_all() -> None:
    spec = read_spec(edit(FAMILY, {"rows_min = 10": 'rows_min = 10\nfallback = "pooled"'}))
    found = split(["a"] * 10 + ["b"] * 9 + [None] * 3, spec)
    own, fallback = found.members
    assert (own.name, own.is_fallback) == ("line-a", False)
    assert (fallback.name, fallback.is_fallback, fallback.values) == ("line-pooled", True, {})
    assert fallback.table.rows == 22
    assert "route" not in fallback.table.words
    with pytest.raises(RefusedError, match=r"makes the name 'line-pooled', which is the fallback"):
        split(["Pooled"] * 10, spec)


def test_values_that_make_no_name_are_refused() -> None:
    pattern = edit(FAMILY, {'"line-{route}"': '"{route}"'})
    with pytest.raises(RefusedError, match=r"route '!!' makes no model name"):
        split(["!!"] * 10, read_spec(pattern))
    with pytest.raises(RefusedError, match="0 different values"):
        split([None] * 10)


def test_the_spec_of_a_family_is_read() -> None:
    family = family_spec().family
    assert family is not None
    assert (family.partition, family.rows_min, family.fail_share_max) == (("route",), 10, 0.01)
    assert read_spec(value_spec()).family is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({'partition = "route"\n': ""}, "family.partition: missing; name the column"),
        ({'"route"\n': '"x"\n'}, "family.partition: 'x' is also a feature"),
        ({'"route"\n': '"t"\n'}, "family.partition: 't' is also data.target"),
        ({'"route"\n': '["route", "route"]\n'}, "family.partition: names a column twice"),
        ({'"route"\n': "[1]\n"}, "family.partition: must be names of columns"),
        ({"line-{route}": "line-{line}"}, "model.name: 'line-{line}' names a family"),
        ({"line-{route}": "line"}, "model.name: 'line' names a family: it must hold {route}"),
        ({"line-{route}": "Line {route}"}, "once filled"),
        ({"rows_min = 10": "rows_min = 1"}, "family.rows_min: must be a whole number from 10"),
        ({"rows_min = 10": "fail_max = 2"}, "family.fail_max: 2 must lie between 0 and 1"),
        ({"rows_min = 10": 'fallback = "parent"'}, 'family.fallback: must be "pooled" or "none"'),
    ],
)
def test_what_is_wrong_with_a_family_is_said(changes: dict[str, str], said: str) -> None:
    assert any(said in say for say in problems(changes)), problems(changes)
