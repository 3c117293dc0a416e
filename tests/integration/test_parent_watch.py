"""A worker ends with the command that started it, and the command lives on without its own."""

import os
import subprocess
import sys
from pathlib import Path

from tests.support.waiting import wait_until

FOLLOW = "from fleet_server.adapters.parent_watch import follow_parent as follow"
CHILD = (
    f"import sys, time; {FOLLOW}; follow(int(sys.argv[1])); print('on', flush=True); time.sleep(99)"
)
PARENT = (
    "import os, subprocess, sys; child = subprocess.Popen("
    "[sys.executable, '-c', sys.argv[1], str(os.getpid())]);"
    " print(child.pid, flush=True); child.wait()"
)


def test_a_worker_ends_when_its_command_is_killed() -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, CHILD], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    said = {parent.stdout.readline().strip() for _ in range(2)}
    (child,) = (int(word) for word in said - {"on"})
    parent.kill()
    parent.wait()
    wait_until(lambda: not Path(f"/proc/{child}").exists(), what="the worker's end")
    parent.stdout.close()


def test_a_process_that_is_not_a_child_of_it_lives_on() -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(os.getppid())], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "on\n"
    assert child.poll() is None
    child.kill()
    child.wait()
    child.stdout.close()
