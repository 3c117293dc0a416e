"""Put the gate's figures in words: shares, intervals, instants. Pure."""

import math
from datetime import datetime

Z_95 = 1.959963984540054


def find_interval(failed: int, finished: int) -> tuple[float, float]:
    """Give Wilson's 95 % interval of a failure rate, each end 0 to 1 (Wilson 1927).

    >>> [round(end, 3) for end in find_interval(13, 281)]
    [0.027, 0.078]
    """
    if not 0 <= failed <= finished or finished == 0:
        raise ValueError(f"failed {failed} of finished {finished} is no share")
    share, weight = failed / finished, Z_95 * Z_95 / finished
    middle = (share + weight / 2) / (1 + weight)
    half = Z_95 / (1 + weight) * math.sqrt(share * (1 - share) / finished + weight / 4 / finished)
    low = 0.0 if failed == 0 else max(0.0, middle - half)
    high = 1.0 if failed == finished else min(1.0, middle + half)
    return low, high


def say_share(share: float) -> str:
    """Say a share in per cent, with the digits that matter.

    >>> say_share(0.05), say_share(0.0461), say_share(1)
    ('5 %', '4.6 %', '100 %')
    """
    return f"{_percent(share)} %"


def say_span(failed: int, finished: int) -> str:
    """Say failures with their interval.

    >>> say_span(13, 281)
    '13 of 281 failed: 4.6 % (2.7 to 7.8 %).'
    """
    low, high = find_interval(failed, finished)
    return (
        f"{failed:,} of {finished:,} failed: {say_share(failed / finished)}"
        f" ({_percent(low)} to {_percent(high)} %)."
    )


def say_devices(count: int) -> str:
    """Say a number of devices.

    >>> say_devices(1), say_devices(1_200)
    ('1 device', '1,200 devices')
    """
    return f"{count:,} device{'' if count == 1 else 's'}"


def say_instant(instant: datetime) -> str:
    """Say an instant to the second, in UTC with the day left out."""
    return f"{instant:%H:%M:%S}"


def _percent(share: float) -> str:
    return f"{share * 100:.1f}".removesuffix(".0")
