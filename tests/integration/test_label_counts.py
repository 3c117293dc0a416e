"""Late labels on the server: counted once, summed up by version, shown with their interval."""

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine
from typer.testing import CliRunner, Result

from edge_agent.contract.answer_parts import AnswerPart
from edge_agent.contract.labels import LabelRow, Labels
from edge_agent.contract.messages import LabelRange
from edge_agent.contract.topics import Channel, device_topic
from fleet_server.adapters.database.drift_repository import DatabaseDriftCatalog
from fleet_server.adapters.database.label_book import MARKS_MAX, DatabaseLabelBook
from fleet_server.cli import label
from fleet_server.core.live_accuracy import Estimate, estimate_share
from fleet_server.ports.gateway import InboundMessage
from fleet_server.ports.labels import DeviceLabels
from fleet_server.services.read_labels import LabelReader
from fleet_server.services.record_labels import RecordLabels
from tests.support.drift import class_reference, normal_rows
from tests.support.drift_fleet import DriftFleet, open_drift_fleet

REFERENCE = class_reference(normal_rows(0, 500, 3), answers=normal_rows(1, 500, 3))
RETENTION = timedelta(days=30)
EARLY = datetime(2020, 1, 1, tzinfo=UTC)
BOOT = 0x51


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[DriftFleet]:
    (tmp_path / "ws" / "server").mkdir(parents=True)
    (tmp_path / "ws" / "edgefleet.toml").write_text("")
    fleet = open_drift_fleet(tmp_path / "ws" / "server", REFERENCE)
    yield fleet
    fleet.store.close()
    fleet.engine.dispose()


@pytest.fixture
def book(fleet: DriftFleet) -> DatabaseLabelBook:
    return DatabaseLabelBook(fleet.engine, retention=RETENTION)


def rows(
    fleet: DriftFleet,
    numbers: Sequence[int],
    *,
    is_right: bool = True,
    hours_ago: float = 0,
    artifact: bytes | None = None,
) -> tuple[LabelRow, ...]:
    at_ms = int((fleet.clock.now() - timedelta(hours=hours_ago)).timestamp() * 1_000)
    own = bytes.fromhex(fleet.sha256)[:8]
    return tuple(
        LabelRow(n, artifact or own, True, n % 2, n % 2 if is_right else 1 - n % 2, at_ms)
        for n in numbers
    )


def values(numbers: Sequence[int], fleet: DriftFleet, error: float) -> tuple[LabelRow, ...]:
    at_ms = int(fleet.clock.now().timestamp() * 1_000)
    return tuple(
        LabelRow(n, bytes.fromhex(fleet.sha256)[:8], False, n + error, float(n), at_ms)
        for n in numbers
    )


def send(
    book: DatabaseLabelBook,
    fleet: DriftFleet,
    said: tuple[LabelRow, ...],
    *,
    device: int = 1,
    boot: int = BOOT,
) -> tuple[int, int, int, int]:
    found = book.add([DeviceLabels(device, Labels(boot=boot, rows=said))], at=fleet.clock.now())
    return found.counted, found.duplicates, found.unknown, found.undated


def total(book: DatabaseLabelBook) -> int:
    return sum(version.rows for version in book.read("m", since_at=EARLY))


def test_a_label_counts_once_however_often_it_is_sent(
    fleet: DriftFleet, book: DatabaseLabelBook
) -> None:
    first = rows(fleet, range(1, 6))
    assert send(book, fleet, first) == (5, 0, 0, 0)
    assert send(book, fleet, first) == (0, 5, 0, 0)
    assert send(book, fleet, rows(fleet, range(3, 9))) == (3, 3, 0, 0), "grown since"
    assert send(book, fleet, first) == (0, 5, 0, 0), "from a broker that was killed"
    assert send(book, fleet, rows(fleet, [20])) == (1, 0, 0, 0), "what is between was dropped"
    assert send(book, fleet, first, boot=BOOT + 1) == (5, 0, 0, 0)
    assert send(book, fleet, first, device=2) == (5, 0, 0, 0)
    assert total(book) == 19


