"""End a worker process when the command that started it is gone, however it went."""

import os
from functools import cache
from threading import Event, Thread

PERIOD_S = 1.0


@cache
def follow_parent(parent: int) -> None:
    """End this process soon after its parent; the same call again changes nothing.

    Args:
        parent: Process id. A process that is not its child, as the command itself, lives on.
    """
    if os.getppid() == parent:
        Thread(target=_watch, args=(parent,), daemon=True, name="parent-watch").start()


def _watch(parent: int) -> None:
    never = Event()
    while os.getppid() == parent:
        never.wait(PERIOD_S)
    os._exit(1)  # what it was training is trained again by the next run
