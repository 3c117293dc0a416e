"""From the options of ``edge-convert`` to a build: rows or pictures, wishes, estimates."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from converters.cli.output import say

if TYPE_CHECKING:
    from converters.parity import Parity
    from converters.picture_requests import PictureJob
    from converters.picture_source import PictureWishes
    from converters.request import BuildRequest, BuiltPackage
    from device_profiles.profile import DeviceProfile

CLASSES_BYTES_MAX = 4_194_304


def read_rows_request(
    model: Path,
    rows: Path,
    target: str,
    profile: "DeviceProfile",
    *,
    holdout: Path | None,
    schema: Path | None,
    metric: str,
    name: str = "",
    is_of_labels: bool = False,
    **settings: Any,
) -> "BuildRequest":
    """Read model and rows; say how many rows serve for what."""
    from converters.build import find_metric
    from converters.file_requests import find_targets, open_source, read_request, read_schema
    from converters.tables import read_table

    table = read_table(rows)
    named = find_targets(table, target)
    for column in named:
        table.read_values(column)
    if is_of_labels and len(named) == 1:
        raise typer.BadParameter(
            "is for several targets, and --target names one; leave it out", param_hint="--labels"
        )
    source = open_source(
        *(model, table),
        target=target,
        name=name or model.stem,
        schema=read_schema(schema) if schema else None,
        profile=profile,
        is_of_labels=is_of_labels,
    )
    request = read_request(
        *(source, table, holdout),
        target=target,
        profile=profile,
        metric=find_metric(
            metric,
            source.schema.task,
            targets=len(source.schema.targets),
            labels=source.schema.labels,
        ),
        **settings,
    )
    say(f"{len(request.calibration)} rows to calibrate, {len(request.holdout)} held out")
    return request


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What is built.

    Attributes:
        request: Of rows, or of the pixels of pictures.
        job: Of pictures; None builds of rows.
    """

    request: "BuildRequest"
    job: "PictureJob | None" = None

    @property
    def notes(self) -> list[str]:
        """What was done to what was given."""
        return [] if self.job is None else list(self.job.notes)

    def build(self) -> "BuiltPackage":
        """Build the package; raises ConversionError."""
        from converters.build import build_package

        if self.job is None:
            return build_package(self.request)
        from converters.picture_requests import build_picture_package

        return build_picture_package(self.job)


def read_inputs(
    model: Path,
    rows: Path | None,
    target: str,
    pictures: Path | None,
    wishes: "PictureWishes",
    profile: "DeviceProfile",
    *,
    evidence_context: Mapping[str, Any] | None = None,
    is_of_labels: bool = False,
    **settings: Any,
) -> Inputs:
    """Read model and rows or pictures; raises ConversionError."""
    context: dict[str, Any] = {"source_file": model.name, **(evidence_context or {})}
    if pictures is not None:
        if is_of_labels:
            raise typer.BadParameter(
                "a model of pictures answers one label; leave it out", param_hint="--labels"
            )
        settings["evidence_context"] = {**context, "pictures": pictures.name}
        job = read_picture_request(model, pictures, profile, wishes=wishes, **settings)
        return Inputs(request=job.request, job=job)
    if rows is None:
        raise typer.BadParameter("give --rows with --target, or --pictures", param_hint="--rows")
    settings["evidence_context"] = {**context, "rows_file": rows.name}
    settings["is_of_labels"] = is_of_labels
    return Inputs(request=read_rows_request(model, rows, target, profile, **settings))


def compare(
    source: Path, shipped: Path, rows: Path | None, pictures: Path | None, **settings: Any
) -> tuple["Parity", dict[str, Any]]:
    """Compare two models on rows or pictures; the worst pictures are named by their files."""
    from dataclasses import asdict

    if rows is not None and pictures is None:
        from converters.inspection import compare_files
        from converters.tables import read_table

        found = compare_files(source, shipped, read_table(rows), **settings)
        return found, asdict(found)
    if pictures is None or rows is not None:
        raise typer.BadParameter("give --rows or --pictures", param_hint="--rows")
    from converters.inspection import compare_on_pictures
    from converters.picture_files import list_pictures

    listed = list_pictures(pictures, needs_labels=False)
    del settings["target"]
    found = compare_on_pictures(source, shipped, listed, **settings)
    described = asdict(found)
    for row in described["worst"]:
        row["picture"] = str(listed.paths[row["row"]])
    return found, described


def check_inputs(rows: Path | None, target: str, pictures: Path | None) -> None:
    """Refuse both or neither of rows and pictures as wrong use."""
    if (rows is None) == (pictures is None):
        raise typer.BadParameter("give --rows with --target, or --pictures", param_hint="--rows")
    if rows is not None and not target:
        raise typer.BadParameter("names the column of the true answers", param_hint="--target")


def read_picture_request(
    model: Path,
    pictures: Path,
    profile: "DeviceProfile",
    *,
    holdout: Path | None,
    schema: Path | None,
    metric: str,
    wishes: "PictureWishes",
    name: str = "",
    **settings: Any,
) -> "PictureJob":
    """Read model and pictures; say how many serve for what and what was done."""
    from converters.build import find_metric
    from converters.cli.options import working
    from converters.picture_requests import read_picture_job

    if schema is not None:
        raise typer.BadParameter("is for rows; --classes names classes", param_hint="--schema")
    with working(f"reading {pictures.name}"):
        job = read_picture_job(
            *(model, pictures, holdout, wishes),
            name=name or model.stem,
            profile=profile,
            find_metric=lambda task: find_metric(metric, task),
            **settings,
        )
    for note in job.notes:
        say(note)
    image = job.image
    said = f"{image.height} x {image.width} {image.colours}"
    say(
        f"{len(job.request.calibration)} pictures to calibrate, {len(job.request.holdout)} held"
        f" out; the network sees {said}, {'NCHW' if image.is_channels_first else 'NHWC'}"
    )
    return job


