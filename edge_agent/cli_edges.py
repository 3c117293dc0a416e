"""The commands of ``edge-agent`` that feed a running agent: predict, label, bridge, camera.

Data goes to stdout, words to stderr; heavy imports wait until a command needs them.
"""

import argparse
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from edge_agent.settings import find_directory, load_settings

DONE, FAILED, MISUSE = 0, 1, 2
VIDEO_VARIABLE = "EDGE_AGENT_CAMERA_VIDEO"
AddCommand = Callable[..., argparse.ArgumentParser]


def add_commands(commands: Any, add: AddCommand) -> None:
    """Add the commands to the parser; ``add`` makes one with its help and example."""
    predict = add(
        commands,
        "predict",
        _predict,
        "let the running agent answer the rows of a file",
        "edge-agent predict rows.csv --slot digits --csv answers.csv",
    )
    predict.add_argument(
        "file", help="CSV or Parquet with the model's columns, a PNG or JPEG, or a folder of them"
    )
    _add_model_options(predict)
    predict.add_argument("--csv", metavar="OUT", help="write a CSV file instead of JSON lines")

    label = add(
        commands,
        "label",
        _label,
        "tell the running agent what became true of its answers",
        "edge-agent label answers.csv (a file of predict --csv with columns true_class or"
        " true_value, or true_class_NAME or true_value_NAME, filled in)",
    )
    label.add_argument("file", help="CSV with prediction_id and columns of labels")

    bridge = add(
        commands,
        "bridge",
        _bridge,
        "let the running agent answer messages of a local MQTT broker",
        "edge-agent bridge (section [mqtt_bridge] of agent.toml says broker and topics)",
    )
    bridge.add_argument("--check", action="store_true", help="check the settings alone")

    camera = add(
        commands,
        "camera",
        _camera,
        "let the running agent answer new pictures of a folder, or the frames of a video",
        "edge-agent camera --video rtsp://camera.local/live --every 1",
    )
    camera.add_argument("--folder", help="where the camera writes PNG or JPEG")
    camera.add_argument(
        "--video",
        help="/dev/video0, an rtsp, http, tcp or udp URL, or a file; a URL with a password is"
        f" better given in {VIDEO_VARIABLE}, where other users do not see it",
    )
    camera.add_argument(
        "--every", type=float, default=0.5, help="seconds between looks or frames (0.5)"
    )
    camera.add_argument("--existing", action="store_true", help="answer what is there already too")
    camera.add_argument("--delete", action="store_true", help="remove pictures once answered")
    _add_model_options(camera)


def _add_model_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--slot", help="slot or model (default: the only one)")
    parser.add_argument(
        "--pixel-range",
        nargs=2,
        type=float,
        metavar=("LOW", "HIGH"),
        help="numbers for black and full brightness of pictures (default: the model's range)",
    )


def _predict(arguments: argparse.Namespace) -> int:
    from pathlib import Path

    from edge_agent.answer_output import show_progress, write_csv, write_lines
    from edge_agent.errors import InputError
    from edge_agent.local_predict import predict_file

    if arguments.csv and Path(arguments.csv).resolve() == Path(arguments.file).resolve():
        raise InputError(f"--csv {arguments.csv} would write over the file that is read")
    answers: Any = predict_file(
        find_directory(arguments.dir), arguments.slot, arguments.file, _pixel_range(arguments)
    )
    # Lines on the same terminal show by themselves how far it is.
    if sys.stderr.isatty() and (arguments.csv or not sys.stdout.isatty()):
        answers = show_progress(answers, sys.stderr)
    if arguments.csv:
        faults = write_csv(answers, Path(arguments.csv))
    else:
        faults = write_lines(answers, sys.stdout)
    if faults:
        sys.stderr.write(f"edge-agent: {faults} pictures could not be read; see error in them\n")
    return FAILED if faults else DONE


