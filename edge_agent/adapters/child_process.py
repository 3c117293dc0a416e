"""Run a piece of work in a child process whose death, hang or chatter cannot hurt the agent.

For work that begins, ends and says one thing: the self-test, the look at the runtime. The process
that answers requests lives longer and is kept by ``worker_child.py``.

Invariants: the child is over when ``run_child`` returns, and so is what it started; of what it
printed no more than the limit is read.
"""

import os
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO

from edge_agent.adapters.files import open_scratch

SMALL = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "1",
    "PYTHONNODEBUGRANGES": "1",
}
"""numpy's own threads, a heap for each of ours, and the columns in a traceback beside its lines,
would cost memory and are used for nothing."""
_WORDS_BYTES = 2_048


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildEnd:
    """How a child ended.

    Attributes:
        status: Exit status; negative: the signal it died of; None: it was late and was killed.
        output: The beginning of what it printed.
        last_words: The last line it wrote on stderr.
    """

    status: int | None
    output: bytes
    last_words: str


def run_child(command: Sequence[str], *, timeout_s: float, output_bytes_max: int) -> ChildEnd:
    """Run a command and wait for it.

    Args:
        command: Program and arguments.
        timeout_s: Longest time until it is killed.
        output_bytes_max: Of its output are read, and one more to tell that there was more.

    Raises:
        OSError: It could not be started.
    """
    with open_scratch() as output, open_scratch() as errors:
        process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
            [*command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            start_new_session=True,
            env=os.environ | SMALL,
        )
        try:
            status: int | None = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            kill_group(process)
            status = None
        output.seek(0)
        return ChildEnd(
            status=status,
            output=output.read(output_bytes_max + 1),
            last_words=_last_line(errors),
        )


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """End a child that leads a session of its own, and whatever it started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        process.kill()
    process.wait()


def say_status(status: int) -> str:
    """Say what an exit status means.

    >>> say_status(-4), say_status(3)
    ('died of SIGILL', 'ended with status 3')
    """
    if status == -signal.SIGKILL:
        return "was killed, as the kernel does when memory runs out"
    if status >= 0:
        return f"ended with status {status}"
    try:
        return f"died of {signal.Signals(-status).name}"
    except ValueError:
        return f"died of signal {-status}"


def _last_line(errors: IO[bytes]) -> str:
    size = errors.seek(0, os.SEEK_END)
    errors.seek(max(0, size - _WORDS_BYTES))
    lines = errors.read(_WORDS_BYTES).decode(errors="replace").strip().splitlines()
    return lines[-1][:300] if lines else "no word of why"
