"""The commands of ``edge-convert``. Heavy libraries are imported inside, so that help is quick."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from converters.cli.options import (
    AsJson,
    ForDevice,
    HoldoutFile,
    Metric,
    ModelFile,
    Profile,
    ProfilesDir,
    RowsFile,
    SchemaFile,
    Target,
    find_profile,
    refusals,
    working,
)
from converters.cli.output import print_result, say
from converters.cli.views import show_bench, show_description, show_parity, show_run

if TYPE_CHECKING:
    from converters.request import BuildRequest
    from device_profiles.profile import DeviceProfile

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
    rows: Annotated[Path, RowsFile],
    target: Target,
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
    as_json: AsJson = False,
) -> None:
    """Convert a model, quantize it where that helps, check it and write the package."""
    with refusals():
        from converters.build import ProfileLimits, build_package
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
        request = _read_request(
            *(model, rows, target, device),
            holdout=holdout,
            schema=schema,
            name=name,
            metric=metric,
            limits=limits,
            **_read_wishes(effort, smaller, prefer),
            evidence_context={
                "source_file": model.name,
                "rows_file": rows.name,
                **({"narrowed_for_device": changes} if changes else {}),
            },
        )
        with working(f"building {model.name} for {device.id}"):
            package = build_package(request)
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
        "notes": package.evidence["notes"],
    }
    if for_device:
        result["estimate_on_device"] = _estimate(package, device)
    print_result(result, as_json, show_run)


def bench(
    model: ModelFile,
    *,
    rows: Annotated[Path, RowsFile],
    target: Target,
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
    as_json: AsJson = False,
) -> None:
    """Measure every build of one model against the others; write nothing."""
    with refusals():
        from converters.build import build_package
        from converters.errors import NoRungFitsError
        from converters.ladder_drawing import draw_ladder

        device, _ = find_profile(profile, profiles_dir, for_device)
        request = _read_request(
            *(model, rows, target, device),
            holdout=holdout,
            schema=schema,
            metric=metric,
            **_read_wishes(effort, smaller, prefer),
        )
        with working(f"measuring the builds of {model.name} for {device.id}"):
            try:
                package = build_package(request)
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
    rows: Annotated[Path, RowsFile],
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
    """Compare the answers of two models on real rows; exit 1 when they differ too much."""
    with refusals():
        from dataclasses import asdict

        from converters.inspection import compare_files
        from converters.tables import read_table

        device, _ = find_profile(profile, profiles_dir)
        with working(f"comparing {source.name} and {shipped.name}"):
            found = compare_files(
                *(source, shipped, read_table(rows)),
                target=target or None,
                profile=device,
                tolerance=tolerance,
            )
    is_same = found.flip_share <= label_flips_max and found.rows_off_share <= rows_off_max
    print_result({**asdict(found), "is_same": is_same}, as_json, show_parity)
    if not is_same:
        say(
            f"{found.flips} labels differ and {found.rows_off} of {found.rows} rows are off by more"
            f" than {tolerance:g}"
        )
        raise typer.Exit(1)


def _read_request(
    model: Path,
    rows: Path,
    target: str,
    profile: "DeviceProfile",
    *,
    holdout: Path | None,
    schema: Path | None,
    metric: str,
    name: str = "",
    **settings: Any,
) -> "BuildRequest":
    """Read model and rows; say how many rows serve for what."""
    from converters.build import find_metric
    from converters.file_requests import open_source, read_request, read_schema
    from converters.tables import read_table

    table = read_table(rows)
    source = open_source(
        *(model, table),
        target=target,
        name=name or model.stem,
        schema=read_schema(schema) if schema else None,
        profile=profile,
    )
    request = read_request(
        *(source, table, holdout),
        target=target,
        profile=profile,
        metric=find_metric(metric, source.schema.task),
        **settings,
    )
    say(f"{len(request.calibration)} rows to calibrate, {len(request.holdout)} held out")
    return request


def _read_wishes(effort: str, smaller: str, prefer: str) -> dict[str, Any]:
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


def _estimate(package: Any, device: "DeviceProfile") -> dict[str, Any] | None:
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
