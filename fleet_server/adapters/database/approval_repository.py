"""Versions, their packages and what approvers decided, in the control database."""

from datetime import datetime

from sqlalchemy import update
from sqlmodel import Session, col, select

from fleet_server.adapters.database.tables import ApprovalRow, ArtifactRow, VersionRow
from fleet_server.ports.devices import ArtifactRecord, VersionRecord


class ApprovalRepository:
    """The ``ApprovalStore`` over one session."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def find_version(self, model: str, version: int) -> VersionRecord | None:
        """Return a version with its packages by profile."""
        state = self.find_state(model, version)
        if state is None:
            return None
        query = (
            select(ArtifactRow)
            .where(col(ArtifactRow.model) == model, col(ArtifactRow.version) == version)
            .order_by(col(ArtifactRow.profile))
        )
        return VersionRecord(
            model=model,
            number=version,
            state=state,
            artifacts=[
                ArtifactRecord(
                    target=artifact.target,
                    profile=artifact.profile,
                    sha256=artifact.sha256,
                    size_bytes=artifact.size_bytes,
                    precision=artifact.precision,
                    schema_sha256=artifact.schema_sha256,
                    chunks_sha256=artifact.chunks_sha256,
                )
                for artifact in self._session.exec(query)
            ],
        )

    def find_state(self, model: str, version: int) -> str | None:
        """Return what was decided about a version last."""
        query = select(VersionRow.state).where(
            col(VersionRow.model) == model, col(VersionRow.number) == version
        )
        return self._session.exec(query).first()

    def list_versions(self, model: str) -> list[int]:
        """Return the numbers of a model's versions; empty for an unknown model."""
        query = select(VersionRow.number).where(col(VersionRow.model) == model)
        return sorted(self._session.exec(query))

    def record(
        self,
        *,
        model: str,
        version: int,
        decision: str,
        keyid: str,
        reason: str,
        metadata_version: int,
        at: datetime,
    ) -> None:
        """Store a decision and the version's new state, which is its word."""
        self._session.add(
            ApprovalRow(
                model=model,
                version=version,
                decision=decision,
                keyid=keyid,
                reason=reason,
                metadata_version=metadata_version,
                at=at,
            )
        )
        chosen = (col(VersionRow.model) == model, col(VersionRow.number) == version)
        self._session.execute(update(VersionRow).where(*chosen).values(state=decision))
