"""Guard of the one private attribute of python-tuf that the verifier sets."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tuf.api.exceptions import ExpiredMetadataError
from tuf.api.metadata import Metadata, Root
from tuf.ngclient import Updater

from edge_agent.adapters.tuf_metadata import ReceivedFiles, set_reference_time
from tests.support.trust import NOW, TrustWorld


def test_python_tuf_still_takes_the_time_from_us(tmp_path: Path) -> None:
    world = TrustWorld(tmp_path)
    files = world.refresh()
    expires = Metadata[Root].from_bytes(world.pinned_root).signed.expires
    for now_at, is_expired in ((NOW, False), (expires + timedelta(seconds=1), True)):
        updater = Updater(
            metadata_dir=str(tmp_path),
            metadata_base_url="memory:",
            fetcher=ReceivedFiles(files),
            bootstrap=world.pinned_root,
        )
        before = updater._trusted_set.reference_time
        assert abs(before - datetime.now(UTC)) < timedelta(minutes=1)
        set_reference_time(updater, now_at)
        if is_expired:
            with pytest.raises(ExpiredMetadataError, match="root"):
                updater.refresh()
        else:
            updater.refresh()


def test_only_one_function_touches_it() -> None:
    source = Path(__file__).parents[3] / "edge_agent"
    uses = [
        line.strip()
        for path in source.rglob("*.py")
        for line in path.read_text().splitlines()
        if "_trusted_set" in line
    ]
    assert len(uses) == 1
