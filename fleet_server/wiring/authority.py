"""The certificate authority of a workspace: one after another."""

from functools import partial

from fleet_server.adapters.database.ledger import ledgers_of
from fleet_server.adapters.key_files import Ask
from fleet_server.bootstrap import Fleet
from fleet_server.services.hand_over_authority import AuthorityDesk
from fleet_server.wiring.devices import build_authority
from fleet_server.wiring.keys import build_key_desk


def build_authority_desk(
    fleet: Fleet, *, ask: Ask | None = None, actor: str | None = None
) -> AuthorityDesk:
    """Return what replaces the certificate authority; arguments as in ``build_key_desk``."""
    return AuthorityDesk(
        ledgers=ledgers_of(fleet.engine),
        keys=build_key_desk(fleet, ask=ask, actor=actor),
        find_authorities=partial(build_authority, fleet),
    )