def read_picture_wishes(
    *,
    size: str,
    layout: str,
    colours: str,
    resize: str,
    mean: str,
    deviation: str,
    scale: float,
    pixels_max: int,
    classes: Path | None,
) -> "PictureWishes":
    """Read what is said of pictures; a wrong word is wrong use."""
    from converters.picture_source import PictureWishes
    from edge_agent.contract.image import ColourOrder, ResizeMode

    _check_word("--layout", layout, ("", "nchw", "nhwc"))
    _check_word("--colours", colours, ("", *ColourOrder))
    _check_word("--resize", resize, tuple(ResizeMode))
    return PictureWishes(
        size=_read_size(size),
        is_channels_first=layout == "nchw" if layout else None,
        colours=ColourOrder(colours) if colours else None,
        resize=ResizeMode(resize),
        mean=_read_numbers("--mean", mean),
        deviation=_read_numbers("--deviation", deviation),
        scale=scale,
        pixels_max=pixels_max,
        classes=() if classes is None else _read_classes(classes),
    )


def _check_word(option: str, word: str, known: Sequence[str]) -> None:
    if word not in known:
        words = ", ".join(one for one in known if one)
        raise typer.BadParameter(f"{word!r} is none of {words}", param_hint=option)


def _read_size(text: str) -> tuple[int, int] | None:
    if not text:
        return None
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(part.isascii() and part.isdigit() for part in parts):
        raise typer.BadParameter(
            f"{text[:40]!r} is not HEIGHTxWIDTH, as 224x224", param_hint="--picture-size"
        )
    return int(parts[0][:9]), int(parts[1][:9])


def _read_numbers(option: str, text: str) -> tuple[float, ...]:
    try:
        numbers = tuple(float(part) for part in text.split(",")) if text.strip() else ()
    except ValueError:
        numbers = (math.nan,)
    if not all(map(math.isfinite, numbers)):
        raise typer.BadParameter(
            f"{text[:80]!r} is not a number a channel, as 0.485,0.456,0.406", param_hint=option
        )
    return numbers


def _read_classes(path: Path) -> tuple[str, ...]:
    from converters.errors import InvalidRequestError
    from converters.source_files import read_file
    from edge_agent.contract.schema import CLASS_CHARS_MAX, CLASSES_MAX

    size = path.stat().st_size
    if size > CLASSES_BYTES_MAX:
        raise InvalidRequestError(f"{path.name} has {size} bytes, the limit is {CLASSES_BYTES_MAX}")
    try:
        lines = read_file(path).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise InvalidRequestError(f"{path.name} is not a text in UTF-8: {error}") from error
    names = [line.strip() for line in lines]
    while names and not names[-1]:
        names.pop()
    if not 2 <= len(names) <= CLASSES_MAX:
        raise InvalidRequestError(
            f"{path.name} names {len(names)} classes, must be 2 to {CLASSES_MAX}, one a line"
        )
    wrong = [n for n, name in enumerate(names, 1) if not 1 <= len(name) <= CLASS_CHARS_MAX]
    if wrong or len(set(names)) != len(names):
        where = f"line {wrong[0]} is empty or too long" if wrong else "a name stands there twice"
        raise InvalidRequestError(f"{path.name}: {where}")
    return tuple(names)


def read_wishes(effort: str, smaller: str, prefer: str) -> dict[str, Any]:
    """Read what is tried and preferred; a wrong word is wrong use."""
    from converters.request import Criterion, Effort, Smaller

    found: dict[str, Any] = {}
    for option, kind, text in (("effort", Effort, effort), ("smaller", Smaller, smaller)):
        if text not in set(kind):
            raise typer.BadParameter(f"{text!r} is none of {', '.join(kind)}", param_hint=option)
        found[option] = kind(text)
    words = [word.strip() for word in prefer.split(",") if word.strip()]
    if strange := [word for word in words if word not in set(Criterion)]:
        known = ", ".join(Criterion)
        raise typer.BadParameter(f"{strange[0]!r} is none of {known}", param_hint="prefer")
    if len(set(words)) < len(words):
        raise typer.BadParameter("names a criterion twice", param_hint="prefer")
    return {**found, "prefer": tuple(Criterion(word) for word in words)}


def estimate_on_device(package: Any, device: "DeviceProfile") -> dict[str, Any] | None:
    """Say what the measured latency is likely to be on a device that measured itself."""
    from device_profiles.calibration import Calibration, estimate_latency, find_work

    here = Calibration.from_report(package.evidence["measured_with"].get("calibration"))
    if here is None or device.calibration is None:
        say(
            "latency was measured here; for an estimate on the device run there:"
            " edge-agent doctor --calibrate --json"
        )
        return None
    model_bytes = package.evidence["graph"]["bytes"]
    work = find_work(package.needs.operators, model_bytes=model_bytes)
    found = estimate_latency(package.latency_ms_p95, work, here, device.calibration)
    if found is None:
        return None
    say(f"estimate on the device: p95 {found}, scaled by {', '.join(found.because)}")
    if found.low_ms > device.latency_ms_p95_max:
        say(
            f"that is above the {device.latency_ms_p95_max:g} ms of profile {device.id}:"
            " its self-test may refuse the package"
        )
    return {"p95_ms": found.ms, "low_ms": found.low_ms, "high_ms": found.high_ms}
