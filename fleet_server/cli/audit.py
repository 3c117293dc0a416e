"""``edgefleet audit``: who did what, and whether the log is whole."""

from datetime import UTC, datetime
from typing import Annotated

import typer

from fleet_server.cli.output import (
    JsonOption,
    WorkspaceOption,
    fleet_errors,
    print_json,
    print_table,
    say,
)
from fleet_server.errors import MisuseError, RefusedError

app = typer.Typer(no_args_is_help=True, help="Who did what: list and verify.")

ROWS_MAX = 10_000
NEWEST = 2**63 - 1


@app.command("ls")
def list_rows(
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
    last: Annotated[int, typer.Option(help="Newest rows shown.", min=1, max=ROWS_MAX)] = 50,
    actor: Annotated[str, typer.Option(help="Only what this actor did.")] = "",
    act: Annotated[
        str, typer.Option(help="Only this act, such as device.revoke; `device.` for all of them.")
    ] = "",
    since: Annotated[
        str, typer.Option(help="Not before: 2026-01-31, or 2026-01-31T08:00 in UTC.")
    ] = "",
) -> None:
    """List the newest acts.

    Example: edgefleet audit ls --act device. --since 2026-01-31
    """
    with fleet_errors():
        from fleet_server.bootstrap import open_fleet
        from fleet_server.ports.audit import AuditFilter
        from fleet_server.wiring.audit import build_audit_desk

        wanted = AuditFilter(actor=actor, act=act, since=_read_instant(since))
        desk = build_audit_desk(open_fleet(workspace), is_operator=True)
        rows = desk.reader.list_page(wanted, before=NEWEST, limit=last)[::-1]
        if as_json:
            from dataclasses import asdict

            print_json([asdict(row) for row in rows])
            return
        print_table(
            "",
            ("#", "at", "actor", "act", "object", "reason"),
            [(r.id, f"{r.at:%Y-%m-%d %H:%M:%S}", r.actor, r.act, r.object, r.reason) for r in rows],
        )


@app.command()
def verify(
    head: Annotated[
        str, typer.Option(help="ROWS:SHA256 that you wrote down after an earlier check.")
    ] = "",
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check that no row was edited, removed, reordered or cut off the end.

    The head of a whole log is remembered in the server's and the operator's folder, and printed.

    Example: edgefleet audit verify
    """
    with fleet_errors():
        from fleet_server.bootstrap import open_fleet
        from fleet_server.services.verify_audit import parse_head
        from fleet_server.wiring.audit import build_audit_desk

        desk = build_audit_desk(open_fleet(workspace), is_operator=True)
        report = desk.verify(*([parse_head(head)] if head else []))
        if as_json:
            print_json(
                {
                    "is_whole": report.is_whole,
                    "breaks": list(report.breaks),
                    "rows": report.head.rows if report.head else 0,
                    "sha256": report.head.sha256 if report.head else "",
                    "compared": [known.place for known in report.compared],
                }
            )
        if not report.is_whole:
            raise RefusedError(f"the audit log is not whole: {'; '.join(report.breaks)}")
        if report.head is None or as_json:
            return
        places = desk.remember(report.head)
        say(f"{report.head.rows} rows, each follows the one before")
        for known in report.compared:
            say(f"holds row {known.rows}, which {known.place} remembered")
        say(f"head {report.head.rows}:{report.head.sha256}")
        say(f"remembered in {' and '.join(places) or 'no file'}; keep a copy elsewhere")


def _read_instant(text: str) -> datetime | None:
    if not text:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise MisuseError(f"--since {text[:40]!r}: write 2026-01-31 or 2026-01-31T08:00") from error
    return found if found.tzinfo else found.replace(tzinfo=UTC)
