"""A child that runs a foreign model does not outlive the builder that waits for it."""

import os
import select
import subprocess
import sys
from pathlib import Path

import pytest

STARTS_CHILD = """
import subprocess, sys
subprocess.run([sys.executable, "-m", "converters.guarded_child", sys.argv[1]])
"""
WAIT_MS = 20_000


@pytest.mark.skipif(sys.platform != "linux", reason="Linux ends a child with its parent")
def test_the_child_of_a_killed_builder_ends(tmp_path: Path) -> None:
    job = tmp_path / "job.json"
    os.mkfifo(job)
    builder = subprocess.Popen([sys.executable, "-c", STARTS_CHILD, str(tmp_path)])
    pipe = os.open(job, os.O_WRONLY)  # waits until the child reads its job
    try:
        reader = select.poll()
        reader.register(pipe, select.POLLERR)
        assert not reader.poll(0)
        builder.kill()
        builder.wait()
        assert reader.poll(WAIT_MS), "the child reads on"
    finally:
        os.close(pipe)
