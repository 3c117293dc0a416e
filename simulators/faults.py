"""Which simulated device does what wrong, and when. Pure: the same seed gives the same faults."""

import hashlib
import math
from dataclasses import dataclass

SECONDS_PER_HOUR = 3_600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """How a fleet misbehaves.

    Attributes:
        seed: Names one course of events.
        fail_rate: Share of devices, 0 to 1, on which a given package fails its self-test.
        disconnects_per_hour: Of each device, on average.
    """

    seed: int = 0
    fail_rate: float = 0.0
    disconnects_per_hour: float = 0.0

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not 0 <= self.fail_rate <= 1:
            raise ValueError(f"fail rate must be 0 to 1, got {self.fail_rate}")
        if not 0 <= self.disconnects_per_hour <= SECONDS_PER_HOUR:
            raise ValueError(
                f"disconnects per hour must be 0 to 3600, got {self.disconnects_per_hour}"
            )

    def breaks(self, device_id: str, sha256: str) -> bool:
        """Tell whether a package fails on a device, always the same for the two.

        >>> Faults(fail_rate=1.0).breaks("sim-1", "0" * 64)
        True
        """
        return _share(self.seed, "break", device_id, sha256) < self.fail_rate

    def next_disconnect_s(self, device_id: str, number: int) -> float:
        """Return seconds to the next disconnect (exponential), infinite when there is none."""
        if not self.disconnects_per_hour:
            return math.inf
        share = _share(self.seed, "disconnect", device_id, str(number))
        return -math.log(1 - share) * SECONDS_PER_HOUR / self.disconnects_per_hour


def _share(seed: int, *words: str) -> float:
    """Give a number in [0, 1) that depends on the words alone."""
    digest = hashlib.sha256("\0".join((str(seed), *words)).encode()).digest()
    return int.from_bytes(digest[:7], "big") / 2**56
