"""Every key of a TOML text is found on its line, whatever stands inside strings."""

import tomllib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet_server.training.spec_lines import find_lines, line_of

TEXT = '''\
# [not.a.table]
top = 1  # x = 2
[a]
"quoted key" = "a # b = c"
many = [
  "x = 1", # y = 2
  { z = 3 },
]
long = """
fake = 1
[also.fake]
""""
after = 'single " quote'
b.c = { d = [1, 2] }

  [ "a" . 'e f' ]
x = """one"""
[[list]]
item = 1
[[list]]
item = 2
last = true'''


def test_keys_tables_and_strings() -> None:
    tomllib.loads(TEXT)
    assert find_lines(TEXT) == {
        ("top",): 2,
        ("a",): 3,
        ("a", "quoted key"): 4,
        ("a", "many"): 5,
        ("a", "long"): 9,
        ("a", "after"): 13,
        ("a", "b"): 14,
        ("a", "b", "c"): 14,
        ("a", "e f"): 16,
        ("a", "e f", "x"): 17,
        ("list",): 18,
        ("list", "item"): 19,
        ("list", "last"): 22,
    }


@pytest.mark.parametrize(
    ("path", "line"),
    [(("a", "many", "0"), 5), (("a", "nothing"), 3), (("nowhere", "x"), 1), ((), 1)],
)
def test_a_missing_key_is_found_at_the_nearest_table(path: tuple[str, ...], line: int) -> None:
    assert line_of(path, find_lines(TEXT)) == line


_NAMES = st.text("abcdefgh_-", min_size=1, max_size=6)
_VALUES: st.SearchStrategy[str] = st.sampled_from(
    [
        "1",
        '"a # b"',
        "'c = d'",
        "[1,\n2]",
        '"""\nx = 1\n"""',
        "'''\n[t]\n'''",
        "{ k = '}' }",
        "true",
    ]
)


@settings(deadline=None)
@given(st.dictionaries(_NAMES, st.dictionaries(_NAMES, _VALUES, max_size=4), max_size=4))
def test_every_key_lies_on_the_line_that_starts_with_it(tables: dict[str, dict[str, Any]]) -> None:
    text = "".join(
        f"[{table}]\n" + "".join(f"{key} = {value}\n" for key, value in keys.items())
        for table, keys in tables.items()
    )
    lines, rows = find_lines(text), text.splitlines()
    for table, keys in tables.items():
        assert rows[lines[(table,)] - 1] == f"[{table}]"
        for key, value in keys.items():
            assert rows[lines[(table, key)] - 1] == f"{key} = {value}".splitlines()[0]
