"""Lets the running agent answer the frames of a camera's folder.

While the agent restarts a frame waits for it; frames that cannot be read are answered with an
``error`` and the next is taken.
"""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from threading import Event
from typing import Any

from edge_agent.adapters.camera_folder import CameraFolder
from edge_agent.adapters.image_files import load_pillow
from edge_agent.client import Client, connect
from edge_agent.core.pixel_layout import find_layout
from edge_agent.errors import UnreachableError
from edge_agent.local_predict import PixelRange, find_fields, predict_picture

AGENT_AWAY_S = 1.0


def predict_frames(
    directory: Path,
    slot: str | None,
    camera: CameraFolder,
    stop: Event,
    *,
    pixel_range: PixelRange | None = None,
    is_deleting: bool = False,
) -> Iterator[dict[str, Any]]:
    """Yield one answer a frame, as ``predict_file`` does for pictures.

    Args:
        directory: The agent's.
        slot: Slot or model; None for the only one.
        camera: The frames.
        stop: Ends it.
        pixel_range: Numbers for black and full brightness; None takes the schema's.
        is_deleting: Whether a frame is removed once it was answered.

    Raises:
        ServingError: No agent runs at the start, or it refuses a frame.
        InputError: The folder cannot be read, or the model takes no pictures.
    """
    load_pillow()
    with connect(directory) as client:
        name, features = find_fields(client, slot)
        find_layout(features, pixel_range)
        for number, path in enumerate(camera.frames(), 1):
            answer = _answer(client, name, path, number, pixel_range, stop)
            if answer is None:
                return
            if is_deleting and "error" not in answer:
                with suppress(OSError):  # gone already, or a folder that may only be read
                    path.unlink()
            yield answer


def _answer(
    client: Client,
    slot: str,
    path: Path,
    number: int,
    pixel_range: PixelRange | None,
    stop: Event,
) -> dict[str, Any] | None:
    """Answer a frame by the layout of what answers now; None when it was stopped meanwhile."""
    while not stop.is_set():
        try:
            _, features = find_fields(client, slot)
            layout = find_layout(features, pixel_range)
            return predict_picture(client, slot, path, layout, number)
        except UnreachableError:
            stop.wait(AGENT_AWAY_S)
    return None
