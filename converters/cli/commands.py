"""The commands of ``edge-convert``. Heavy libraries are imported inside, so that help is quick."""

from pathlib import Path
from typing import Annotated

import typer

from converters.cli.options import (
    PIXELS_MAX_DEFAULT,
    SCALE_DEFAULT,
    AsJson,
    ClassesFile,
    Colours,
    Deviation,
    ForDevice,
    HoldoutFile,
    Layout,
    Mean,
    Metric,
    ModelFile,
    Pictures,
    PictureSize,
    PixelsMax,
    Profile,
    ProfilesDir,
    Resize,
    RowsFile,
    Scale,
    SchemaFile,
    Target,
    find_profile,
    refusals,
    working,
)
from converters.cli.output import print_result, say
from converters.cli.requests import (
    check_inputs,
    compare,
    estimate_on_device,
    read_inputs,
    read_picture_wishes,
    read_wishes,
)
from converters.cli.views import show_bench, show_description, show_parity, show_run

_Effort = Annotated[str, typer.Option(help="quick, or full: every rung of the ladder.")]
_Plot = Annotated[Path | None, typer.Option(dir_okay=False, help="Draw the ladder as an SVG file.")]
_Smaller = Annotated[str, typer.Option(help="May a smaller model ship: no, pruned, or distilled.")]
_Prefer = Annotated[
    str,
    typer.Option(help="What decides first among builds: accuracy, latency, size, memory."),
]


def run(
    model: ModelFile,
    *,
    rows: RowsFile = None,
    target: Target = "",
    profile: Profile,
    out: Annotated[Path, typer.Option(dir_okay=False, help="Package to write.")],
    holdout: HoldoutFile = None,
    schema: SchemaFile = None,
    name: Annotated[str, typer.Option(help="Model name; without it the file's.")] = "",
    profiles_dir: ProfilesDir = None,
    for_device: ForDevice = "",
    metric: Metric = "",
    latency_ms_p95_max: Annotated[float | None, typer.Option(help="Of one row, here.")] = None,
    package_bytes_max: Annotated[int | None, typer.Option(help="Of the package.")] = None,
    metric_drop_max: Annotated[
        float | None, typer.Option(help="How much the metric may lose; 1 % of it if not given.")
    ] = None,
    label_flips_max: Annotated[
        float | None, typer.Option(help="Share of rows with another label; 0.02 if not given.")
    ] = None,
    rows_off_max: Annotated[
        float | None,
        typer.Option(help="Share of rows on which fp32 answers otherwise; 0.01 if not given."),
    ] = None,
    error_max: Annotated[
        float | None, typer.Option(help="Largest difference of an answer; any if not given.")
    ] = None,
    effort: _Effort = "quick",
    smaller: _Smaller = "no",
    prefer: _Prefer = "",
    plot: _Plot = None,
    pictures: Pictures = None,
    picture_size: PictureSize = "",
    layout: Layout = "",
    colours: Colours = "",
    mean: Mean = "",
    deviation: Deviation = "",
    scale: Scale = SCALE_DEFAULT,
    resize: Resize = "bilinear_smooth",
    pixels_max: PixelsMax = PIXELS_MAX_DEFAULT,
    classes: ClassesFile = None,
    as_json: AsJson = False,
) -> None:
    """Convert a model, quantize it where that helps, check it and write the package."""
    check_inputs(rows, target, pictures)
    with refusals():
        from converters.build import ProfileLimits
        from converters.ladder_drawing import draw_ladder
        from converters.output_file import write_whole

        device, changes = find_profile(profile, profiles_dir, for_device)
        limits = ProfileLimits(
            latency_ms_p95_max=latency_ms_p95_max,
            package_bytes_max=package_bytes_max,
            metric_drop_max=metric_drop_max,
            label_flips_max=label_flips_max,
            rows_off_max=rows_off_max,
            error_max=error_max,
        )
        wishes = read_picture_wishes(
            size=picture_size,
            layout=layout,
            colours=colours,
            resize=resize,
            mean=mean,
            deviation=deviation,
            scale=scale,
            pixels_max=pixels_max,
            classes=classes,
        )
        inputs = read_inputs(
            *(model, rows, target, pictures, wishes, device),
            holdout=holdout,
            schema=schema,
            name=name,
            metric=metric,
            limits=limits,
            **read_wishes(effort, smaller, prefer),
            evidence_context={"narrowed_for_device": changes} if changes else {},
        )
        with working(f"building {model.name} for {device.id}"):
            package = inputs.build()
        if plot is not None:
            draw_ladder(plot, package.evidence)
        write_whole(out, package.blob)
    say(f"wrote {out} ({len(package.blob):,} bytes, sha256 {package.sha256})")
    result = {
        "package": str(out),
        "sha256": package.sha256,
        "bytes": len(package.blob),
        "profile": device.id,
        "precision": str(package.precision),
        "rung": package.evidence["rung"],
        "latency_ms_p95": package.latency_ms_p95,
        "label_flips": package.label_flips,
        "max_abs_error": package.max_abs_error,
        "decision": package.decision,
        "repairs": package.evidence["repairs"],
        "metric": package.evidence["metric"],
        "ladder": package.evidence["ladder"],
        "notes": [*inputs.notes, *package.evidence["notes"]],
    }
    if "image" in package.evidence:
        result["image"] = package.evidence["image"]
    if for_device:
        result["estimate_on_device"] = estimate_on_device(package, device)
    print_result(result, as_json, show_run)


