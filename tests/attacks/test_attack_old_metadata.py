"""Whoever kept old metadata, assignments and keys plays them again, or turns the device's clock."""

import shutil
from datetime import UTC, datetime, timedelta

from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, Root

from edge_agent.contract.codes import Code
from tests.support.attack_moves import add_unsigned
from tests.support.attack_payloads import COMPACT
from tests.support.attack_server import UNSIGNED, V1, V2
from tests.support.attacks import (
    IGNORED,
    RECOVERED,
    Attack,
    AttackSuite,
    AttackWorld,
    hold,
)

attack = AttackSuite("old metadata, retired keys or the clock")

# Replays ----------------------------------------------------------------------------------------


@attack(Code.TUF_ROLLBACK)
def replay_old_metadata(w: AttackWorld) -> None:
    """The newest versions a device verified are kept on its disk."""
    w.advance(days=0.5)
    old = w.server.refresh()
    w.server.approve()
    w.update(V2, 6)
    w.device.deliver(old, w.server.order(V1, 7))


@attack(Code.TUF_ROLLBACK)
def replay_old_metadata_with_an_assignment_that_passed_before(w: AttackWorld) -> None:
    """What passed once is verified again when other metadata came between."""
    w.update(V2, 6)
    assert w.retained is not None
    old, envelope = w.retained
    w.server.approve()
    w.device.deliver(w.server.refresh(), b"{}")
    assert w.device.said_codes() == {Code.ASSIGN_FORMAT}
    w.device.forget_reports()
    w.device.deliver(old, envelope)


@attack(Code.TUF_ROLLBACK)
def replay_an_old_timestamp_over_new_metadata(w: AttackWorld) -> None:
    """A timestamp's version never goes back."""
    old = w.server.refresh()["timestamp.json"]
    w.server.approve()
    w.update(V2, 6)
    w.device.deliver(w.server.refresh() | {"timestamp.json": old}, w.server.order(V1, 7))


@attack(Code.TUF_ROLLBACK)
def replay_old_metadata_after_a_restart(w: AttackWorld) -> None:
    """What was verified is on disk before anything follows from it."""
    old = w.server.refresh()
    w.server.approve()
    w.update(V2, 6)
    w.restart()
    w.device.deliver(old, w.server.order(V1, 7))


@attack(Code.TUF_EXPIRED)
def hold_back_news_for_two_days(w: AttackWorld) -> None:
    """A timestamp holds for a day: a freeze blocks new installs and is reported."""
    files = w.server.refresh()
    w.advance(days=2)
    w.device.deliver(files, w.server.order(V2, 6))


@attack(Code.TUF_EXPIRED)
def hold_back_a_withdrawal_until_the_metadata_expires(w: AttackWorld) -> None:
    """Who hides that a package was withdrawn has one day, and installs nothing after it."""
    files = w.server.refresh()
    w.server.approve(withdraw=(V2,))
    w.advance(days=1.1)
    w.device.deliver(files, w.server.order(V2, 6))


@attack(Code.ASSIGN_EXPIRED)
def hold_back_an_assignment_for_eight_days(w: AttackWorld) -> None:
    """An assignment holds for a week."""
    envelope = w.server.order(V2, 6)
    w.advance(days=8)
    w.device.deliver(w.server.refresh(), envelope)


@attack(Code.NOT_APPROVED)
def replay_an_assignment_of_a_package_withdrawn_since(w: AttackWorld) -> None:
    """Every path is looked up in the targets of now."""
    envelope = w.server.order(V2, 6)
    w.server.approve(withdraw=(V2,))
    w.device.deliver(w.server.refresh(), envelope)


@attack(Code.TUF_EXPIRED)
def wait_until_even_the_root_has_expired(w: AttackWorld) -> None:
    """An expired root blocks new installs; what runs goes on for ever."""
    files, envelope = w.server.refresh(), w.server.order(V2, 6, days=4_000)
    w.advance(days=3_650)
    w.device.deliver(files, envelope)
    w.turn_back(days=3_650)


# Retired keys -----------------------------------------------------------------------------------