def test_labels_nobody_can_place_are_told_apart_and_never_counted(
    fleet: DriftFleet, book: DatabaseLabelBook
) -> None:
    assert send(book, fleet, rows(fleet, [1, 2], artifact=b"x" * 8)) == (0, 0, 2, 0)
    assert send(book, fleet, rows(fleet, [3], hours_ago=31 * 24)) == (0, 0, 0, 1)
    assert send(book, fleet, rows(fleet, [4], hours_ago=-25)) == (0, 0, 0, 1)
    assert send(book, fleet, rows(fleet, [5], hours_ago=-23)) == (1, 0, 0, 0)
    assert total(book) == 1


def test_labels_add_up_by_version_and_hour(fleet: DriftFleet, book: DatabaseLabelBook) -> None:
    send(book, fleet, rows(fleet, range(1, 9)))
    send(book, fleet, rows(fleet, range(9, 13), is_right=False, hours_ago=5), device=2)
    (version,) = book.read("m", since_at=EARLY)
    assert (version.version, version.devices, version.rows) == (1, 2, 12)
    assert version.last_at - version.first_at == timedelta(hours=5)
    (part,) = version.parts
    assert [tuple(cell) for cell in part.cells] == [(0, 0, 4), (0, 1, 2), (1, 0, 2), (1, 1, 4)]
    (recent,) = book.read("m", since_at=fleet.clock.now() - timedelta(hours=2))
    assert recent.rows == 8
    assert book.read("m", since_at=EARLY, device="no-such") == []
    assert book.read("other", since_at=EARLY) == []


def test_errors_of_a_regression_add_up(fleet: DriftFleet, book: DatabaseLabelBook) -> None:
    send(book, fleet, values(range(1, 5), fleet, 2.0))
    send(book, fleet, values(range(5, 9), fleet, -1.0))
    (version,) = book.read("m", since_at=EARLY)
    (part,) = version.parts
    assert part.cells == []
    sums = (part.rows, part.error_sum, part.absolute_sum, part.squared_sum)
    assert sums == (8, 4.0, 12.0, 20.0)


def test_old_hours_are_forgotten_and_marks_are_bounded(
    fleet: DriftFleet, book: DatabaseLabelBook
) -> None:
    send(book, fleet, rows(fleet, [1], hours_ago=72))
    send(book, fleet, rows(fleet, [2]))
    assert book.drop_before(fleet.clock.now() - timedelta(hours=24)) == 1
    assert total(book) == 1
    for boot in range(2 * MARKS_MAX):
        fleet.clock.advance(1)
        send(book, fleet, rows(fleet, [1]), boot=boot)
    assert count_marks(fleet.engine) == MARKS_MAX
    assert send(book, fleet, rows(fleet, [1]), boot=2 * MARKS_MAX - 1) == (0, 1, 0, 0)


def count_marks(engine: Engine) -> int:
    with engine.connect() as connection:
        query = "SELECT count(*) FROM label_mark WHERE device = 1"
        return int(connection.exec_driver_sql(query).scalar_one())


class Directory:
    def find(self, device_id: str) -> int | None:
        return 1 if device_id == "cam-01" else None


def test_only_what_was_taken_is_acknowledged_and_the_rest_is_quarantined(
    fleet: DriftFleet, book: DatabaseLabelBook
) -> None:
    payload = Labels(boot=BOOT, rows=rows(fleet, range(4, 9))).encode()
    unknown = Labels(boot=BOOT, rows=rows(fleet, [9], artifact=b"x" * 8)).encode()
    topic = device_topic("cam-01", Channel.LABELS)
    batch = [
        InboundMessage(topic, payload),
        InboundMessage(topic, b"{}"),
        InboundMessage(device_topic("stranger", Channel.LABELS), payload),
        InboundMessage(topic, unknown),
    ]
    said = RecordLabels(book, Directory()).record(batch, at=fleet.clock.now())
    assert [(name, ack.labels) for name, ack in said.acks] == [
        ("cam-01", (LabelRange(BOOT, 4, 8),)),
        ("cam-01", (LabelRange(BOOT, 9, 9),)),
    ]
    reasons = [q.reason for q in said.quarantined]
    assert len(reasons) == 3
    assert "not enrolled" in reasons[1]
    assert reasons[2] == "1 labels of packages that are not registered here"
    assert total(book) == 5


