"""Whatever is approved and withdrawn, through flat targets into hash bins, is what clients find."""

import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet_server.adapters.tuf_repository import TufRepository
from tests.support.target_bins import PATHS, all_files, approve_in_bins, is_as_signed, look_up
from tests.support.trust import TrustWorld, make_target

SUBSETS = st.sets(st.sampled_from(PATHS), max_size=5).map(lambda paths: tuple(sorted(paths)))
STEPS = st.lists(
    st.tuples(SUBSETS, SUBSETS, st.sampled_from((0.0, 0.1, 40.0, 100.0))), min_size=1, max_size=5
)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return TrustWorld(tmp_path_factory.mktemp("bins") / "template").directory


@settings(max_examples=15, deadline=None)
@given(steps=STEPS, checked=SUBSETS)
def test_approvals_are_a_dict_that_clients_find(
    steps: list[tuple[tuple[str, ...], tuple[str, ...], float]],
    checked: tuple[str, ...],
    template: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    directory = tmp_path_factory.mktemp("case")
    shutil.copytree(template, directory / "world")
    world = TrustWorld(directory / "world")
    wanted: set[str] = set()
    was_in_bins = False
    for add, withdraw, days in steps:
        world.advance(days=days)
        approve_in_bins(world, *add, withdraw=withdraw)
        wanted = (wanted - set(withdraw)) | set(add)
        assert world.repository.approved() == {path: make_target(path) for path in wanted}
        has_bins = "approved" in world.repository.current_targets()
        assert has_bins == (was_in_bins or len(wanted) > 4)
        was_in_bins = has_bins

    # What one process read step by step, another reads at once.
    again = TufRepository(world.tuf_dir, world.keys_dir, world.clock)
    assert again.approved() == world.repository.approved()
    # A client that sees all this for the first time, at once and as late as approvals hold.
    for late_days in (0, 179):
        world.advance(days=late_days)
        world.repository.refresh_online()
        found_files = all_files(world.repository)
        for path in {*checked, *PATHS[:2]}:
            found = look_up(
                directory / f"client-{late_days}",
                world.pinned_root,
                found_files,
                path,
                world.clock.now(),
            )
            assert is_as_signed(found, make_target(path) if path in wanted else None), path
    shutil.rmtree(directory)
