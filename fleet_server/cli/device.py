"""``edgefleet device``: add, list, show, label, revoke."""

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

if TYPE_CHECKING:
    from datetime import datetime

    from fleet_server.bootstrap import Fleet
    from fleet_server.services.list_devices import DeviceReader, DeviceView

app = typer.Typer(no_args_is_help=True, help="Devices: add, list, show, label, revoke.")

ROWS_SHOWN = 50
LabelOption = Annotated[
    list[str] | None, typer.Option("--label", help="NAME=VALUE; may be repeated.")
]


@app.command()
def add(
    device_id: Annotated[str, typer.Argument(metavar="ID", help="a-z, 0-9 and '-'.")],
    profile: Annotated[str, typer.Option(help="What the device is; see `profile ls`.")] = "",
    label: LabelOption = None,
    ttl: Annotated[str, typer.Option(help="How long the join string works: 90m, 24h, 7d.")] = "24h",
    is_again: Annotated[
        bool, typer.Option("--again", help="Let a device that exists join anew.")
    ] = False,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Add a device and print its join string, which works once.

    Example: edgefleet device add cam-7 --profile camera --label site=north
    """
    with fleet_errors():
        from fleet_server.bootstrap import open_fleet
        from fleet_server.errors import MisuseError
        from fleet_server.services.add_device import DeviceSpec, parse_ttl
        from fleet_server.wiring.devices import build_device_desk

        fleet = open_fleet(workspace)
        desk, lasts = build_device_desk(fleet), parse_ttl(ttl)
        labels = _read_labels(label or [])
        if is_again:
            if profile or labels:
                raise MisuseError(
                    "--again keeps the profile and labels; leave --profile and --label out"
                )
            ticket = desk.add_again(device_id, ttl=lasts)
        elif not profile:
            raise MisuseError("--profile is missing; `edgefleet profile ls` names them")
        else:
            spec = DeviceSpec(id=device_id, profile=profile, labels=labels)
            ticket = desk.add(spec, ttl=lasts)
        until_at = fleet.clock.now() + lasts
        if as_json:
            print_json(
                {"device": device_id, "join": ticket.encode(), "expires_at": until_at.isoformat()}
            )
            return
        typer.echo(ticket.encode())
        say(
            f"works once, until {until_at:%Y-%m-%d %H:%M} UTC; on {device_id}:"
            " edge-agent join 'THE STRING ABOVE' && edge-agent run"
        )


@app.command("ls")
def list_devices(
    profile: Annotated[str, typer.Option(help="Only devices of this profile.")] = "",
    state: Annotated[
        str, typer.Option(help="online, offline, 'never seen', 'not joined' or revoked.")
    ] = "",
    label: LabelOption = None,
    is_all: Annotated[bool, typer.Option("--all", help=f"More than {ROWS_SHOWN} rows.")] = False,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """List devices and what they truly run.

    Example: edgefleet device ls --profile camera --state offline
    """
    with fleet_errors():
        from fleet_server.bootstrap import open_fleet
        from fleet_server.errors import MisuseError
        from fleet_server.services.list_devices import STATES, DeviceFilter

        if state and state not in STATES:
            raise MisuseError(f"state {state!r} is none of {', '.join(STATES)}")
        fleet = open_fleet(workspace)
        wanted = DeviceFilter(profile=profile, state=state, labels=_read_labels(label or []))
        limit = None if is_all or as_json else ROWS_SHOWN
        views, total = _reader(fleet).list(wanted, limit=limit)
        if as_json:
            print_json([_to_json(view) for view in views])
            return
        now_at = fleet.clock.now()
        print_table(
            "",
            ("id", "profile", "state", "model@version", "since", "last refusal"),
            [_row(view, now_at) for view in views],
        )
        if len(views) < total:
            say(f"{len(views)} of {total:,}   --all  --state STATE  --label NAME=VALUE  --json")


@app.command()
def show(
    device_id: Annotated[str, typer.Argument(metavar="ID")],
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show all that is known of a device.

    Example: edgefleet device show cam-7
    """
    with fleet_errors():
        from fleet_server.bootstrap import open_fleet

        fleet = open_fleet(workspace)
        view = _reader(fleet).show(device_id)
        shown = _to_json(view) | {"latency": _find_latencies(fleet, view, is_plain=not as_json)}
        if as_json:
            print_json(shown)
            return
        print_table("", ("field", "value"), [(k, _flat(v)) for k, v in shown.items()])
        if view.device.cloned_at is not None:
            say(
                f"{device_id}: somebody else holds a copy of its identity; next:"
                f" edgefleet device revoke {device_id} && edgefleet device add {device_id} --again"
            )


@app.command()
def label(
    device_id: Annotated[str, typer.Argument(metavar="ID")],
    changes: Annotated[
        list[str], typer.Argument(help="NAME=VALUE to set, NAME- to remove.", metavar="CHANGE...")
    ],
    workspace: WorkspaceOption = None,
) -> None:
    """Set and remove labels; groups follow at once, members of families at the next look.

    Example: edgefleet device label cam-7 site=south lane-
    """
    with fleet_errors():
        from fleet_server.bootstrap import open_fleet
        from fleet_server.wiring.devices import build_device_desk
        from fleet_server.wiring.rollouts import build_move_teller

        removed: dict[str, str | None] = {
            text[:-1]: None for text in changes if text.endswith("-") and "=" not in text
        }
        given = _read_labels([text for text in changes if text[:-1] not in removed])
        fleet = open_fleet(workspace)
        device = build_device_desk(fleet).label(device_id, {**removed, **given})
        say(f"{device.id}: {_flat(device.labels) or 'no labels'}")
        for sentence in build_move_teller(fleet).tell(device.id, device.labels):
            say(sentence)


@app.command()
def revoke(
    device_id: Annotated[str, typer.Argument(metavar="ID")],
    reason: Annotated[str, typer.Option(help="Why; kept in the audit log.")] = "",
    workspace: WorkspaceOption = None,
) -> None:
    """Shut a device out: its certificate is refused, it is assigned nothing more.

    What it runs goes on running there. `device add ID --again` lets it back in.

    Example: edgefleet device revoke cam-7 --reason stolen
    """
    with fleet_errors():
        from fleet_server.bootstrap import open_fleet
        from fleet_server.wiring.devices import build_device_desk

        device = build_device_desk(open_fleet(workspace)).revoke(device_id, reason)
        say(
            f"{device.id} is revoked; the running server ends its session and the broker refuses"
            f" the next; to let it back in: edgefleet device add {device.id} --again"
        )


def _reader(fleet: "Fleet") -> "DeviceReader":
    from fleet_server.wiring.devices import build_device_reader

    return build_device_reader(fleet)


def _find_latencies(fleet: "Fleet", view: "DeviceView", *, is_plain: bool) -> dict[str, Any]:
    """Say how fast each slot is: as it reports, else an estimate, which begins with ~."""
    from fleet_server.cli.profile_views import latency_to_json, say_latency
    from fleet_server.wiring.profiles import build_profile_check

    if not view.slots:
        return {}
    found = build_profile_check(fleet).check_device(view)
    write = say_latency if is_plain else latency_to_json
    return {slot: write(fit.latency) for slot, fit in found.items()}


def _read_labels(texts: list[str]) -> dict[str, str]:
    from fleet_server.errors import MisuseError

    labels = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not separator or not name:
            raise MisuseError(f"label {text[:80]!r}: write NAME=VALUE")
        labels[name] = value
    return labels


def _row(view: "DeviceView", now_at: "datetime") -> tuple[str, ...]:
    from fleet_server.services.list_devices import name_version, tell_age

    device = view.device
    is_away = view.state == "offline"
    is_utf8 = (sys.stdout.encoding or "").lower().startswith("utf")
    tick, dash = ("✓", "\N{EN DASH}") if is_utf8 else ("ok", "-")
    return (
        device.id,
        device.profile,
        (f"offline {tell_age(device.last_seen_at, now_at)}" if is_away else view.state)
        + (", in use twice" if device.cloned_at is not None else ""),
        ", ".join(
            f"{name_version(slot.running_target) or slot.slot}"
            f" {tick if slot.state == 'confirmed' else slot.state}"
            for slot in view.slots
        )
        or dash,
        tell_age(view.since_at, now_at) or dash,
        view.refusal or dash,
    )


def _to_json(view: "DeviceView") -> dict[str, Any]:
    device = view.device
    return {
        "id": device.id,
        "profile": device.profile,
        "state": view.state,
        "labels": dict(device.labels),
        "slots": {
            slot.slot: {
                "state": slot.state,
                "running": slot.running_target,
                "desired": slot.desired_target,
                "code": slot.code,
                "detail": slot.detail,
                "changed_at": slot.changed_at.isoformat(),
                "transfer": dict(device.transfers.get(slot.slot, {})),
            }
            for slot in view.slots
        },
        "refusal": view.refusal,
        "agent": device.agent,
        "serving": dict(device.serving),
        "capabilities": dict(device.capabilities),
        "created_at": _iso(device.created_at),
        "enrolled_at": _iso(device.enrolled_at),
        "revoked_at": _iso(device.revoked_at),
        "last_seen_at": _iso(device.last_seen_at),
        "certificate_serial": device.certificate_serial,
        "certificate_expires_at": _iso(device.certificate_expires_at),
        "certificate": dict(device.certificate),
        "in_use_twice_since": _iso(device.cloned_at),
        "in_use_twice": device.clone_evidence,
        "cut_wanted_at": _iso(device.cut_wanted_at),
    }


def _iso(at: "datetime | None") -> str | None:
    return at.isoformat() if at is not None else None


def _flat(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k}={_flat(v)}" for k, v in value.items())
    return "" if value is None else str(value)
