"""The search for power cuts finds what it is there to find: bugs are planted, each is found.

Each bug is one that agents of this kind have had; most of them no kill of a process can show.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from edge_agent import agent as agent_module
from edge_agent import commits as commits_module
from edge_agent.adapters import (
    blob_store,
    chunk_store,
    enrolment,
    files,
    identity_renewer,
    identity_store,
    state_store,
)
from edge_agent.core.slot import find_needed_digests
from tests.support.power_cut import RecordingOs
from tests.support.power_cut_identity import identity_scenarios
from tests.support.power_cut_search import Scenario, search
from tests.support.power_cut_world import AGENT_SCENARIOS

# What is planted replaces names that these modules import.
FILES: Any = files
AGENT: Any = agent_module
COMMITS: Any = commits_module
RENEWER: Any = identity_renewer


class NoFileSync(RecordingOs):
    def fsync(self, handle: int) -> None:
        if self.is_directory(handle):
            super().fsync(handle)


class NoDirectorySync(RecordingOs):
    def fsync(self, handle: int) -> None:
        if not self.is_directory(handle):
            super().fsync(handle)


def written_in_place(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    handle = FILES.os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    files.write_all(handle, data)
    FILES.os.fsync(handle)
    FILES.os.close(handle)
    files.sync_directory(path.parent)


def over_a_stale_temporary(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    temporary = path.with_name(path.name + ".tmp")
    handle = FILES.os.open(temporary, os.O_WRONLY | os.O_CREAT, mode)
    files.write_all(handle, data)
    FILES.os.fsync(handle)
    FILES.os.close(handle)
    files.move_durable(temporary, path)


def moved_without_sync(source: Path, target: Path) -> None:
    FILES.os.replace(source, target)


def moved_by_rename(source: Path, target: Path) -> None:
    FILES.os.replace(source, target)
    files.sync_directory(target.parent)


def written_without_sync(
    path: Path, pieces: Sequence[tuple[int, bytes]], *, size_bytes: int
) -> None:
    handle = FILES.os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    FILES.os.ftruncate(handle, size_bytes)
    for offset, data in pieces:
        FILES.os.lseek(handle, offset, os.SEEK_SET)
        files.write_all(handle, data)
    FILES.os.close(handle)


def made_without_sync(path: Path, *, mode: int = 0o700) -> None:
    if not path.parent.is_dir():
        made_without_sync(path.parent)
    if not path.is_dir():
        FILES.os.mkdir(path, mode)


def collects_before_the_commit(patch: pytest.MonkeyPatch) -> None:
    apply, commit, begin = COMMITS.apply_change, COMMITS.Commits._commit, AGENT.Agent.__init__
    blobs: dict[Any, Any] = {}

    def beginning(agent: Any, options: Any, ports: Any, state: Any) -> None:
        begin(agent, options, ports, state)
        blobs[agent._commits] = ports.blobs

    def committing(commits: Any, change: Any, now: float) -> bool:
        state, _ = apply(commits.state, change.events, change.verified, change.standing)
        needed = [find_needed_digests(slot) for slot in state.slots.values()]
        blobs[commits].collect(frozenset[str]().union(*needed))
        return bool(commit(commits, change, now))

    patch.setattr(AGENT.Agent, "__init__", beginning)
    patch.setattr(COMMITS.Commits, "_commit", committing)


def names_the_pair_before_it_is_there(patch: pytest.MonkeyPatch) -> None:
    """The commit comes first: the certificate is written when the identity names it already."""
    save_facts, waiting = RENEWER.save_facts, list[tuple[Path, bytes]]()
    write = RENEWER.write_durable

    def hold_back(path: Path, data: bytes) -> None:
        if path.suffix == ".pem":
            waiting.append((path, data))
        else:
            write(path, data)

    def save(identity: Any) -> None:
        save_facts(identity)
        while waiting:
            write(*waiting.pop())

    patch.setattr(identity_renewer, "write_durable", hold_back)
    patch.setattr(identity_renewer, "save_facts", save)


def forgets_what_is_left(patch: pytest.MonkeyPatch) -> None:
    """Nothing is collected at a start, only when an update ends."""
    collect = AGENT.AgentJobs.collect
    patch.setattr(
        AGENT.AgentJobs,
        "collect",
        lambda jobs, find: collect(jobs, find) if jobs.clock.monotonic() > 0 else lambda: None,
    )


def keeps_the_parts_of_what_is_whole(patch: pytest.MonkeyPatch) -> None:
    def drop(store: Any, keep: frozenset[str]) -> None:
        for path in store._directory.iterdir():
            if path.name.partition(".")[0] not in keep:
                files.remove_file(path)

    patch.setattr(chunk_store.DirectoryChunkStore, "drop", drop)


def makes_directories_without_sync(patch: pytest.MonkeyPatch) -> None:
    for module in (state_store, blob_store, chunk_store):
        patch.setattr(module, "make_directory", made_without_sync)


def writes_over_the_authority_in_use(patch: pytest.MonkeyPatch) -> None:
    find = enrolment._find_free_names
    patch.setattr(enrolment, "_find_free_names", lambda home: (find(home)[0], "ca.pem"))


@dataclass(frozen=True, kw_only=True)
class Bug:
    scenario: str
    plant: Callable[[pytest.MonkeyPatch], None] = lambda _: None
    seam: type[RecordingOs] | None = None


def replacing(module: Any, name: str, bad: Any) -> Callable[[pytest.MonkeyPatch], None]:
    return lambda patch: patch.setattr(module, name, bad)


BUGS: Mapping[str, Bug] = {
    "a file is not synced": Bug(scenario="update", seam=NoFileSync),
    "a directory is not synced": Bug(scenario="update", seam=NoDirectorySync),
    "the state is written in place": Bug(
        scenario="update", plant=replacing(state_store, "write_durable", written_in_place)
    ),
    "the state is committed before the package it names has its name": Bug(
        scenario="update", plant=replacing(chunk_store, "move_durable", moved_without_sync)
    ),
    "a package is removed before the state lets go of it": Bug(
        scenario="withdrawal", plant=collects_before_the_commit
    ),
    "a stale temporary file is written over": Bug(
        scenario="rollback", plant=replacing(state_store, "write_durable", over_a_stale_temporary)
    ),
    "a package has no name while it moves": Bug(
        scenario="install", plant=replacing(chunk_store, "move_durable", moved_by_rename)
    ),
    "chunks are claimed before they are synced": Bug(
        scenario="resume", plant=replacing(chunk_store, "write_at", written_without_sync)
    ),
    "a directory is made and not synced": Bug(
        scenario="install", plant=makes_directories_without_sync
    ),
    "what a cut brings back is never collected": Bug(
        scenario="garbage collection", plant=forgets_what_is_left
    ),
    "the parts of a package that is whole stay": Bug(
        scenario="install", plant=keeps_the_parts_of_what_is_whole
    ),
    "the identity names a certificate before it is there": Bug(
        scenario="renewal", plant=names_the_pair_before_it_is_there
    ),
    "a former key may outlive its certificate": Bug(
        scenario="renewal",
        plant=replacing(identity_renewer, "remove_durable", files.remove_file),
    ),
    "another fleet's authority replaces the one in use": Bug(
        scenario="joining another fleet", plant=writes_over_the_authority_in_use
    ),
    "an identity is written in place": Bug(
        scenario="joining another fleet",
        plant=replacing(identity_store, "write_durable", written_in_place),
    ),
}


@pytest.mark.parametrize("name", BUGS)
def test_a_planted_bug_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bug = BUGS[name]
    scenarios: dict[str, Scenario] = {s.name: s for s in AGENT_SCENARIOS}
    scenarios |= {s.name: s for s in identity_scenarios()}
    bug.plant(monkeypatch)
    found = search(scenarios[bug.scenario], mixtures=300, failures_max=1, seam=bug.seam)
    assert found.failures, f"nobody noticed in {found.looked_at} states"
    print(f"{name}: {next(iter(found.failures))} (after {found.looked_at} states)")