def _label(arguments: argparse.Namespace) -> int:
    from pathlib import Path

    from edge_agent.local_labels import send_labels

    sent = send_labels(find_directory(arguments.dir), Path(arguments.file))
    for line, reason in sent.faults:
        sys.stderr.write(f"edge-agent: line {line}: {reason}\n")
    sys.stderr.write(
        f"edge-agent: labels of {sent.taken} answers taken, of {sent.refused} refused,"
        f" {sent.empty} lines had none\n"
    )
    return FAILED if sent.refused else DONE


def _bridge(arguments: argparse.Namespace) -> int:
    from edge_agent.adapters.log_output import start_logging
    from edge_agent.adapters.mqtt_bridge import MqttBridge
    from edge_agent.adapters.system_clock import SystemClock
    from edge_agent.bridge_settings import load_bridge_settings
    from edge_agent.client import connect

    directory = find_directory(arguments.dir)
    settings = load_bridge_settings(directory)
    with connect(directory) as agent:
        bridge = MqttBridge(settings, directory, agent, SystemClock())
        if arguments.check:
            return DONE
        # Not the agent's log file: two processes would set it aside at once.
        start_logging(replace(load_settings(directory), log_file=""), directory)
        _stop_on_signals(bridge.stop)
        bridge.run()
    return DONE


def _camera(arguments: argparse.Namespace) -> int:
    video = arguments.video or (None if arguments.folder else os.environ.get(VIDEO_VARIABLE))
    if bool(video) == bool(arguments.folder):
        sys.stderr.write("edge-agent: camera needs either --folder or --video\n")
        return MISUSE
    return _camera_video(arguments, video) if video else _camera_folder(arguments)


def _camera_video(arguments: argparse.Namespace, video: str) -> int:
    import secrets
    from threading import Event

    from edge_agent.adapters.system_clock import SystemClock
    from edge_agent.adapters.video_frames import VideoFrames
    from edge_agent.adapters.video_source import find_video_source
    from edge_agent.answer_output import write_lines
    from edge_agent.local_camera import predict_video

    stop, source = Event(), find_video_source(video)
    frames = VideoFrames(
        source,
        stop,
        SystemClock(),
        secrets.SystemRandom().random,
        every_s=arguments.every,
        tell=lambda words: sys.stderr.write(f"edge-agent: {words}\n"),
    )
    _stop_on_signals(stop.set)
    answers = predict_video(
        find_directory(arguments.dir),
        arguments.slot,
        frames,
        stop,
        shown=source.shown,
        pixel_range=_pixel_range(arguments),
    )
    write_lines(answers, sys.stdout)
    if frames.dropped or frames.reconnects:
        sys.stderr.write(
            f"edge-agent: {frames.dropped} frames gave way to newer ones, the stream began"
            f" {frames.reconnects} times anew\n"
        )
    return DONE


def _camera_folder(arguments: argparse.Namespace) -> int:
    from pathlib import Path
    from threading import Event

    from edge_agent.adapters.camera_folder import CameraFolder
    from edge_agent.answer_output import write_lines
    from edge_agent.local_camera import predict_frames

    stop = Event()
    camera = CameraFolder(
        Path(arguments.folder),
        stop,
        every_s=arguments.every,
        is_taking_existing=arguments.existing,
    )
    _stop_on_signals(stop.set)
    answers = predict_frames(
        find_directory(arguments.dir),
        arguments.slot,
        camera,
        stop,
        pixel_range=_pixel_range(arguments),
        is_deleting=arguments.delete,
    )
    faults = write_lines(answers, sys.stdout)
    if faults or camera.dropped:
        sys.stderr.write(
            f"edge-agent: {faults} pictures could not be read, {camera.dropped} were left out"
            " because too many came at once\n"
        )
    return DONE


def _stop_on_signals(stop: Callable[[], None]) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop())


def _pixel_range(arguments: argparse.Namespace) -> tuple[float, float] | None:
    given = arguments.pixel_range
    return (given[0], given[1]) if given else None
