"""``edge-agent camera --video``: films, and real streams over loopback that break and come back."""

import io
import itertools
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from edge_agent.adapters import video_frames
from edge_agent.adapters.system_clock import SystemClock
from edge_agent.adapters.video_frames import VideoFrame, VideoFrames
from edge_agent.adapters.video_source import SourceKind, find_video_source
from edge_agent.cli import main
from edge_agent.contract.schema import Feature
from edge_agent.errors import InputError
from tests.support.edges import agent_directory
from tests.support.serving import CLASSES, build_classifier
from tests.support.video_streams import (
    GREYS,
    StreamServer,
    grey_of,
    make_film,
    serve_mjpeg,
    serve_rtsp,
)

BUILT = build_classifier(features=(Feature(name="pixels", shape=(4, 4), low=0, high=16),))
av = pytest.importorskip("av")
pytest.importorskip("PIL.Image")


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    make_film(path, [20 * n for n in range(12)])
    return path


class Watching:
    """Frames of one source, without waiting between tries."""

    def __init__(self, source: str, *, every_s: float = 0.0) -> None:
        self.stop, self.words = threading.Event(), list[str]()
        self.video = VideoFrames(
            find_video_source(source),
            self.stop,
            SystemClock(),
            random.Random(1).random,
            every_s=every_s,
            tell=self.words.append,
        )
        self.frames = self.video.frames()

    def __enter__(self) -> "Watching":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        assert list(self.frames) == []

    def take(self, count: int) -> list[VideoFrame]:
        return list(itertools.islice(self.frames, count))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video_frames, "BACK_OFF_BASE_S", 0.01)
    monkeypatch.setattr(video_frames, "BACK_OFF_CAP_S", 0.05)
    monkeypatch.setattr(video_frames, "READ_TIMEOUT_S", 2.0)


def test_a_film_gives_every_frame_that_is_due_and_ends(film: Path) -> None:
    with Watching(str(film)) as every, Watching(str(film), every_s=0.3) as some:
        times = [frame.at_s for frame in every.frames]
        assert times == pytest.approx([n / 10 for n in range(12)])
        assert [f.at_s for f in some.frames] == pytest.approx([0, 0.3, 0.6, 0.9])


def test_a_film_is_answered_by_the_agent(
    film: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with agent_directory(tmp_path / "agent", BUILT):
        arguments = ["camera", "--video", str(film), "--every", "0.5"]
        assert main([*arguments, "--dir", str(tmp_path / "agent")]) == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(a["row"], a["source"], a["at_s"]) for a in answers] == [
        (1, str(film), 0.0),
        (2, str(film), 0.5),
        (3, str(film), 1.0),
    ]
    assert all(a["class"] in CLASSES and a["prediction_id"] for a in answers)


