"""``edgefleet model``: what was trained, what of it ships, and the approver's word on it."""

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fleet_server.cli.output import (
    JsonOption,
    WorkspaceOption,
    fleet_errors,
    print_json,
    print_table,
    say,
)
from fleet_server.cli.version_views import print_version, version_to_json
from fleet_server.errors import MisuseError, RefusedError
from fleet_server.ports.trust import SignedTarget

if TYPE_CHECKING:
    from fleet_server.ports.registry import Model, Version
    from fleet_server.services.browse_models import BrowseModels

app = typer.Typer(no_args_is_help=True, help="Models and versions: list, show, approve, reject.")

NameArgument = Annotated[str, typer.Argument(help="Name of the model.")]
VersionArgument = Annotated[int, typer.Argument(min=1, help="Version.")]
ReasonOption = Annotated[str, typer.Option(help="Kept with the decision.")]


@app.command("ls")
def list_models(
    name: Annotated[str | None, typer.Argument(help="List the versions of this model.")] = None,
    last: Annotated[int, typer.Option(min=1, max=10_000, help="Newest versions shown.")] = 50,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the models, or the versions of one.

    Example: edgefleet model ls digits
    """
    with fleet_errors():
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
            [
                (
                    model.name,
                    model.task,
                    len(model.versions),
                    _newest(model),
                    model.champion or "-",
                    model.problem,
                )
                for model in models
            ],
        )
        if not models:
            say("no model yet; next: edgefleet train SPEC.toml")


@app.command()
def show(
    name: NameArgument,
    version: Annotated[int | None, typer.Argument(min=1, help="Default: the newest.")] = None,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show one version: metrics, limits, confusion, packages, origin, decisions.

    Example: edgefleet model show digits 3
    """
    with fleet_errors():
        browser = _open_browser(workspace)
        found = browser.get_version(name, version)
        if as_json:
            print_json(version_to_json(found))
            return
        print_version(found, browser.get_model(name))


@app.command()
def approve(
    name: NameArgument,
    version: VersionArgument,
    workspace: WorkspaceOption = None,
    reason: ReasonOption = "",
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask on a terminal.")] = False,
) -> None:
    """Sign every package of a version with the approver's key.

    Shows first what is signed. Nothing that is not signed can ever run on a device.

    Example: edgefleet model approve digits 3
    """
    with fleet_errors():
        from fleet_server.bootstrap import open_fleet
        from fleet_server.wiring.training import build_browser
        from fleet_server.wiring.trust import build_approver

        fleet = open_fleet(workspace)
        found = build_browser(fleet).get_version(name, version)
        if found.forced_reason and not reason.strip():
            raise RefusedError(
                f"{name} {version} misses limits of its spec and was forced"
                f' ("{found.forced_reason}"); approving it needs --reason "why it may run"'
            )

        def look(targets: list[SignedTarget]) -> None:
            _show_before_signing(found, targets)
            if not yes and sys.stdin.isatty() and not typer.confirm("Sign?", err=True):
                raise RefusedError("nothing was signed")

        desk = build_approver(fleet, ask=_ask_passphrase if sys.stdin.isatty() else None)
        approval = desk.approve(name, version, reason, show=look)
        if approval.metadata_version:
            say(
                f"approved: {name} {version}, {len(approval.targets)} packages in targets"
                f" {approval.metadata_version}, key {approval.keyid[:12]}"
            )
        else:
            say(f"{name} {version} was signed before; nothing had to be signed")
        say(f"next: edgefleet rollout plan {name} {version} --group GROUP --stages 5%,25%,100%")


@app.command()
def reject(
    name: NameArgument,
    version: VersionArgument,
    reason: ReasonOption = "",
    workspace: WorkspaceOption = None,
) -> None:
    """Note that a version must not run; what was signed before is withdrawn.

    Devices that run it go on until they are assigned something else.

    Example: edgefleet model reject digits 3 --reason "confuses 3 and 8 at dusk"
    """
    with fleet_errors():
        from fleet_server.bootstrap import open_fleet
        from fleet_server.wiring.trust import build_approver

        if not reason.strip():
            raise MisuseError("a rejection needs a reason: --reason 'what is wrong'")
        desk = build_approver(
            open_fleet(workspace), ask=_ask_passphrase if sys.stdin.isatty() else None
        )
        rejected = desk.reject(name, version, reason)
        withdrawn = f", {len(rejected.targets)} packages withdrawn" if rejected.targets else ""
        say(f"rejected: {name} {version}{withdrawn}")


def _open_browser(workspace: Any) -> "BrowseModels":
    from fleet_server.bootstrap import open_fleet
    from fleet_server.wiring.training import build_browser

    return build_browser(open_fleet(workspace))


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


def _newest(model: "Model") -> str:
    newest = max(model.versions, default=0)
    return f"{newest} {model.versions[newest]}" if newest else "-"


def _model_to_json(model: "Model") -> dict[str, Any]:
    return {
        "model": model.name,
        "task": model.task,
        "problem": model.problem,
        "champion": model.champion,
        "versions": [{"version": n, "state": state} for n, state in model.versions.items()],
    }


def _show_before_signing(version: "Version", targets: list[SignedTarget]) -> None:
    """Put on stderr what the approver is about to sign, hashes in full."""
    say(f"about to sign {version.model} {version.number}   data {version.data_sha256[:12]}")
    for gate in version.evaluation.get("gates", ()):
        say(f"  {gate['verdict']:<13} {gate['sentence']}")
    if version.forced_reason:
        say(f"  forced: {version.forced_reason}")
    for target in targets:
        say(f"  {target.path}   {target.size_bytes:,} bytes   slot {target.custom.slot or 'any'}")
        say(f"    sha256 {target.sha256}")


def _ask_passphrase(name: str) -> str:
    return str(typer.prompt(f"passphrase of {name}", hide_input=True, err=True))
