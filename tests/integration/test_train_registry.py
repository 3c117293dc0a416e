"""Numbers are given once, whoever asks at the same time; what does not exist is said."""

import dataclasses
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlmodel import select

from fleet_server.adapters.database.audit_log import find_breaks
from fleet_server.adapters.database.engine import open_engine, read_session, write_session
from fleet_server.adapters.database.migrate import migrate
from fleet_server.adapters.database.model_repository import DatabaseModelRegistry
from fleet_server.adapters.database.tables import (
    ApprovalRow,
    ArtifactRow,
    AuditRow,
    DecisionRow,
    VersionRow,
)
from fleet_server.errors import NotFoundError, RefusedError
from fleet_server.ports.registry import FamilyRun, NewArtifact, NewVersion
from fleet_server.services.browse_models import BrowseModels

AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
PACKAGE = NewArtifact(
    profile="camera",
    sha256="a" * 64,
    size_bytes=10,
    precision="fp32",
    schema_sha256="b" * 64,
    chunks_sha256="c" * 64,
    reference_hash="d" * 16,
    latency_ms_p95=0.5,
    label_flips=0.0,
    max_abs_error=1e-7,
    decision="fp32: nothing to quantize",
)
NEW = NewVersion(
    model="digits",
    task="classification",
    problem="Read digits.",
    spec="[model]",
    metrics={"accuracy": 0.97},
    evaluation={"rows": 10},
    forced_reason="",
    data_sha256="e" * 64,
    run={"primary": "accuracy"},
    artifacts=(PACKAGE,),
)


@pytest.fixture
def registry(tmp_path: Path) -> DatabaseModelRegistry:
    migrate(tmp_path / "control.db")
    return DatabaseModelRegistry(open_engine(tmp_path / "control.db"))


def test_what_is_registered_is_read_back(registry: DatabaseModelRegistry) -> None:
    assert registry.register(NEW, actor="ann", at=AT) == 1
    version = registry.find_version("digits", 1)
    assert version is not None
    for field in dataclasses.fields(NewVersion):
        if field.name not in ("task", "problem", "artifacts"):
            assert getattr(version, field.name) == getattr(NEW, field.name)
    assert version.created_at == AT
    assert [(a.target, a.package) for a in version.artifacts] == [("digits/1/camera.tar", PACKAGE)]
    model = registry.find_model("digits")
    assert model is not None
    assert (model.task, model.problem, model.champion) == ("classification", "Read digits.", 0)
    assert model.versions == {1: "registered"}
    assert registry.list_models() == [model]


def test_of_a_family_the_newest_run_is_kept_and_others_are_left_alone(
    registry: DatabaseModelRegistry, tmp_path: Path
) -> None:
    runs = [
        FamilyRun(
            pattern=pattern,
            is_acceptable=False,
            sentence=sentence,
            registered=0,
            kept=0,
            failed={"line-r1": sentence},
            too_small={},
            rows_without=0,
            reasons={},
            at=AT,
        )
        for pattern, sentence in (("line-{r}", "first"), ("bus-{r}", "other"), ("line-{r}", "last"))
    ]
    for run in runs:
        registry.record_family_run(run, actor="ann")
    assert registry.find_family_run("line-{r}") == runs[2]
    assert registry.find_family_run("bus-{r}") == runs[1]
    with read_session(open_engine(tmp_path / "control.db")) as session:
        assert len(session.exec(select(DecisionRow)).all()) == 2
        acts = [row.act for row in session.exec(select(AuditRow))]
    assert acts.count("family.train") == 3


def test_numbers_are_counted_per_model(registry: DatabaseModelRegistry) -> None:
    other = dataclasses.replace(NEW, model="letters")
    numbers = [registry.register(new, actor="ann", at=AT) for new in (NEW, NEW, other, NEW)]
    assert numbers == [1, 2, 1, 3]


def test_trainings_at_once_get_different_numbers(tmp_path: Path) -> None:
    migrate(tmp_path / "control.db")

    def register(_: int) -> int:
        one = DatabaseModelRegistry(open_engine(tmp_path / "control.db"))
        return one.register(NEW, actor="ann", at=AT)

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(register, range(16))) == list(range(1, 17))
    with read_session(open_engine(tmp_path / "control.db")) as session:
        assert len(session.exec(select(ArtifactRow)).all()) == 16
        assert list(find_breaks(iter(session.exec(select(AuditRow)).all()))) == []


def test_a_version_that_cannot_be_stored_whole_leaves_nothing(
    registry: DatabaseModelRegistry,
) -> None:
    twice = dataclasses.replace(NEW, artifacts=(PACKAGE, PACKAGE))
    with pytest.raises(Exception, match=r"(?i)unique"):
        registry.register(twice, actor="ann", at=AT)
    assert registry.list_models() == []
    with read_session(registry._engine) as session:
        for table in (VersionRow, ArtifactRow, AuditRow):
            assert session.exec(select(table)).first() is None
    assert registry.register(NEW, actor="ann", at=AT) == 1


def test_a_model_keeps_its_task_and_takes_the_newest_problem(
    registry: DatabaseModelRegistry,
) -> None:
    registry.register(NEW, actor="ann", at=AT)
    with pytest.raises(RefusedError, match="give the new model another name"):
        registry.register(dataclasses.replace(NEW, task="regression"), actor="ann", at=AT)
    registry.register(dataclasses.replace(NEW, problem="Read more."), actor="ann", at=AT)
    model = registry.find_model("digits")
    assert model is not None
    assert (model.problem, list(model.versions)) == ("Read more.", [1, 2])


def test_decisions_are_read_with_the_version(registry: DatabaseModelRegistry) -> None:
    registry.register(NEW, actor="ann", at=AT)
    with write_session(registry._engine) as session:
        session.add(
            ApprovalRow(model="digits", version=1, decision="approved", keyid="k", reason="", at=AT)
        )
    version = registry.find_version("digits", 1)
    assert version is not None
    assert [(d.decision, d.at) for d in version.decisions] == [("approved", AT)]


def test_what_does_not_exist_is_answered_with_what_does(registry: DatabaseModelRegistry) -> None:
    browser = BrowseModels(registry=registry)
    with pytest.raises(NotFoundError, match="none is registered; `edgefleet train"):
        browser.get_model("digits")
    registry.register(NEW, actor="ann", at=AT)
    registry.register(NEW, actor="ann", at=AT)
    with pytest.raises(NotFoundError, match=r"no model 'digts'; did you mean 'digits'\?"):
        browser.get_model("digts")
    with pytest.raises(NotFoundError, match="no model 'xyz'; there are: digits"):
        browser.get_version("xyz", 1)
    with pytest.raises(NotFoundError, match="digits has no version 9; it has 1, 2"):
        browser.get_version("digits", 9)
    assert browser.get_version("digits", None).number == 2


def test_looking_at_models_loads_no_training_library() -> None:
    code = (
        "import fleet_server.wiring.training, sys;"
        "print([m for m in ('sklearn', 'pyarrow', 'onnx', 'skops') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
