"""The options that ``run`` and ``bench`` share: what is built, for which device, and how.

They are the fields of one class. ``takes_build_options`` gives a command an option for each, so
that both commands read and mean them the same way.
"""

import inspect
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from converters.cli.options import (
    PIXELS_MAX_DEFAULT,
    SCALE_DEFAULT,
    AsLabels,
    ClassesFile,
    Colours,
    Deviation,
    ForDevice,
    HoldoutFile,
    Layout,
    Mean,
    Metric,
    Pictures,
    PictureSize,
    PixelsMax,
    Plot,
    Profile,
    ProfilesDir,
    Resize,
    RowsFile,
    Scale,
    SchemaFile,
    Target,
    find_profile,
)
from converters.cli.requests import (
    Inputs,
    check_inputs,
    read_inputs,
    read_picture_wishes,
    read_wishes,
)

if TYPE_CHECKING:
    from device_profiles.profile import DeviceProfile

_Smaller = Annotated[str, typer.Option(help="May a smaller model ship: no, pruned, or distilled.")]
_Prefer = Annotated[
    str,
    typer.Option(help="What decides first among builds: accuracy, latency, size, memory."),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildOptions:
    """What was said of a build, as typed."""

    profile: Profile
    rows: RowsFile = None
    target: Target = ""
    labels: AsLabels = False
    holdout: HoldoutFile = None
    schema: SchemaFile = None
    profiles_dir: ProfilesDir = None
    for_device: ForDevice = ""
    metric: Metric = ""
    smaller: _Smaller = "no"
    prefer: _Prefer = ""
    plot: Plot = None
    pictures: Pictures = None
    picture_size: PictureSize = ""
    layout: Layout = ""
    colours: Colours = ""
    mean: Mean = ""
    deviation: Deviation = ""
    scale: Scale = SCALE_DEFAULT
    resize: Resize = "bilinear_smooth"
    pixels_max: PixelsMax = PIXELS_MAX_DEFAULT
    classes: ClassesFile = None

    def check(self) -> None:
        """Refuse what does not go together; raises BadParameter."""
        check_inputs(self.rows, self.target, self.pictures)

    def list_files(self, model: Path) -> list[Path | None]:
        """Give the files that a build of a model reads, which nothing may be written over."""
        device = Path(self.for_device) if self.for_device not in ("", "-") else None
        return [model, self.rows, self.holdout, self.schema, self.pictures, self.classes, device]


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What is to be done.

    Attributes:
        device: The profile, narrowed to a device if one was named.
        inputs: Model, rows or pictures, and wishes.
    """

    device: "DeviceProfile"
    inputs: Inputs


def open_work(model: Path, options: BuildOptions, effort: str, **settings: Any) -> Work:
    """Read everything that a build needs; raises ConversionError, ProfileError, BadParameter."""
    from converters.output_file import check_place

    if options.plot is not None:
        check_place(options.plot, options.list_files(model))
    wishes = read_picture_wishes(
        size=options.picture_size,
        layout=options.layout,
        colours=options.colours,
        resize=options.resize,
        mean=options.mean,
        deviation=options.deviation,
        scale=options.scale,
        pixels_max=options.pixels_max,
        classes=options.classes,
    )
    asked = read_wishes(effort, options.smaller, options.prefer)
    device, changes = find_profile(options.profile, options.profiles_dir, options.for_device)
    inputs = read_inputs(
        model,
        options.rows,
        options.target,
        options.pictures,
        wishes,
        device,
        holdout=options.holdout,
        schema=options.schema,
        is_of_labels=options.labels,
        metric=options.metric,
        evidence_context={"narrowed_for_device": changes} if changes else {},
        **asked,
        **settings,
    )
    return Work(device=device, inputs=inputs)


def takes_build_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command an option for each field in the place of its parameter ``options``."""
    signature = inspect.signature(command)
    shared = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if field.default is MISSING else field.default,
            annotation=field.type,
        )
        for field in fields(BuildOptions)
    ]
    own = [one for one in signature.parameters.values() if one.name != "options"]
    first = [one for one in own if one.kind is not inspect.Parameter.KEYWORD_ONLY]
    later = [one for one in own if one.kind is inspect.Parameter.KEYWORD_ONLY]

    @wraps(command)
    def wrapped(**given: Any) -> None:
        values = {one.name: given.pop(one.name) for one in shared}
        command(**given, options=BuildOptions(**values))

    wrapped.__dict__["__signature__"] = signature.replace(parameters=[*first, *shared, *later])
    wrapped.__annotations__ = {}
    return wrapped
