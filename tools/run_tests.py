"""Run pytest; a few failed tests of real processes are tried once more, one at a time, and named.

Usage: ``python tools/run_tests.py [PYTEST ARGUMENT ...]``. Tests that start brokers, servers and
agents share few processors with each other; what they wait for can come late on a busy machine.
One that fails is tried again with the machine to itself. If it fails again, it has failed. If it
passes, the run passes and its last line says which test needed that, so that it can be mended.

No second try for tests without processes of their own, which have no such excuse; none when more
than ``AGAIN_MAX`` failed; none when the run was interrupted or anything but a test went wrong.

Exit codes: pytest's.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

AGAIN_MAX = 3
"""One late event fails one test; more failures at once are no accident."""
REAL_PROCESSES = ("tests/e2e/", "tests/integration/", "tests/crash/")
FAILED = 1
"""pytest's exit code when tests ran and some failed."""
_LAST_FAILED = Path(".pytest_cache/v/cache/lastfailed")


def main(arguments: Sequence[str]) -> int:
    """Run, and run again what may be; returns the exit code."""
    _LAST_FAILED.unlink(missing_ok=True)
    code = _run_pytest(arguments)
    if code != FAILED:
        return code
    failed = _read_failed()
    if not is_tried_again(failed):
        return code
    _say(f"\nOnce more, alone: {', '.join(failed)}")
    code = _run_pytest(["-q", "-n", "0", *failed])
    if code == 0:
        _say(f"UNSTEADY, passed at the second try: {', '.join(failed)}")
    return code


def is_tried_again(failed: Sequence[str]) -> bool:
    """Tell whether these failures may be the machine's."""
    return 0 < len(failed) <= AGAIN_MAX and all(name.startswith(REAL_PROCESSES) for name in failed)


def _run_pytest(arguments: Sequence[str]) -> int:
    command = [sys.executable, "-m", "pytest", *arguments]
    return subprocess.run(command, check=False).returncode  # noqa: S603 - what the caller typed


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _read_failed() -> list[str]:
    return sorted(json.loads(_LAST_FAILED.read_text())) if _LAST_FAILED.exists() else []


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
