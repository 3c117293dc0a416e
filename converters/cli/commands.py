"""The commands of ``edge-convert``. Heavy libraries are imported inside, so that help is quick."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from converters.cli.output import print_result, say, show_description, show_parity, show_run

_File = typer.Option(exists=True, dir_okay=False, readable=True, help="Rows: .csv or .parquet.")
_Profile = Annotated[str, typer.Option(help="Device profile, such as camera.")]
_ProfilesDir = Annotated[
    Path | None, typer.Option(file_okay=False, help="Directory with profile files of your own.")
]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def run(
    model: Annotated[
        Path, typer.Argument(exists=True, dir_okay=False, help="A .skops or .onnx file.")
    ],
    *,
    rows: Annotated[Path, _File],
    target: Annotated[str, typer.Option(help="Column of the true answers.")],
    profile: _Profile,
    out: Annotated[Path, typer.Option(dir_okay=False, help="Package to write.")],
    holdout: Annotated[
        Path | None,
        typer.Option(
            exists=True, dir_okay=False, help="Held-out rows; without it 30 % of --rows are."
        ),
    ] = None,
    schema: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="schema.json; without it made from rows."),
    ] = None,
    name: Annotated[str, typer.Option(help="Model name; without it the file's.")] = "",
    profiles_dir: _ProfilesDir = None,
    metric: Annotated[
        str, typer.Option(help="Decides --metric-drop-max; without it accuracy or mae.")
    ] = "",
    latency_ms_p95_max: Annotated[float | None, typer.Option(help="Of one row, here.")] = None,
    package_bytes_max: Annotated[int | None, typer.Option(help="Of the package.")] = None,
    metric_drop_max: Annotated[
        float | None, typer.Option(help="How much the metric may lose; 1 % of it if not given.")
    ] = None,
    label_flips_max: Annotated[
        float | None, typer.Option(help="Share of rows with another label; 0.02 if not given.")
    ] = None,
    as_json: _Json = False,
) -> None:
    """Convert a model, quantize it where that helps, check it and write the package."""
    with _refusals():
        from converters.build import ProfileLimits, build_package, find_metric
        from converters.file_requests import open_source, read_request, read_schema
        from converters.tables import read_table
        from device_profiles.catalog import load_profile

        device = load_profile(profile, profiles_dir)
        limits = ProfileLimits(
            latency_ms_p95_max=latency_ms_p95_max,
            package_bytes_max=package_bytes_max,
            metric_drop_max=metric_drop_max,
            label_flips_max=label_flips_max,
        )
        table = read_table(rows)
        source = open_source(
            model,
            table,
            target=target,
            name=name or model.stem,
            schema=read_schema(schema) if schema else None,
            profile=device,
        )
        request = read_request(
            source,
            table,
            holdout,
            target=target,
            profile=device,
            limits=limits,
            metric=find_metric(metric, source.schema.task),
            evidence_context={"source_file": model.name, "rows_file": rows.name},
        )
        say(f"{len(request.calibration)} rows to calibrate, {len(request.holdout)} held out")
        package = build_package(request)
        _write(out, package.blob)
    say(f"wrote {out} ({len(package.blob):,} bytes, sha256 {package.sha256})")
    print_result(
        {
            "package": str(out),
            "sha256": package.sha256,
            "bytes": len(package.blob),
            "profile": device.id,
            "precision": str(package.precision),
            "latency_ms_p95": package.latency_ms_p95,
            "label_flips": package.label_flips,
            "max_abs_error": package.max_abs_error,
            "decision": package.decision,
            "repairs": package.evidence["repairs"],
            "metric": package.evidence["metric"],
            "ladder": package.evidence["ladder"],
        },
        as_json,
        show_run,
    )


def inspect(
    file: Annotated[
        Path, typer.Argument(exists=True, dir_okay=False, help="A package (.tar) or .onnx file.")
    ],
    profile: Annotated[str, typer.Option(help="Say also whether it fits this profile.")] = "",
    profiles_dir: _ProfilesDir = None,
    as_json: _Json = False,
) -> None:
    """Show what a package or graph is made of; exit 1 when it does not fit the given profile."""
    with _refusals():
        from converters.inspection import describe_file
        from device_profiles.catalog import load_profile

        described = describe_file(file, load_profile(profile, profiles_dir) if profile else None)
    print_result(described, as_json, show_description)
    if described.get("misfits"):
        say(f"does not fit {profile}: {'; '.join(described['misfits'])}")
        raise typer.Exit(1)


def parity(
    source: Annotated[
        Path, typer.Argument(exists=True, dir_okay=False, help="A .skops, .onnx or .tar file.")
    ],
    shipped: Annotated[
        Path, typer.Argument(exists=True, dir_okay=False, help="An .onnx or package .tar file.")
    ],
    *,
    rows: Annotated[Path, _File],
    target: Annotated[
        str, typer.Option(help="Column to leave out when the files name no columns.")
    ] = "",
    profile: _Profile = "onprem-server",
    profiles_dir: _ProfilesDir = None,
    tolerance: Annotated[
        float, typer.Option(min=0, help="Beyond it a row is off, relative to 1 + |answer|.")
    ] = 1e-4,
    label_flips_max: Annotated[float, typer.Option(min=0, max=1, help="Share of rows.")] = 0.0,
    rows_off_max: Annotated[float, typer.Option(min=0, max=1, help="Share of rows.")] = 0.0,
    as_json: _Json = False,
) -> None:
    """Compare the answers of two models on real rows; exit 1 when they differ too much."""
    with _refusals():
        from dataclasses import asdict

        from converters.inspection import compare_files
        from converters.tables import read_table
        from device_profiles.catalog import load_profile

        found = compare_files(
            source,
            shipped,
            read_table(rows),
            target=target or None,
            profile=load_profile(profile, profiles_dir),
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


@contextmanager
def _refusals() -> Iterator[None]:
    """Turn expected errors into one sentence and exit code 1."""
    from converters.errors import ConversionError
    from device_profiles.errors import ProfileError
    from edge_agent.contract.errors import ContractError

    try:
        yield
    except (ConversionError, ProfileError, ContractError, OSError) as error:
        say(f"edge-convert: {error}")
        raise typer.Exit(1) from error


def _write(path: Path, content: bytes) -> None:
    """Write beside and rename: a package is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_bytes(content)
    part.replace(path)
