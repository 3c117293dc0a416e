"""What packages answer with is read once, and read again where the package was not there yet."""

from edge_agent.contract.answer_parts import parts_of
from edge_agent.contract.outputs import NamedLabel
from edge_agent.contract.package import MEMBERS, SCHEMA, pack_members
from fleet_server.adapters.package_parts import StoredPackageParts
from fleet_server.errors import NotFoundError
from tests.support.labels import labels_schema

LABELS = (
    NamedLabel(name="fault", classes=("no", "yes")),
    NamedLabel(name="day", classes=("a", "b")),
)


class Packages:
    """Packages that may come later, and how often they were read."""

    def __init__(self) -> None:
        self.there: dict[str, bytes] = {}
        self.reads = 0

    def read(self, sha256: str) -> bytes:
        """Return one."""
        self.reads += 1
        if sha256 not in self.there:
            raise NotFoundError(f"no package {sha256}")
        return self.there[sha256]


def test_a_package_that_comes_late_is_not_taken_for_one_that_answers_nothing() -> None:
    packages, schema = Packages(), labels_schema(LABELS, 2)
    parts = StoredPackageParts(packages)
    assert parts.find("abc") == ()
    packages.there["abc"] = pack_members(dict.fromkeys(MEMBERS, b"") | {SCHEMA: schema.encode()})
    assert parts.find("abc") == parts_of(schema)
    reads = packages.reads
    assert [part.name for part in parts.find("abc")] == ["fault", "day"]
    assert packages.reads == reads