def bench(
    model: ModelFile,
    *,
    rows: RowsFile = None,
    target: Target = "",
    profile: Profile,
    holdout: HoldoutFile = None,
    schema: SchemaFile = None,
    profiles_dir: ProfilesDir = None,
    for_device: ForDevice = "",
    metric: Metric = "",
    effort: _Effort = "full",
    smaller: _Smaller = "no",
    prefer: _Prefer = "",
    plot: _Plot = None,
    pictures: Pictures = None,
    picture_size: PictureSize = "",
    layout: Layout = "",
    colours: Colours = "",
    mean: Mean = "",
    deviation: Deviation = "",
    scale: Scale = SCALE_DEFAULT,
    resize: Resize = "bilinear_smooth",
    pixels_max: PixelsMax = PIXELS_MAX_DEFAULT,
    classes: ClassesFile = None,
    as_json: AsJson = False,
) -> None:
    """Measure every build of one model against the others; write nothing."""
    check_inputs(rows, target, pictures)
    with refusals():
        from converters.build import build_package
        from converters.errors import NoRungFitsError
        from converters.ladder_drawing import draw_ladder

        device, _ = find_profile(profile, profiles_dir, for_device)
        wishes = read_picture_wishes(
            size=picture_size,
            layout=layout,
            colours=colours,
            resize=resize,
            mean=mean,
            deviation=deviation,
            scale=scale,
            pixels_max=pixels_max,
            classes=classes,
        )
        inputs = read_inputs(
            *(model, rows, target, pictures, wishes, device),
            holdout=holdout,
            schema=schema,
            metric=metric,
            **read_wishes(effort, smaller, prefer),
        )
        with working(f"measuring the builds of {model.name} for {device.id}"):
            try:
                package = build_package(inputs.request)
            except NoRungFitsError as error:
                ladder, decision, context = list(error.rungs), error.sentence, None
            else:
                ladder, decision = package.evidence["ladder"], package.decision
                context = package.evidence["measured_with"]
                if plot is not None:
                    draw_ladder(plot, package.evidence)
    result = {
        "model": model.name,
        "profile": device.id,
        "ladder": ladder,
        "ships": decision if context is not None else None,
        "none_fits": None if context is not None else decision,
        "measured_with": context,
    }
    print_result(result, as_json, show_bench)


def inspect(
    file: Annotated[
        Path, typer.Argument(exists=True, dir_okay=False, help="A package (.tar) or .onnx file.")
    ],
    profile: Annotated[
        str, typer.Option(help="Ask this profile only, and exit 1 when it does not fit.")
    ] = "",
    profiles_dir: ProfilesDir = None,
    plot: _Plot = None,
    as_json: AsJson = False,
) -> None:
    """Explain a package or any ONNX file, and say which device profiles could run it."""
    with refusals():
        from converters.explain import describe_file
        from converters.ladder_drawing import draw_ladder, read_package_evidence
        from device_profiles.catalog import list_profiles, load_profile

        names = [profile] if profile else list_profiles(profiles_dir)
        described = describe_file(file, [load_profile(name, profiles_dir) for name in names])
        if plot is not None:
            draw_ladder(plot, read_package_evidence(file))
    if profile:
        described["profile"] = profile
        described["misfits"] = described["profiles"][0]["misfits"]
    print_result(described, as_json, show_description)
    if profile and (against := described["misfits"] or [described["refused"]])[0]:
        say(f"does not fit {profile}: {'; '.join(against)}")
        raise typer.Exit(1)


def parity(
    source: Annotated[
        Path, typer.Argument(exists=True, dir_okay=False, help="A model file or package.")
    ],
    shipped: Annotated[
        Path, typer.Argument(exists=True, dir_okay=False, help="An .onnx or package .tar file.")
    ],
    *,
    rows: RowsFile = None,
    pictures: Pictures = None,
    target: Annotated[
        str, typer.Option(help="Column to leave out when the files name no columns.")
    ] = "",
    profile: Profile = "onprem-server",
    profiles_dir: ProfilesDir = None,
    tolerance: Annotated[
        float, typer.Option(min=0, help="Beyond it a row is off, relative to 1 + |answer|.")
    ] = 1e-4,
    label_flips_max: Annotated[float, typer.Option(min=0, max=1, help="Share of rows.")] = 0.0,
    rows_off_max: Annotated[float, typer.Option(min=0, max=1, help="Share of rows.")] = 0.0,
    as_json: AsJson = False,
) -> None:
    """Compare the answers of two models on real rows or pictures; exit 1 when they differ."""
    with refusals():
        device, _ = find_profile(profile, profiles_dir)
        with working(f"comparing {source.name} and {shipped.name}"):
            found, described = compare(
                *(source, shipped, rows, pictures),
                target=target or None,
                profile=device,
                tolerance=tolerance,
            )
    is_same = found.flip_share <= label_flips_max and found.rows_off_share <= rows_off_max
    print_result({**described, "is_same": is_same}, as_json, show_parity)
    if not is_same:
        say(
            f"{found.flips} labels differ and {found.rows_off} of {found.rows} rows are off by more"
            f" than {tolerance:g}"
        )
        raise typer.Exit(1)
