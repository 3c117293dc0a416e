"""Late labels kept in memory: what a server without telemetry hands them to.

Left out: telling whether a number was ever given out; the durable sink knows its answers.
"""

import math
import re
import threading
from collections import deque

from edge_agent.errors import InputError

LABELS_MAX = 10_000
_ID = re.compile(r"([0-9a-f]{16})-([0-9a-f]{1,4})-([0-9a-f]{1,16})(?:\.(\d{1,4}))?")


class LabelBuffer:
    """The newest labels of this start of the agent; safe to call from any thread."""

    def __init__(self, boot: int) -> None:
        """Begin with none; ``boot`` is the id that prediction ids of this start begin with."""
        self._prefix = f"{boot:016x}"
        self._lock = threading.Lock()
        self._labels: deque[tuple[str, str | float]] = deque(maxlen=LABELS_MAX)

    def add(self, prediction_id: str, label: str | float) -> None:
        """Keep a label; see ``ports.LabelSink``."""
        match = _ID.fullmatch(prediction_id)
        if match is None:
            raise InputError(f"{prediction_id[:80]!r} is no prediction id")
        if match[1] != self._prefix:
            raise InputError(
                f"prediction {prediction_id} is not of this start of this agent ({self._prefix})"
            )
        if isinstance(label, float) and not math.isfinite(label):
            raise InputError(f"value of {prediction_id} is {label}, it must be a finite number")
        with self._lock:
            self._labels.append((prediction_id, label))

    def labels(self) -> list[tuple[str, str | float]]:
        """Return what is kept, oldest first."""
        with self._lock:
            return list(self._labels)
