"""``edgefleet model``: what was trained, what of it ships, and the approver's word on it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fleet_server.cli import model_approve
from fleet_server.cli.family_views import (
    family_to_json,
    fold_families,
    print_family,
    print_members,
    write_page,
)
from fleet_server.cli.model_approve import NameArgument, is_pattern
from fleet_server.cli.output import (
    JsonOption,
    WorkspaceOption,
    fleet_errors,
    print_json,
    print_table,
    say,
)
from fleet_server.cli.version_views import print_encodings, print_version, version_to_json

if TYPE_CHECKING:
    from fleet_server.ports.registry import Model, Version
    from fleet_server.services.browse_family import FamilyView
    from fleet_server.services.browse_models import BrowseModels

app = typer.Typer(no_args_is_help=True, help="Models and versions: list, show, approve, reject.")


@app.command("ls")
def list_models(
    name: Annotated[str | None, typer.Argument(help="List the versions of this model.")] = None,
    last: Annotated[int, typer.Option(min=1, max=10_000, help="Newest versions shown.")] = 50,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the models, or the versions of one; a family is one row, by its name its members.

    Example: edgefleet model ls digits
    """
    with fleet_errors():
        if name is not None and is_pattern(name):
            view = _view_family(workspace, name)
            if as_json:
                print_json(family_to_json(view)["members"])
                return
            print_members(view, last)
            return
        browser = _open_browser(workspace)
        if name is not None:
            _list_versions(browser, browser.get_model(name), last, as_json=as_json)
            return
        models = browser.list_models()
        if as_json:
            print_json([_model_to_json(model) for model in models])
            return
        print_table(
            "",
            ("model", "task", "versions", "newest", "champion", "problem"),
            fold_families(models),
        )
        if not models:
            say("no model yet; next: edgefleet train SPEC.toml")


@app.command()
def show(
    name: NameArgument,
    version: Annotated[int | None, typer.Argument(min=1, help="Default: the newest.")] = None,
    html: Annotated[
        Path | None, typer.Option(help="Of a family: write it as one HTML page.")
    ] = None,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show one version: metrics, limits, confusion, packages, origin, decisions; or a family.

    Example: edgefleet model show digits 3
    """
    with fleet_errors():
        if is_pattern(name):
            view = _view_family(workspace, name)
            if html is not None:
                write_page(view, html)
            elif as_json:
                print_json(family_to_json(view))
            else:
                print_family(view)
            return
        from fleet_server.bootstrap import open_fleet
        from fleet_server.errors import MisuseError
        from fleet_server.wiring.encodings import list_encodings

        if html is not None:
            raise MisuseError(f"--html is of a family; {name} is one model")
        browser = _open_browser(workspace)
        found = browser.get_version(name, version)
        travels = list_encodings(open_fleet(workspace), found)
        if as_json:
            print_json(version_to_json(found) | {"encodings": travels})
            return
        print_version(found, browser.get_model(name))
        print_encodings(travels)


def _open_browser(workspace: Any) -> "BrowseModels":
    from fleet_server.bootstrap import open_fleet
    from fleet_server.wiring.training import build_browser

    return build_browser(open_fleet(workspace))


def _view_family(workspace: Any, pattern: str) -> "FamilyView":
    from fleet_server.bootstrap import open_fleet
    from fleet_server.wiring.training import build_family_browser

    return build_family_browser(open_fleet(workspace)).view(pattern)


def _list_versions(browser: "BrowseModels", model: "Model", last: int, *, as_json: bool) -> None:
    versions = [browser.get_version(model.name, number) for number in list(model.versions)[-last:]]
    if as_json:
        print_json([version_to_json(version) for version in versions])
        return
    print_table(
        model.name,
        ("version", "state", "at", "metric", "rows", "data", "profiles", "forced"),
        [
            (
                f"{v.number}{' champion' if v.number == model.champion else ''}",
                v.state,
                f"{v.created_at:%Y-%m-%d %H:%M}",
                _primary(v),
                v.evaluation.get("rows", "-"),
                v.data_sha256[:12],
                ", ".join(a.package.profile for a in v.artifacts),
                v.forced_reason or "-",
            )
            for v in versions
        ],
    )


def _primary(version: "Version") -> str:
    name = version.run.get("primary", "")
    return f"{name} {version.metrics[name]:.4g}" if name in version.metrics else "-"


def _model_to_json(model: "Model") -> dict[str, Any]:
    return {
        "model": model.name,
        "task": model.task,
        "problem": model.problem,
        "family": model.family or None,
        "champion": model.champion,
        "versions": [{"version": n, "state": state} for n, state in model.versions.items()],
    }


app.command()(model_approve.approve)
app.command()(model_approve.reject)
