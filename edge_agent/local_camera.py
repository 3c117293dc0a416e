"""Lets the running agent answer the frames of a camera: of its folder, or of its video.

While the agent restarts a frame waits for it; frames that cannot be read are answered with an
``error`` and the next is taken.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

from edge_agent.adapters.camera_folder import CameraFolder
from edge_agent.adapters.image_files import fit_picture, load_pillow
from edge_agent.adapters.video_frames import VideoFrames
from edge_agent.client import Client, connect
from edge_agent.core.pixel_layout import PixelLayout, find_layout
from edge_agent.errors import UnreachableError, words_of
from edge_agent.local_predict import PixelRange, find_fields, predict_picture, predict_row

AGENT_AWAY_S = 1.0
_Ask = Callable[[PixelLayout], dict[str, Any]]


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
            ask = partial(_ask_picture, client, name, path, number)
            answer = _answer(client, name, ask, pixel_range, stop)
            if answer is None:
                return
            if is_deleting and "error" not in answer:
                with suppress(OSError):  # gone already, or a folder that may only be read
                    path.unlink()
            yield answer


def predict_video(
    directory: Path,
    slot: str | None,
    video: VideoFrames,
    stop: Event,
    *,
    shown: str,
    pixel_range: PixelRange | None = None,
) -> Iterator[dict[str, Any]]:
    """Yield one answer a frame: ``row``, ``source``, ``at_s`` of a film, and the outputs.

    Args:
        directory: The agent's.
        slot: Slot or model; None for the only one.
        video: The frames.
        stop: Ends it.
        shown: What the source is called.
        pixel_range: Numbers for black and full brightness; None takes the schema's.

    Raises:
        ServingError: No agent runs at the start, or it refuses a frame.
        InputError: A film cannot be read, or the model takes no pictures.
    """
    load_pillow()
    with connect(directory) as client:
        name, features = find_fields(client, slot)
        find_layout(features, pixel_range)
        for number, frame in enumerate(video.frames(), 1):
            at = {} if frame.at_s is None else {"at_s": round(frame.at_s, 3)}
            told = {"row": number, "source": shown} | at
            try:
                image = frame.image.to_image()
            except (OSError, ValueError) as error:  # colours nobody knows how to turn into RGB
                words = f"the frame's colours cannot be turned into RGB: {words_of(error)}"
                yield told | {"error": f"{words}; let the camera send yuv420p or rgb24"}
                continue
            ask = partial(_ask_image, client, name, image, number)
            answer = _answer(client, name, ask, pixel_range, stop)
            if answer is None:
                return
            yield told | answer


def _ask_picture(
    client: Client, slot: str, path: Path, number: int, layout: PixelLayout
) -> dict[str, Any]:
    return predict_picture(client, slot, path, layout, number)


def _ask_image(
    client: Client, slot: str, image: Any, number: int, layout: PixelLayout
) -> dict[str, Any]:
    return predict_row(client, slot, fit_picture(image, layout), number)


def _answer(
    client: Client,
    slot: str,
    ask: _Ask,
    pixel_range: PixelRange | None,
    stop: Event,
) -> dict[str, Any] | None:
    """Answer a frame by the layout of what answers now; None when it was stopped meanwhile."""
    while not stop.is_set():
        try:
            _, features = find_fields(client, slot)
            return ask(find_layout(features, pixel_range))
        except UnreachableError:
            stop.wait(AGENT_AWAY_S)
    return None
