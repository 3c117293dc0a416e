"""Models, versions and packages in the control database.

Registration is one write transaction: the next number, the rows and the audit row appear together
or not at all, and two trainings at once get different numbers.
"""

import json
import tomllib
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Engine
from sqlalchemy.orm import aliased
from sqlmodel import Session, col, func, select

from edge_agent.contract.assignment import target_path
from fleet_server.adapters.database.audit_log import append_audit
from fleet_server.adapters.database.engine import read_session, write_session
from fleet_server.adapters.database.family_runs import read_family_run, write_family_run
from fleet_server.adapters.database.tables import ApprovalRow, ArtifactRow, ModelRow, VersionRow
from fleet_server.errors import RefusedError
from fleet_server.ports.registry import (
    Artifact,
    Decision,
    FamilyMember,
    FamilyRun,
    Model,
    NewArtifact,
    NewVersion,
    Version,
)


class DatabaseModelRegistry:
    """``ModelRegistry`` over an engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def list_models(self) -> list[Model]:
        """Give every model by name."""
        with read_session(self._engine) as session:
            rows = session.exec(select(ModelRow).order_by(col(ModelRow.name))).all()
            versions: dict[str, dict[int, str]] = {}
            for model, number, state in session.exec(
                select(VersionRow.model, VersionRow.number, VersionRow.state).order_by(
                    col(VersionRow.number)
                )
            ):
                versions.setdefault(model, {})[number] = state
            families = dict(_read_families(session))
            return [
                _to_model(row, versions.get(row.name, {}), families.get(row.name, ""))
                for row in rows
            ]

    def find_model(self, name: str) -> Model | None:
        """Give one model."""
        with read_session(self._engine) as session:
            row = session.get(ModelRow, name)
            if row is None:
                return None
            versions = session.exec(
                select(VersionRow.number, VersionRow.state)
                .where(VersionRow.model == name)
                .order_by(col(VersionRow.number))
            ).all()
            families = dict(_read_families(session, name))
            return _to_model(row, dict(versions), families.get(name, ""))

    def list_family(self, pattern: str) -> list[FamilyMember]:
        """Give the members of a family by name."""
        first = pattern.partition("{")[0]
        with read_session(self._engine) as session:
            query = (
                select(VersionRow, ModelRow.champion)
                .join(ModelRow, col(ModelRow.name) == col(VersionRow.model))
                .where(_is_newest(), col(VersionRow.model).startswith(first, autoescape=True))
                .order_by(col(VersionRow.model))
            )
            found = [
                (row, champion)
                for row, champion in session.exec(query)
                if _family_of(json.loads(row.run), row.spec) == pattern
            ]
            states = {
                (model, number): state
                for model, number, state in session.exec(
                    select(VersionRow.model, VersionRow.number, VersionRow.state)
                    .join(ModelRow, col(ModelRow.name) == col(VersionRow.model))
                    .where(col(VersionRow.number) == col(ModelRow.champion))
                )
            }
            sizes = _read_sizes(session, first)
            return [
                FamilyMember(
                    sizes=sizes.get((row.model, row.number), {}),
                    model=row.model,
                    number=row.number,
                    state=row.state,
                    champion=champion,
                    champion_state=states.get((row.model, champion), ""),
                    metrics=json.loads(row.metrics),
                    evaluation=json.loads(row.evaluation),
                    run=json.loads(row.run),
                )
                for row, champion in found
            ]

    def record_family_run(self, run: FamilyRun, *, actor: str) -> None:
        """Keep what came of training a family, with the audit log's entry."""
        with write_session(self._engine) as session:
            write_family_run(session, run, actor)

    def find_family_run(self, pattern: str) -> FamilyRun | None:
        """Give the newest run of a family."""
        with read_session(self._engine) as session:
            return read_family_run(session, pattern)

    def find_version(self, model: str, number: int) -> Version | None:
        """Give one version with its packages and decisions."""
        with read_session(self._engine) as session:
            row = session.get(VersionRow, (model, number))
            return None if row is None else _to_version(session, row)

    def register(self, new: NewVersion, *, actor: str, at: datetime) -> int:
        """Store a version; see ``ModelRegistry``."""
        with write_session(self._engine) as session:
            _save_model(session, new, at)
            newest = session.exec(
                select(func.max(VersionRow.number)).where(VersionRow.model == new.model)
            ).one()
            number = (newest or 0) + 1
            session.add(
                VersionRow(
                    model=new.model,
                    number=number,
                    created_at=at,
                    spec=new.spec,
                    metrics=json.dumps(dict(new.metrics)),
                    evaluation=json.dumps(dict(new.evaluation)),
                    forced_reason=new.forced_reason,
                    data_sha256=new.data_sha256,
                    run=json.dumps(dict(new.run)),
                )
            )
            session.flush()
            for artifact in new.artifacts:
                session.add(_to_row(new.model, number, artifact, at))
            append_audit(
                session,
                at=at,
                actor=actor,
                act="model.register",
                object=f"{new.model}/{number}",
                reason=new.forced_reason,
                detail={
                    "data": new.data_sha256,
                    "packages": {a.profile: a.sha256 for a in new.artifacts},
                    "is_forced": bool(new.forced_reason),
                },
            )
            return number