@pytest.mark.parametrize("content", [b"no film at all", b""])
def test_what_is_no_film_is_refused_with_the_reason(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "film.mp4"
    path.write_bytes(content)
    with Watching(str(path)) as watching, pytest.raises(InputError, match="cannot be read as"):
        watching.take(1)
    with Watching(str(tmp_path / "none")) as watching, pytest.raises(InputError, match="No such"):
        watching.take(1)


def test_a_stream_that_breaks_comes_back() -> None:
    def serve(connection: socket.socket, count: int) -> None:
        grey = GREYS[count % len(GREYS)]
        if count == 2:
            return  # accepts and hangs up
        endless = itertools.repeat(grey, 6) if count == 1 else itertools.repeat(grey)
        serve_mjpeg(connection, endless, pause_s=0.01)

    with StreamServer(serve) as server, Watching(f"http://127.0.0.1:{server.port}/x") as watching:
        greys: list[int] = []
        for frame in watching.frames:
            greys.append(grey_of(frame.image))
            if abs(greys[-1] - GREYS[3]) < 8:
                break
        assert abs(greys[0] - GREYS[1]) < 8
        assert server.connections == 3
        assert watching.video.reconnects == 1
        shown = f"http://127.0.0.1:{server.port}/x"
        assert watching.words[0].startswith(f"{shown}: ")
        assert watching.words[-1] == f"{shown} is back"


def test_the_newest_frame_wins_and_the_pace_is_kept() -> None:
    def serve(connection: socket.socket, _: int) -> None:
        serve_mjpeg(connection, itertools.cycle(range(0, 250, 5)), pause_s=0.01)

    url = "http://127.0.0.1:{}/"
    with (
        StreamServer(serve) as server,
        Watching(url.format(server.port), every_s=0.15) as watching,
    ):
        began = time.monotonic()
        frames = watching.take(5)
        assert time.monotonic() - began >= 4 * 0.15
        greys = [grey_of(frame.image) for frame in frames]
        steps = [(b - a) % 250 for a, b in itertools.pairwise(greys)]
        assert min(steps) >= 25, f"{greys}: older frames queued up"
        before = watching.video.dropped
        assert before <= 20, "of some 60 the rest was not due"
        slow = watching.take(1)
        time.sleep(0.5)
        assert slow
        watching.take(1)
        assert watching.video.dropped > before + 3


def test_rtsp_with_a_password_which_is_never_said(capfd: pytest.CaptureFixture[str]) -> None:
    packed = io.BytesIO()
    make_film(packed, GREYS * 4, rate=25)
    account = "admin:s3cret"

    def serve(connection: socket.socket, count: int) -> None:
        if count == 2:
            serve_rtsp(connection, packed.getvalue(), account="admin:changed")
        serve_rtsp(connection, packed.getvalue(), account=account)

    with StreamServer(serve) as server:
        url = f"rtsp://{account}@127.0.0.1:{server.port}/live?token=t0ken"
        with Watching(url, every_s=0.02) as watching:
            found = {min(GREYS, key=lambda g: abs(g - grey_of(f.image))) for f in watching.take(9)}
        assert len(found) > 1
        with Watching(url) as watching:
            deadline = time.monotonic() + 10
            reader = threading.Thread(target=watching.take, args=(1,))
            reader.start()
            while not watching.words and time.monotonic() < deadline:
                time.sleep(0.01)
            reader.join(10)
            words = watching.words
    assert "nauthorized" in words[0] or "401" in words[0]
    said = "\n".join(words) + "".join(capfd.readouterr())
    assert f"rtsp://127.0.0.1:{server.port}/live" in said
    for secret in ("s3cret", "t0ken", "admin"):
        assert secret not in said


def test_mpeg_ts_over_tcp() -> None:
    packed = io.BytesIO()
    make_film(packed, GREYS * 6, rate=25)

    def serve(connection: socket.socket, _: int) -> None:
        while True:
            connection.sendall(packed.getvalue())
            time.sleep(0.05)

    with StreamServer(serve) as server, Watching(f"tcp://127.0.0.1:{server.port}") as watching:
        assert len(watching.take(3)) == 3


def test_a_server_cannot_make_the_agent_open_its_own_files(film: Path) -> None:
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:1,\nfile://{film}\n#EXT-X-ENDLIST\n"

    def serve(connection: socket.socket, _: int) -> None:
        connection.recv(4_096)
        head = "HTTP/1.1 200 OK\r\nContent-Type: application/vnd.apple.mpegurl\r\n"
        body = f"Content-Length: {len(playlist)}\r\nConnection: close\r\n\r\n{playlist}"
        connection.sendall((head + body).encode())

    with StreamServer(serve) as server:
        with Watching(f"http://127.0.0.1:{server.port}/live.m3u8") as watching:
            reader = threading.Thread(target=watching.take, args=(1,))
            reader.start()
            deadline = time.monotonic() + 10
            while server.connections < 2 and time.monotonic() < deadline:
                time.sleep(0.01)
            assert reader.is_alive(), "a frame of the file came"
            watching.stop.set()
            reader.join(5)
        assert server.connections >= 2


def test_frames_beyond_the_bound_are_refused(film: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video_frames, "PIXELS_MAX", 64 * 64 - 1)
    with (
        Watching(str(film)) as watching,
        pytest.raises(InputError, match="64 x 64 pixels, the limit is 4095"),
    ):
        watching.take(1)


def test_what_nobody_foresaw_ends_a_stream_with_its_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def break_down(_self: VideoFrames) -> None:
        raise KeyError("the decoder's own")

    monkeypatch.setattr(VideoFrames, "_open", break_down)
    with Watching("rtsp://127.0.0.1:9/s") as watching, pytest.raises(KeyError, match="decoder's"):
        watching.take(1)


@pytest.mark.parametrize(
    ("text", "kind", "shown"),
    [
        ("/dev/video2", SourceKind.DEVICE, "/dev/video2"),
        ("films/a.mp4", SourceKind.FILM, "films/a.mp4"),
        ("rtsp://u:p@[fe80::1]:554/s?x=y#z", SourceKind.STREAM, "rtsp://[fe80::1]:554/s"),
        ("HTTPS://a:b@Cam.local/v", SourceKind.STREAM, "https://cam.local/v"),
    ],
)
def test_a_source_is_told_by_its_form(text: str, kind: SourceKind, shown: str) -> None:
    source = find_video_source(text)
    assert (source.kind, source.shown, source.place) == (kind, shown, text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "1 to 2048"),
        ("x" * 3_000, "1 to 2048"),
        ("rtsp://a\nb", "plain characters"),
        ("file:///etc/passwd", "video of file:// is not read"),
        ("concat:a|b://c", "is not read"),
        ("rtsp://", "names no host"),
        ("rtsp://u:p@h:99999/", "names no host and port"),
    ],
)
def test_a_source_nobody_reads_is_refused(text: str, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        find_video_source(text)
    assert "u:p" not in str(caught.value)


def test_the_next_step_is_told(
    film: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["camera", "--dir", str(tmp_path)]) == 2
    assert "either --folder or --video" in capsys.readouterr().err
    assert main(["camera", "--video", str(film), "--every", "-1", "--dir", str(tmp_path)]) == 1
    assert "--every must be 0 to 3600" in capsys.readouterr().err
    monkeypatch.setenv("EDGE_AGENT_CAMERA_VIDEO", str(film))
    monkeypatch.setitem(sys.modules, "av", None)
    assert main(["camera", "--dir", str(tmp_path)]) == 1
    assert "pip install 'edgefleet[video]'" in capsys.readouterr().err


def test_a_stream_is_answered_until_the_command_is_told_to_stop(tmp_path: Path) -> None:
    def serve(connection: socket.socket, _: int) -> None:
        serve_mjpeg(connection, itertools.cycle(GREYS), pause_s=0.02)

    with StreamServer(serve) as server, agent_directory(tmp_path / "agent", BUILT):
        command = [sys.executable, "-m", "edge_agent", "camera", "--every", "0.1"]
        place = f"http://me:s3cret@127.0.0.1:{server.port}/"
        with subprocess.Popen(
            [*command, "--dir", str(tmp_path / "agent")],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "EDGE_AGENT_CAMERA_VIDEO": place},
        ) as process:
            assert process.stdout is not None
            answers = [json.loads(process.stdout.readline()) for _ in range(3)]
            process.send_signal(signal.SIGTERM)
            rest, words = process.communicate(timeout=10)
    assert process.returncode == 0, words
    assert [answer["row"] for answer in answers] == [1, 2, 3]
    assert answers[0]["source"] == f"http://127.0.0.1:{server.port}/"
    assert "s3cret" not in words + rest


def test_an_answer_waits_while_the_agent_is_away(film: Path, tmp_path: Path) -> None:
    from edge_agent.local_camera import predict_video

    stop = threading.Event()
    video = VideoFrames(
        find_video_source(str(film)), stop, SystemClock(), random.Random(1).random, every_s=0.5
    )
    with agent_directory(tmp_path / "agent", BUILT):
        answers = predict_video(tmp_path / "agent", None, video, stop, shown="film")
        assert next(answers)["row"] == 1
    threading.Timer(0.3, stop.set).start()
    assert list(answers) == [], "stopped while it waited"
