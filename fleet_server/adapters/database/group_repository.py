"""Groups in the control database."""

from sqlmodel import Session, col, select

from fleet_server.adapters.database.tables import GroupRow
from fleet_server.ports.rollouts import Group


class GroupRepository:
    """The ``GroupStore`` over one session."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def find(self, name: str) -> Group | None:
        """Return a group."""
        row = self._session.get(GroupRow, name)
        return _group(row) if row else None

    def list_all(self) -> list[Group]:
        """Return every group by name."""
        rows = self._session.exec(select(GroupRow).order_by(col(GroupRow.name)))
        return [_group(row) for row in rows]

    def put(self, group: Group) -> None:
        """Store a group, new or changed."""
        row = self._session.get(GroupRow, group.name)
        if row is None:
            row = GroupRow(name=group.name, query=group.query, created_at=group.created_at)
        row.query = group.query
        self._session.add(row)
        self._session.flush()


def _group(row: GroupRow) -> Group:
    return Group(name=row.name, query=row.query, created_at=row.created_at)
