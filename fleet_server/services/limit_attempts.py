"""How often one address may try to join with something that does not work.

Only attempts that fail count: any number of devices may join from behind one address. The secrets
are 256 random bits, so this is not what keeps guesses out; it keeps the cost of them down.
"""

import ipaddress
from dataclasses import dataclass, field

from fleet_server.core.quota import Quota
from fleet_server.errors import ThrottledError
from fleet_server.ports.clock import Clock

FAILURES_MAX = 60
PERIOD_S = 600.0
ADDRESSES_MAX = 10_000
IPV6_PREFIX_BITS = 64
"""Whoever has one address of IPv6 has all of its network."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptLimit:
    """Attempts by address, in bounded memory; called from one thread."""

    clock: Clock
    failures: Quota = field(
        default_factory=lambda: Quota(
            count_max=FAILURES_MAX, period_s=PERIOD_S, keys_max=ADDRESSES_MAX
        )
    )

    def admit(self, address: str) -> None:
        """Count an attempt as failed until ``forgive``.

        Raises:
            ThrottledError: Too many failed; says when the next one is looked at.
        """
        key, now_s = name_source(address), self.clock.monotonic()
        if not self.failures.take(key, now_s):
            wait_s = max(1.0, self.failures.wait_s(key, now_s))
            raise ThrottledError(
                f"{FAILURES_MAX} attempts to join from {key} have failed within"
                f" {PERIOD_S / 60:.0f} minutes; try again in {wait_s:.0f} s",
                retry_after_s=wait_s,
            )

    def forgive(self, address: str) -> None:
        """Uncount an attempt that worked."""
        self.failures.give_back(name_source(address))


def name_source(address: str) -> str:
    """Give the name under which an address is counted.

    >>> name_source("10.0.0.7"), name_source("2001:db8::7"), name_source("testclient")
    ('10.0.0.7', '2001:db8::/64', 'testclient')
    """
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address[:64]
    if found.version == 4:
        return str(found)
    return str(ipaddress.ip_network((int(found), IPV6_PREFIX_BITS), strict=False))