class Parts:
    """What the fleet's only package answers with."""

    def __init__(self, *parts: AnswerPart) -> None:
        self.parts, self.asked = parts, ""

    def find(self, sha256: str) -> tuple[AnswerPart, ...]:
        self.asked = sha256
        return self.parts


TARGETS = Parts(AnswerPart("heat"), AnswerPart("flow"), AnswerPart("power"))
SEVERAL = Parts(AnswerPart("rain", ("no", "yes")), AnswerPart("day", ("work", "rest", "feast")))


def named(
    fleet: DriftFleet, name: str, numbers: Sequence[int], predicted: float, label: float
) -> tuple[LabelRow, ...]:
    is_class = name in ("rain", "day")
    at_ms = int(fleet.clock.now().timestamp() * 1_000)
    artifact = bytes.fromhex(fleet.sha256)[:8]
    return tuple(LabelRow(n, artifact, is_class, predicted, label, at_ms, name) for n in numbers)


def test_each_target_is_counted_by_its_name_and_told_in_the_order_of_the_package(
    fleet: DriftFleet,
) -> None:
    book = DatabaseLabelBook(fleet.engine, retention=RETENTION, parts=TARGETS)
    send(book, fleet, named(fleet, "flow", range(1, 5), 3.0, 1.0))
    send(book, fleet, named(fleet, "heat", range(5, 9), 20.0, 21.0))
    send(book, fleet, named(fleet, "heat", range(9, 13), 20.0, 18.0))
    reader = LabelReader(book=book, catalog=DatabaseDriftCatalog(fleet.engine), parts=TARGETS)
    (figures,) = reader.read("m", since_at=EARLY)
    assert figures.names == ["heat", "flow", "power"]
    found = {p.labelled.name: (p.labelled.rows, p.absolute_error) for p in figures.parts}
    assert list(found) == ["heat", "flow"]
    assert found["flow"] == (4, Estimate(value=2.0, low=2.0, high=2.0, rows=4))
    heat = found["heat"][1]
    mean = figures.absolute_error
    assert heat is not None
    assert mean is not None
    assert (heat.value, mean.value, mean.rows) == (1.5, 1.75, 12)
    assert (mean.low, mean.high) == ((heat.low + 2) / 2, (heat.high + 2) / 2)
    assert figures.accuracy is None


def test_what_a_package_does_not_answer_is_told_apart_and_never_counted(fleet: DriftFleet) -> None:
    book = DatabaseLabelBook(fleet.engine, retention=RETENTION, parts=SEVERAL)
    rain = named(fleet, "rain", [1], 1, 0)[0]
    wrong = [
        rain._replace(name=""),
        rain._replace(name="snow"),
        rain._replace(is_class=False),
        rain._replace(label=2),
        rain._replace(predicted=2),
    ]
    said = tuple(row._replace(sequence=n + 1) for n, row in enumerate(wrong))
    message = Labels(boot=BOOT, rows=(*said, rain._replace(sequence=9, name="day", label=2)))
    counted = book.add([DeviceLabels(1, message)], at=fleet.clock.now())
    assert (counted.counted, counted.unfit) == (1, 5)
    payload = Labels(boot=BOOT + 1, rows=said).encode()
    inbound = InboundMessage(device_topic("cam-01", Channel.LABELS), payload)
    said_by = RecordLabels(book, Directory()).record([inbound], at=fleet.clock.now())
    assert [q.reason for q in said_by.quarantined] == [
        "5 labels that are not of what their package answers"
    ]
    assert len(said_by.acks) == 1, "sending them again would change nothing"
    gone = DatabaseLabelBook(fleet.engine, retention=RETENTION, parts=Parts())
    assert send(gone, fleet, (rain,), boot=BOOT + 2)[0] == 0
    assert send(gone, fleet, rows(fleet, [1]), boot=BOOT + 3)[0] == 1


