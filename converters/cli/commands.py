"""The commands of ``edge-convert``. Heavy libraries are imported inside, so that help is quick."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from converters.cli.build_options import BuildOptions, open_work, takes_build_options
from converters.cli.options import (
    AsJson,
    ModelFile,
    Pictures,
    Plot,
    Profile,
    ProfilesDir,
    RowsFile,
    find_profile,
    positive,
    refusals,
    share,
    working,
    zero_or_more,
)
from converters.cli.output import print_result, say
from converters.cli.requests import Inputs, compare, estimate_on_device
from converters.cli.views import show_bench, show_description, show_parity, show_run
from converters.cli.work_folder import work_folder

if TYPE_CHECKING:
    from converters.request import BuiltPackage
    from device_profiles.profile import DeviceProfile

_EFFORT = "quick, or full: every rung of the ladder."


@takes_build_options
def run(
    model: ModelFile,
    *,
    options: BuildOptions,
    out: Annotated[Path, typer.Option(dir_okay=False, help="Package to write.")],
    name: Annotated[str, typer.Option(help="Model name; without it the file's.")] = "",
    latency_ms_p95_max: Annotated[
        float | None, typer.Option(callback=positive, help="Of one row, here.")
    ] = None,
    package_bytes_max: Annotated[int | None, typer.Option(min=1, help="Of the package.")] = None,
    metric_drop_max: Annotated[
        float | None,
        typer.Option(
            callback=zero_or_more, help="How much the metric may lose; 1 % of it if not given."
        ),
    ] = None,
    label_flips_max: Annotated[
        float | None,
        typer.Option(callback=share, help="Share of rows with another label; 0.02 if not given."),
    ] = None,
    rows_off_max: Annotated[
        float | None,
        typer.Option(
            callback=share,
            help="Share of rows on which fp32 answers otherwise; 0.01 if not given.",
        ),
    ] = None,
    error_max: Annotated[
        float | None,
        typer.Option(
            callback=zero_or_more, help="Largest difference of an answer; any if not given."
        ),
    ] = None,
    effort: Annotated[str, typer.Option(help=_EFFORT)] = "quick",
    as_json: AsJson = False,
) -> None:
    """Convert a model, quantize it where that helps, check it and write the package."""
    options.check()
    with refusals(), work_folder():
        from converters.output_file import check_place, write_whole
        from converters.request import ProfileLimits

        check_place(out, [*options.list_files(model), options.plot])
        limits = ProfileLimits(
            latency_ms_p95_max=latency_ms_p95_max,
            package_bytes_max=package_bytes_max,
            metric_drop_max=metric_drop_max,
            label_flips_max=label_flips_max,
            rows_off_max=rows_off_max,
            error_max=error_max,
        )
        work = open_work(model, options, effort, name=name, limits=limits)
        with working(f"building {model.name} for {work.device.id}"):
            package = work.inputs.build()
        write_whole(out, package.blob)
    say(f"wrote {out} ({len(package.blob):,} bytes, sha256 {package.sha256})")
    result = _describe_package(out, package, work.inputs, work.device)
    if options.for_device:
        result["estimate_on_device"] = estimate_on_device(package, work.device)
    print_result(result, as_json, show_run)
    if options.plot is not None:
        with refusals():
            from converters.ladder_drawing import draw_ladder

            draw_ladder(options.plot, package.evidence)


def _describe_package(
    out: Path, package: "BuiltPackage", inputs: Inputs, device: "DeviceProfile"
) -> dict[str, Any]:
    evidence = package.evidence
    described = {
        "package": str(out),
        "sha256": package.sha256,
        "bytes": len(package.blob),
        "profile": device.id,
        "precision": str(package.precision),
        "rung": evidence["rung"],
        "latency_ms_p95": package.latency_ms_p95,
        "label_flips": package.label_flips,
        "max_abs_error": package.max_abs_error,
        "decision": package.decision,
        "repairs": evidence["repairs"],
        "metric": evidence["metric"],
        "ladder": evidence["ladder"],
        "notes": [*inputs.notes, *evidence["notes"]],
    }
    return described | ({"image": evidence["image"]} if "image" in evidence else {})


@takes_build_options
def bench(
    model: ModelFile,
    *,
    options: BuildOptions,
    effort: Annotated[str, typer.Option(help=_EFFORT)] = "full",
    as_json: AsJson = False,
) -> None:
    """Measure every build of one model against the others; write nothing but the drawing."""
    options.check()
    with refusals(), work_folder():
        from converters.build import build_package
        from converters.errors import NoRungFitsError

        work = open_work(model, options, effort)
        request = work.inputs.request
        result: dict[str, Any] = {"model": model.name, "profile": work.device.id}
        with working(f"measuring the builds of {model.name} for {work.device.id}"):
            try:
                package = build_package(request)
            except NoRungFitsError as error:
                shipped = ""
                result |= {"ladder": list(error.rungs), "ships": None}
                result |= {"none_fits": error.sentence, "measured_with": None}
            else:
                shipped = package.evidence["rung"]
                result |= {"ladder": package.evidence["ladder"], "ships": package.decision}
                measured_with = package.evidence["measured_with"]
                result |= {"none_fits": None, "measured_with": measured_with}
    print_result(result, as_json, show_bench)
    if options.plot is not None:
        with refusals():
            from converters.ladder_drawing import draw_rungs

            draw_rungs(
                *(options.plot, request.schema.model, work.device.id, result["ladder"]),
                shipped=shipped,
            )


def inspect(
    file: Annotated[
        Path, typer.Argument(exists=True, dir_okay=False, help="A package (.tar) or .onnx file.")
    ],
    profile: Annotated[
        str, typer.Option(help="Ask this profile only, and exit 1 when it does not fit.")
    ] = "",
    profiles_dir: ProfilesDir = None,
    plot: Plot = None,
    as_json: AsJson = False,
) -> None:
    """Explain a package or any ONNX file, and say which device profiles could run it."""
    with refusals():
        from converters.explain import describe_file
        from converters.ladder_drawing import draw_ladder, read_package_evidence
        from converters.output_file import check_place
        from device_profiles.catalog import list_profiles, load_profile

        if plot is not None:
            check_place(plot, [file])
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
        float,
        typer.Option(
            callback=zero_or_more, help="Beyond it a row is off, relative to 1 + |answer|."
        ),
    ] = 1e-4,
    label_flips_max: Annotated[float, typer.Option(callback=share, help="Share of rows.")] = 0.0,
    rows_off_max: Annotated[float, typer.Option(callback=share, help="Share of rows.")] = 0.0,
    as_json: AsJson = False,
) -> None:
    """Compare the answers of two models on real rows or pictures; exit 1 when they differ."""
    with refusals(), work_folder():
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
