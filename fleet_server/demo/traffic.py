"""Local applications of the demo: each sends images to its device's agent and knows the truth.

The images are held-out rows of scikit-learn's digits that no training saw. What the field does to
them (a brighter lamp, say) is a function that can be changed while the traffic runs.
"""

import http.client
import json
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from threading import Event, Lock, Thread
from typing import Any

from edge_agent.contract.schema import INPUT_NAME

Transform = Callable[[list[float]], list[float]]
TIMEOUT_S = 5.0
RECENT = 200


def unchanged(pixels: list[float]) -> list[float]:
    """Leave an image as it is."""
    return pixels


def brighter(pixels: list[float], by: float) -> list[float]:
    """Add light, clipped to what the sensor can tell.

    >>> brighter([0.0, 15.0], 4.0)
    [4.0, 16.0]
    """
    return [min(16.0, p + by) for p in pixels]


@dataclass(slots=True)
class Answers:
    """What one application saw, the newest RECENT answers for the accuracy.

    ``failed`` counts from the first answer on: before it the device has no model.
    """

    asked: int = 0
    failed: int = 0
    failures: list[str] = field(default_factory=list)
    version: str = ""
    at_version: deque[bool] = field(default_factory=lambda: deque(maxlen=RECENT))

    @property
    def accuracy(self) -> float:
        """Share of right answers among the newest of the version that answers now."""
        return sum(self.at_version) / len(self.at_version) if self.at_version else float("nan")


class Application:
    """One thread that asks one agent, image after image."""

    def __init__(
        self,
        device_id: str,
        port: int,
        model: str,
        images: Sequence[tuple[list[float], str]],
        *,
        interval_s: float,
    ) -> None:
        """Prepare; nothing is sent.

        Args:
            device_id: For people.
            port: Loopback port of the agent's inference server.
            model: Slot to ask.
            images: Pixels and true class, used round and round.
            interval_s: Pause between two images.
        """
        self.device_id = device_id
        self._port, self._model, self._images = port, model, images
        self._interval_s = interval_s
        self._transform: Transform = unchanged
        self._answers = Answers()
        self._lock, self._stop = Lock(), Event()
        self._thread = Thread(target=self._run, name=f"application-{device_id}", daemon=True)

    def start(self) -> None:
        """Begin to ask."""
        self._thread.start()

    def stop(self) -> None:
        """Ask no more."""
        self._stop.set()
        self._thread.join(TIMEOUT_S * 2)

    def change(self, transform: Transform) -> None:
        """Let the field do something else to every image from now on."""
        with self._lock:
            self._transform = transform
            self._answers.at_version.clear()

    def answers(self) -> Answers:
        """Return what was seen so far."""
        with self._lock:
            return self._answers

    def _run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=TIMEOUT_S)
        number = 0
        while not self._stop.wait(self._interval_s):
            pixels, truth = self._images[number % len(self._images)]
            number += 1
            with self._lock:
                sent = self._transform(pixels)
            try:
                answer = ask(connection, self._model, [sent])
            except (OSError, http.client.HTTPException, ValueError) as error:
                connection.close()
                self._count_failure(f"{type(error).__name__}: {error}")
            else:
                self._count(answer, truth)
        connection.close()

    def _count(self, answer: dict[str, Any], truth: str) -> None:
        outputs = {o["name"]: o["data"] for o in answer["outputs"]}
        is_right = str(outputs["class"][0]) == truth
        with self._lock:
            seen = self._answers
            seen.asked += 1
            version = str(answer.get("model_version", ""))
            if version != seen.version:
                seen.version = version
                seen.at_version.clear()
            seen.at_version.append(is_right)

    def _count_failure(self, why: str) -> None:
        with self._lock:
            if self._answers.asked:
                self._answers.failed += 1
                self._answers.failures = [*self._answers.failures[-4:], why]


def ask(
    connection: http.client.HTTPConnection, model: str, rows: Sequence[Sequence[float]]
) -> dict[str, Any]:
    """Ask for predictions over the Open Inference Protocol.

    Raises:
        ValueError: The agent answered with an error; carries its sentence.
        OSError: It does not answer.
    """
    body = json.dumps(
        {
            "inputs": [
                {
                    "name": INPUT_NAME,
                    "shape": [len(rows), len(rows[0])],
                    "datatype": "FP32",
                    "data": [value for row in rows for value in row],
                }
            ]
        }
    )
    connection.request(
        "POST", f"/v2/models/{model}/infer", body, {"Content-Type": "application/json"}
    )
    response = connection.getresponse()
    answer: dict[str, Any] = json.loads(response.read())
    if response.status != 200:
        raise ValueError(answer.get("error", f"status {response.status}"))
    return answer
