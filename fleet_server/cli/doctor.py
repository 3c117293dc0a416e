"""``edgefleet doctor``: what is missing or wrong, and the next step."""

import typer

from fleet_server.cli.output import JsonOption, WorkspaceOption, fleet_errors, print_json, say

SIGNS = {"good": "ok ", "warning": "!  ", "bad": "BAD"}


def doctor(workspace: WorkspaceOption = None, as_json: JsonOption = False) -> None:
    """Check program, disk, keys, certificates, metadata, processes and database.

    Ends with 1 when something is bad.

    Example: edgefleet doctor -w fleet
    """
    with fleet_errors():
        from dataclasses import asdict

        from fleet_server.bootstrap import open_fleet
        from fleet_server.wiring.checkup import check_workspace

        findings = list(check_workspace(open_fleet(workspace)))
        if as_json:
            print_json([asdict(f) for f in findings])
        else:
            for finding in findings:
                step = f"  -> {finding.next_step}" if finding.next_step else ""
                typer.echo(f"{SIGNS[finding.grade]} {finding.what}{step}")
        bad = sum(f.grade == "bad" for f in findings)
        if bad:
            say(f"{bad} of {len(findings)} checks are bad")
            raise typer.Exit(1)
