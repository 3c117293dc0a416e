"""Every command of docs/recovery.md does what the page says, in its order, on one workspace."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.warm_commands import WarmCommands

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]
PAGE = Path(__file__).parents[2] / "docs" / "recovery.md"
BLOCK = re.compile(r"^```sh\n(.*?)^```", re.DOTALL | re.MULTILINE)


def test_the_ceremonies_and_drills_can_be_run_as_they_stand(
    tmp_path: Path, warm_commands: WarmCommands
) -> None:
    blocks = BLOCK.findall(PAGE.read_text())
    assert len(blocks) >= 8
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith("EDGEFLEET_")},
        "HOME": str(tmp_path),
        "PATH": f"{warm_commands.folder}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "NO_COLOR": "1",
    }
    done = subprocess.run(
        ["sh", "-eux"],
        input="\n".join(blocks),
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
        timeout=380,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    approvers = re.findall(r"root: version (\d+)", done.stdout + done.stderr)
    assert approvers == sorted(approvers, key=int)
    assert "ENCRYPTED" in (tmp_path / "plant-keys" / "approver.pem").read_text()
    assert not (tmp_path / "fleet" / "operator").exists()