@attack(Code.ASSIGN_SIGNATURE)
def sign_with_the_directors_former_key(w: AttackWorld) -> None:
    """Approvers named another director; devices learn it with the next targets."""
    former = w.server.key("director")
    w.server.rotate_director()
    w.device.deliver(w.server.refresh(), w.server.order(V2, 6, signer=former))


@attack(Code.TUF_SIGNATURE, ruins_server=True)
def sign_with_a_former_approvers_key(w: AttackWorld) -> None:
    """The root named another approver; devices follow the chain of roots first."""
    former = w.server.key("approver")
    replace_approver(w)
    add_unsigned(w.server, former)
    w.device.deliver(w.server.refresh(), w.server.order(UNSIGNED, 6))


@attack(Code.TUF_SIGNATURE, ruins_server=True)
def withhold_the_root_that_retired_an_approver(w: AttackWorld) -> None:
    """A root a device has seen stays; leaving it out of a message does not bring the old back."""
    former = w.server.key("approver")
    new = replace_approver(w)
    w.server.publish_targets(lambda _: None, new)
    w.update(V2, 6)
    add_unsigned(w.server, former)
    files = w.server.refresh()
    del files["2.root.json"]
    w.device.deliver(files, w.server.order(UNSIGNED, 7))


def replace_approver(w: AttackWorld) -> CryptoSigner:
    root = Metadata[Root].from_bytes(w.server.repository.root())
    root.signed.version += 1
    root.signed.revoke_key(w.server.key("approver").public_key.keyid, "targets")
    new = CryptoSigner.generate_ed25519()
    root.signed.add_key(new.public_key, "targets")
    root.sign(w.server.key("root"))
    w.server.repository.store_root(root.to_bytes(COMPACT))
    return new


# The device's clock -----------------------------------------------------------------------------


@attack(Code.ASSIGN_EXPIRED)
def turn_the_clock_back_to_revive_an_assignment(w: AttackWorld) -> None:
    """Time is never earlier than the newest date approvers signed."""
    old = w.server.order(V2, 7)
    w.advance(days=30)
    w.server.approve()
    w.update(V1, 6)
    w.device.clock.turn_to(w.server.clock.now() - timedelta(days=30))
    w.device.deliver(w.server.refresh(), old)


@attack(Code.TUF_EXPIRED)
def lose_clock_and_metadata_and_replay(w: AttackWorld) -> None:
    """The floor of time lies with the slots, not with the metadata."""
    old = w.server.refresh()
    w.advance(days=60)
    w.server.approve()
    w.update(V1, 6)
    shutil.rmtree(w.device.directory / "tuf")
    w.device.clock.turn_to(datetime(1970, 1, 2, tzinfo=UTC))
    w.device.deliver(old, w.server.order(V1, 7))


@attack(Code.TUF_EXPIRED)
def turn_the_clock_ten_years_ahead(w: AttackWorld) -> None:
    """A clock in the future refuses new installs only, and says so."""
    now = w.device.clock.now()
    w.device.clock.turn_to(now + timedelta(days=3_650))
    w.device.deliver(w.server.refresh(), w.server.order(V2, 6))
    w.device.clock.turn_to(now)


@attack(RECOVERED)
def turn_the_clock_ten_years_back(w: AttackWorld) -> None:
    """A device whose clock begins in the past updates by the newest date approvers signed."""
    w.device.clock.turn_to(w.device.clock.now() - timedelta(days=3_650))
    w.update(V2, 6)
    w.device.clock.turn_to(w.server.clock.now())


@attack(IGNORED)
def turn_the_clock_to_and_fro_while_it_runs(w: AttackWorld) -> None:
    """Deadlines count on a clock that never goes back; expiry never stops what runs."""
    now = w.device.clock.now()
    for years in (-10, 10, -40, 70):
        w.device.clock.turn_to(now + timedelta(days=365 * years))
        w.device.run(5)
    w.device.clock.turn_to(now)


@attack.cases()
def test_an_attack_with_old_metadata_is_refused_and_seen(
    attack: Attack, world: AttackWorld
) -> None:
    hold(world, attack)