def run(fleet: DriftFleet, *arguments: str, expect: int = 0) -> Result:
    path = Path(str(fleet.engine.url.database)).parent.parent
    result = CliRunner().invoke(label.app, ["show", *arguments, "-w", str(path)])
    assert result.exit_code == expect, result.output
    return result


def test_a_person_reads_accuracy_with_interval_and_rows(
    fleet: DriftFleet, book: DatabaseLabelBook
) -> None:
    fleet.clock.advance((datetime.now(UTC) - fleet.clock.now()).total_seconds())
    assert "no labels" in run(fleet, "m").stderr
    send(book, fleet, rows(fleet, range(1, 91)))
    send(book, fleet, rows(fleet, range(91, 101), is_right=False))
    text = run(fleet, "m").stdout
    assert "m 1: accuracy 90.0 % (82.6 to 94.5) over 100 labels; 1 devices" in text
    assert "taken for" in text
    (version,) = json.loads(run(fleet, "m", "--json").stdout)["versions"]
    assert version["accuracy"]["rows"] == 100
    assert version["cells"] == [[0, 0, 45], [0, 1, 5], [1, 0, 5], [1, 1, 45]]
    run(fleet, "no-such-model", expect=1)


def test_a_person_reads_the_error_of_a_regression(
    fleet: DriftFleet, book: DatabaseLabelBook
) -> None:
    fleet.clock.advance((datetime.now(UTC) - fleet.clock.now()).total_seconds())
    send(book, fleet, values(range(1, 5), fleet, 2.0))
    send(book, fleet, values(range(5, 9), fleet, -1.0))
    text = run(fleet, "m").stdout
    assert "mean absolute error 1.5 (1.13 to 1.87) over 8 labels, rmse 1.581" in text
    assert "leans by 0.5" in text


def test_a_person_reads_each_label_of_an_answer_and_their_mean(fleet: DriftFleet) -> None:
    fleet.clock.advance((datetime.now(UTC) - fleet.clock.now()).total_seconds())
    book = DatabaseLabelBook(fleet.engine, retention=RETENTION, parts=SEVERAL)
    send(book, fleet, named(fleet, "rain", range(1, 91), 1, 1))
    send(book, fleet, named(fleet, "rain", range(91, 101), 1, 0))
    send(book, fleet, named(fleet, "day", range(101, 111), 2, 2))
    lines = run(fleet, "m").stdout.splitlines()
    assert lines[0].startswith("m 1: accuracy 95.0 % (")
    assert "over 110 labels, the mean of 2 of 2 labels; 1 devices" in lines[0]
    assert lines[1] == "  day: accuracy 100.0 % (72.2 to 100.0) over 10 labels"
    assert "  rain: accuracy 90.0 % (82.6 to 94.5) over 100 labels" in lines
    assert "    class 0 taken for class 1: 10" in lines
    (version,) = json.loads(run(fleet, "m", "--json").stdout)["versions"]
    assert version["accuracy"]["value"] == 0.95
    assert [(n, p["accuracy"]["value"], p["rows"]) for n, p in version["parts"].items()] == [
        ("day", 1.0, 10),
        ("rain", 0.9, 100),
    ]


@pytest.mark.parametrize(("hits", "rows"), [(0, 1), (1, 1), (0, 50), (50, 50), (7, 9)])
def test_the_interval_holds_the_share_and_stays_within_one(hits: int, rows: int) -> None:
    found = estimate_share(hits, rows)
    assert found is not None
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert found.high > found.low