def _save_model(session: Session, new: NewVersion, at: datetime) -> None:
    row = session.get(ModelRow, new.model)
    if row is None:
        row = ModelRow(name=new.model, task=new.task, created_at=at)
    elif row.task != new.task:
        raise RefusedError(
            f"{new.model} is a {row.task} since its first version, the spec says {new.task};"
            " give the new model another name"
        )
    row.problem = new.problem
    session.add(row)
    session.flush()


def _to_row(model: str, number: int, artifact: NewArtifact, at: datetime) -> ArtifactRow:
    return ArtifactRow(
        model=model,
        version=number,
        profile=artifact.profile,
        target=target_path(model, number, artifact.profile),
        sha256=artifact.sha256,
        size_bytes=artifact.size_bytes,
        precision=artifact.precision,
        schema_sha256=artifact.schema_sha256,
        chunks_sha256=artifact.chunks_sha256,
        reference_hash=artifact.reference_hash,
        latency_ms_p95=artifact.latency_ms_p95,
        label_flips=artifact.label_flips,
        max_abs_error=artifact.max_abs_error,
        decision=artifact.decision,
        created_at=at,
    )


def _is_newest() -> ColumnElement[bool]:
    """Give the condition that a version is the newest of its model."""
    other = aliased(VersionRow)
    newest = select(func.max(other.number)).where(other.model == VersionRow.model)
    return col(VersionRow.number) == newest.scalar_subquery()


def _read_sizes(session: Session, first: str) -> dict[tuple[str, int], dict[str, int]]:
    """Give the bytes of packages by version, then by profile, of models whose names begin so."""
    row = ArtifactRow
    found: dict[tuple[str, int], dict[str, int]] = {}
    columns = (row.model, row.version, row.profile, row.size_bytes)
    query = select(*columns).where(col(row.model).startswith(first, autoescape=True))
    for model, number, profile, size_bytes in session.exec(query):
        found.setdefault((model, number), {})[profile] = size_bytes
    return found


def _read_families(session: Session, model: str = "") -> Iterator[tuple[str, str]]:
    """Give the family of each model that is a member of one."""
    query = select(VersionRow.model, VersionRow.run, VersionRow.spec).where(
        _is_newest(), col(VersionRow.run).contains('"family"')
    )
    if model:
        query = query.where(VersionRow.model == model)
    for name, run, spec in session.exec(query):
        if family := _family_of(json.loads(run), spec):
            yield name, family


def _family_of(run: Mapping[str, Any], spec: str) -> str:
    """Give the pattern of a version's family; the oldest versions have it in the spec alone."""
    family = run.get("family")
    if not isinstance(family, dict):
        return ""
    if "pattern" in family:
        return str(family["pattern"])
    try:
        return str(tomllib.loads(spec)["model"]["name"])
    except (tomllib.TOMLDecodeError, KeyError, TypeError):
        return ""


def _to_model(row: ModelRow, versions: Mapping[int, str], family: str) -> Model:
    return Model(
        name=row.name,
        task=row.task,
        problem=row.problem,
        champion=row.champion,
        versions=versions,
        family=family,
    )


def _to_version(session: Session, row: VersionRow) -> Version:
    artifacts = session.exec(
        select(ArtifactRow)
        .where(ArtifactRow.model == row.model, ArtifactRow.version == row.number)
        .order_by(col(ArtifactRow.profile))
    ).all()
    decisions = session.exec(
        select(ApprovalRow)
        .where(ApprovalRow.model == row.model, ApprovalRow.version == row.number)
        .order_by(col(ApprovalRow.id))
    ).all()
    return Version(
        model=row.model,
        number=row.number,
        state=row.state,
        created_at=row.created_at,
        spec=row.spec,
        metrics=json.loads(row.metrics),
        evaluation=json.loads(row.evaluation),
        forced_reason=row.forced_reason,
        data_sha256=row.data_sha256,
        run=json.loads(row.run),
        artifacts=tuple(_to_artifact(artifact) for artifact in artifacts),
        decisions=tuple(
            Decision(decision=d.decision, keyid=d.keyid, reason=d.reason, at=d.at)
            for d in decisions
        ),
    )


def _to_artifact(row: ArtifactRow) -> Artifact:
    return Artifact(
        target=row.target,
        package=NewArtifact(
            profile=row.profile,
            sha256=row.sha256,
            size_bytes=row.size_bytes,
            precision=row.precision,
            schema_sha256=row.schema_sha256,
            chunks_sha256=row.chunks_sha256,
            reference_hash=row.reference_hash,
            latency_ms_p95=row.latency_ms_p95,
            label_flips=row.label_flips,
            max_abs_error=row.max_abs_error,
            decision=row.decision,
        ),
    )
