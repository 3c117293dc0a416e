"""``edgefleet audit``: who did what, and whether the log is whole."""

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
from fleet_server.errors import RefusedError

app = typer.Typer(no_args_is_help=True, help="Who did what: list and verify.")

ROWS_MAX = 10_000


@app.command("ls")
def list_rows(
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
    last: Annotated[int, typer.Option(help="Newest rows shown.", min=1, max=ROWS_MAX)] = 50,
) -> None:
    """List the newest acts.

    Example: edgefleet audit ls --last 20
    """
    with fleet_errors():
        from sqlmodel import col, select

        from fleet_server.adapters.database.engine import read_session
        from fleet_server.adapters.database.tables import AuditRow
        from fleet_server.bootstrap import open_fleet

        with read_session(open_fleet(workspace).engine) as session:
            query = select(AuditRow).order_by(col(AuditRow.id).desc()).limit(last)
            rows = session.exec(query).all()[::-1]
        if as_json:
            print_json([row.model_dump() for row in rows])
            return
        print_table(
            "",
            ("#", "at", "actor", "act", "object", "reason"),
            [(r.id, f"{r.at:%Y-%m-%d %H:%M:%S}", r.actor, r.act, r.object, r.reason) for r in rows],
        )


@app.command()
def verify(workspace: WorkspaceOption = None) -> None:
    """Check that no row was edited, removed or reordered.

    Example: edgefleet audit verify
    """
    with fleet_errors():
        from sqlmodel import col, func, select

        from fleet_server.adapters.database.audit_log import find_breaks
        from fleet_server.adapters.database.engine import read_session
        from fleet_server.adapters.database.tables import AuditRow
        from fleet_server.bootstrap import open_fleet

        with read_session(open_fleet(workspace).engine) as session:
            breaks = list(
                find_breaks(iter(session.exec(select(AuditRow).order_by(col(AuditRow.id)))))
            )
            count = session.exec(select(func.count()).select_from(AuditRow)).one()
        if breaks:
            raise RefusedError(f"the audit log is not whole: {'; '.join(breaks[:10])}")
        say(f"{count} rows, each follows the one before")
