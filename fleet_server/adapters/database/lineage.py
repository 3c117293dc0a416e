"""Which packages are versions of the same model for the same device profile."""

from collections.abc import Collection

from sqlalchemy import Engine, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import aliased
from sqlmodel import col

from fleet_server.adapters.database.engine import read_session
from fleet_server.adapters.database.tables import ArtifactRow
from fleet_server.errors import UnreachableError


class SqlLineage:
    """The ``Lineage`` over the control database."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def related(self, target: str, others: Collection[str]) -> frozenset[str]:
        """Return those of the same model and device profile as ``target``; raises FleetError."""
        other = aliased(ArtifactRow)
        statement = (
            select(col(other.sha256))
            .join(
                ArtifactRow,
                (col(ArtifactRow.model) == col(other.model))
                & (col(ArtifactRow.profile) == col(other.profile)),
            )
            .where(col(ArtifactRow.sha256) == target, col(other.sha256).in_(others))
        )
        try:
            with read_session(self._engine) as session:
                return frozenset(session.connection().execute(statement).scalars())
        except SQLAlchemyError as error:
            raise UnreachableError(f"control database: {error}") from error
