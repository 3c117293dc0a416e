"""Late labels of version 1 keep their bytes; those of one name each are version 2, and stay so."""

import json
from pathlib import Path

import pytest

from edge_agent.contract.errors import ContractError, UnsupportedVersionError
from edge_agent.contract.fields import Fields, dump_object, parse_object
from edge_agent.contract.labels import (
    LABEL_ROWS_MAX,
    LABELS_BYTES_MAX,
    LabelRow,
    Labels,
)

GOLDEN = Path(__file__).parent / "golden"
AT_MS = 1_767_225_600_000
PLAIN = Labels(
    boot=7,
    rows=(
        LabelRow(3, b"\xab" * 8, True, 2, 0, AT_MS),
        LabelRow(4, bytes(range(8)), False, 2.5, -3.0, AT_MS + 1),
        LabelRow(9, b"\xab" * 8, True, 1, 1, AT_MS),
    ),
)
NAMED = Labels(
    boot=7,
    rows=(
        LabelRow(10, bytes(range(8)), False, 2.5, -3.0, AT_MS, "flow"),
        LabelRow(11, bytes(range(8)), False, 20.0, 21.5, AT_MS, "w\u00e4rme"),
        LabelRow(12, b"\xab" * 8, True, 2, 0, AT_MS),
        LabelRow(13, b"\xcd" * 8, True, 1, 0, AT_MS, "day"),
    ),
)


@pytest.mark.parametrize(("name", "message"), [("labels", PLAIN), ("labels_named", NAMED)])
def test_labels_are_read_and_written_as_they_began(name: str, message: Labels) -> None:
    golden = (GOLDEN / f"{name}.json").read_bytes().rstrip(b"\n")
    assert Labels.decode(golden) == message
    assert message.encode() == golden


def test_only_a_message_with_names_is_of_a_version_that_older_servers_refuse_whole() -> None:
    assert [json.loads(m.encode())["v"] for m in (PLAIN, NAMED)] == [1, 2]
    fields = Fields(parse_object(NAMED.encode(), what="labels", limit_bytes=2**16), what="labels")
    with pytest.raises(UnsupportedVersionError, match="upgrade"):
        fields.version(1)  # as those servers read it


@pytest.mark.parametrize(
    ("version", "package"),
    [
        (1, ["ab" * 8, "value", "flow"]),
        (2, ["ab" * 8, "value", ""]),
        (2, ["ab" * 8, "value", "x" * 129]),
        (2, ["ab" * 8, "value", 7]),
        (2, ["ab" * 8, "value", "flow", "heat"]),
        (2, ["xy" * 8, "value", "flow"]),
        (3, ["ab" * 8, "value"]),
    ],
)
def test_a_package_of_another_form_is_refused(version: int, package: list[object]) -> None:
    said = json.loads(PLAIN.encode()) | {"v": version, "packages": [package] * 3}
    said["rows"] = [[1, 0, 1.0, 1.0, AT_MS]]
    with pytest.raises(ContractError):
        Labels.decode(dump_object(said))


def test_a_message_has_room_for_as_many_names_as_rows_of_common_length() -> None:
    rows = tuple(
        LabelRow(n + 1, b"a" * 8, False, n / 3, n / 7, AT_MS, f"target {n}")
        for n in range(LABEL_ROWS_MAX)
    )
    payload = Labels(boot=1, rows=rows).encode()
    assert len(payload) <= LABELS_BYTES_MAX
    assert Labels.decode(payload).rows == rows
