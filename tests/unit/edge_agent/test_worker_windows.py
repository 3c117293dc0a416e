"""The process that serves puts windows away, whatever happened the last time."""

import socket
import threading
from types import SimpleNamespace

import pytest

from edge_agent import serving_worker
from edge_agent.adapters.worker_channel import Channel
from edge_agent.serving_worker import Worker


def test_an_unforeseen_error_does_not_end_the_putting_away(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(serving_worker, "CLOSE_DUE_S", 0.01)
    mine, theirs = socket.socketpair()
    calls: list[int] = []
    again = threading.Event()

    def close_due() -> None:
        calls.append(1)
        if len(calls) == 1:
            raise MemoryError
        again.set()

    worker = Worker(Channel(theirs), [])
    service = SimpleNamespace(close_due=close_due)
    monkeypatch.setattr(worker, "_serving", SimpleNamespace(service=service, stop=lambda **_: None))
    thread = threading.Thread(target=worker.run)
    thread.start()
    try:
        assert again.wait(5)
    finally:
        mine.close()
        thread.join(5)
        theirs.close()
    assert "it is tried again" in caplog.text
