"""What commands of ``edge-convert`` share: options, refusals, progress, the device asked."""

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from converters.cli.output import say

if TYPE_CHECKING:
    from device_profiles.capabilities import DeviceCapabilities
    from device_profiles.profile import DeviceProfile

CAPABILITIES_BYTES_MAX = 1_048_576
STDIN = "-"


def zero_or_more(value: float | None) -> float | None:
    """Check a number that may be 0 or larger, not nan and not infinite; raises BadParameter."""
    return _check_number(value, 0, math.inf)


def share(value: float | None) -> float | None:
    """Check a share, 0 to 1; raises BadParameter."""
    return _check_number(value, 0, 1)


def positive(value: float | None) -> float | None:
    """Check a number above 0, not infinite; raises BadParameter."""
    if value == 0:
        raise typer.BadParameter("0 is not above 0")
    return _check_number(value, 0, math.inf)


def _check_number(value: float | None, low: float, high: float) -> float | None:
    if value is None or (math.isfinite(value) and low <= value <= high):
        return value
    wanted = f"{low:g} to {high:g}" if math.isfinite(high) else f"{low:g} or more"
    raise typer.BadParameter(f"{value:g} is no number of {wanted}")


ModelFile = Annotated[
    Path,
    typer.Argument(
        exists=True, dir_okay=False, help="A .skops, .onnx, .pt2, .lgb, .ubj or .json file."
    ),
]
RowsFile = Annotated[
    Path | None,
    typer.Option(exists=True, dir_okay=False, readable=True, help="Rows: .csv or .parquet."),
]
HoldoutFile = Annotated[
    Path | None,
    typer.Option(exists=True, help="Held-out rows or pictures; without it 30 % of the others are."),
]
SchemaFile = Annotated[
    Path | None,
    typer.Option(exists=True, dir_okay=False, help="schema.json; without it made from rows."),
]
Target = Annotated[
    str,
    typer.Option(
        help="Column of the true answers, with --rows; several targets or labels as heat,flow."
    ),
]
AsLabels = Annotated[
    bool,
    typer.Option(
        "--labels",
        help="Several targets of a graph or network are labels: of the classes their columns hold.",
    ),
]
_PICTURES = "Pictures"
Pictures = Annotated[
    Path | None,
    typer.Option(
        exists=True,
        rich_help_panel=_PICTURES,
        help="Instead of --rows: a folder with a sub-folder of PNG and JPEG files a class, or a"
        " table with the columns file and label.",
    ),
]
PictureSize = Annotated[
    str,
    typer.Option(
        metavar="HEIGHTxWIDTH",
        rich_help_panel=_PICTURES,
        help="What the network sees, where its input leaves it open or is flat.",
    ),
]
Layout = Annotated[
    str,
    typer.Option(
        rich_help_panel=_PICTURES, help="nchw or nhwc, where the network's input does not say."
    ),
]
Colours = Annotated[
    str,
    typer.Option(
        rich_help_panel=_PICTURES, help="rgb, bgr or grey; without it rgb, or grey for one channel."
    ),
]
Mean = Annotated[
    str,
    typer.Option(
        metavar="M,M,M",
        rich_help_panel=_PICTURES,
        help="Subtracted after the scale, a number a channel.",
    ),
]
Deviation = Annotated[
    str,
    typer.Option(
        "--deviation",
        "--std",
        metavar="D,D,D",
        rich_help_panel=_PICTURES,
        help="Divided by after that, a number a channel.",
    ),
]
Scale = Annotated[
    float,
    typer.Option(
        callback=positive,
        rich_help_panel=_PICTURES,
        show_default="1/255",
        help="What 0 to 255 is multiplied with first; 1 leaves it.",
    ),
]
Resize = Annotated[
    str,
    typer.Option(rich_help_panel=_PICTURES, help="bilinear_smooth, bilinear or nearest."),
]
PixelsMax = Annotated[
    int,
    typer.Option(
        min=1, rich_help_panel=_PICTURES, help="Most pixels of a picture, here and on devices."
    ),
]
ClassesFile = Annotated[
    Path | None,
    typer.Option(
        exists=True,
        dir_okay=False,
        rich_help_panel=_PICTURES,
        help="A name a line in the order of the network's answers; without it sub-folders by name.",
    ),
]
PIXELS_MAX_DEFAULT = 16_777_216
SCALE_DEFAULT = 1 / 255
Profile = Annotated[str, typer.Option(help="Device profile, such as camera.")]
ProfilesDir = Annotated[
    Path | None, typer.Option(file_okay=False, help="Directory with profile files of your own.")
]
ForDevice = Annotated[
    str,
    typer.Option(
        metavar="FILE|-",
        help="Narrow the profile to one device: what `edge-agent doctor --json` or"
        " `edgefleet device show ID --json` printed there.",
    ),
]
Plot = Annotated[Path | None, typer.Option(dir_okay=False, help="Draw the ladder as an SVG file.")]
Metric = Annotated[str, typer.Option(help="Decides --metric-drop-max; without it accuracy or mae.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@contextmanager
def refusals() -> Iterator[None]:
    """Turn expected errors into one sentence and exit code 1."""
    from converters.errors import ConversionError
    from device_profiles.errors import ProfileError
    from edge_agent.contract.errors import ContractError

    try:
        yield
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        say(f"edge-convert: {where}{error.strerror or error}")
        raise typer.Exit(1) from error
    except (ConversionError, ProfileError, ContractError) as error:
        say(f"edge-convert: {error}")
        raise typer.Exit(1) from error
    except KeyboardInterrupt:
        say("edge-convert: stopped; nothing was written")
        raise typer.Exit(1) from None


@contextmanager
def working(words: str) -> Iterator[None]:
    """Show that work goes on, and for how long, where somebody looks."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        progress.add_task(words, total=None)
        yield


def find_profile(
    name: str, folder: Path | None, for_device: str = ""
) -> tuple["DeviceProfile", dict[str, tuple[str, str]]]:
    """Load a profile, narrowed to a device if one is given; say what became narrower.

    Returns:
        The profile, and what was and is by key.

    Raises:
        ProfileError: No such profile, or it is not sound.
        ConversionError: The device says nothing, or cannot be allowed for.
    """
    from device_profiles.catalog import load_profile

    profile = load_profile(name, folder)
    if not for_device:
        return profile, {}
    from converters.errors import ProfileMisfitError
    from device_profiles.narrowing import narrow_profile

    narrowed = narrow_profile(profile, _read_device(for_device))
    if narrowed.misfits:
        raise ProfileMisfitError(name, narrowed.misfits)
    for key, (was, now) in narrowed.changes.items():
        say(f"for this device {key} is {now} (profile {name}: {was})")
    if not narrowed.changes:
        say(f"this device can do all that profile {name} says")
    return narrowed.profile, dict(narrowed.changes)


def _read_device(where: str) -> "DeviceCapabilities":
    import json

    from converters.errors import InvalidRequestError
    from device_profiles.narrowing import find_capabilities

    if where == STDIN:
        content, what = sys.stdin.buffer.read(CAPABILITIES_BYTES_MAX + 1), "standard input"
    else:
        try:
            with Path(where).open("rb") as file:
                content, what = file.read(CAPABILITIES_BYTES_MAX + 1), Path(where).name
        except OSError as error:
            raise InvalidRequestError(
                f"--for-device {where} cannot be read ({error.strerror}); write it on the device:"
                f" edge-agent doctor --json > {Path(where).name}"
            ) from error
    if len(content) > CAPABILITIES_BYTES_MAX:
        raise InvalidRequestError(
            f"{what} has more than {CAPABILITIES_BYTES_MAX} bytes: not what a device says"
        )
    try:
        found = find_capabilities(json.loads(content))
    except (ValueError, RecursionError) as error:
        raise InvalidRequestError(f"{what} is not JSON: {error}") from error
    if found is None:
        raise InvalidRequestError(
            f"{what} names no capabilities; on the device: edge-agent doctor --json"
        )
    return found
