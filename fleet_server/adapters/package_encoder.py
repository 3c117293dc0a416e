"""Make a package smaller for the way: zstd, alone or with what the device holds as prefix.

Each way is tried with the package as it is and with its tensors regrouped, each result is restored
and compared before it counts, and the smallest is taken. A prefix, unlike a dictionary, works with
long distance matching, so no level is blind to what lies far away (docs/adr/0030). The same
library gives the same bytes for the same input.
"""

import hashlib
import io
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from backports.zstd import (
    CompressionParameter,
    DecompressionParameter,
    ZstdCompressor,
    ZstdDecompressor,
    ZstdDict,
    ZstdError,
)

from edge_agent.contract.encoding import (
    WINDOW_LOG_MAX,
    EncodedHead,
    Segment,
    group,
    restore,
    window_log_of,
)
from edge_agent.contract.errors import ContractError
from edge_agent.contract.transfer import CHUNK_BYTES, Encoding, PackageOffer
from fleet_server.core.tensor_places import find_tensors, plan_segments
from fleet_server.errors import FleetError

LEVEL = 19
LEVEL_LARGE = 9
LARGE_BYTES = 33_554_432
"""Beyond this much input, package and base together, the level is LEVEL_LARGE: level 19 takes 12 s
for 64 MiB and gains nothing where most is found in the base."""
PLAIN_WINDOW_LOG_MAX = 23
"""8 MiB: all a device needs for a package of any size without a base."""
PLAIN_BYTES_MAX = 268_435_456
DELTA_BYTES_MAX = 1 << WINDOW_LOG_MAX
"""Package and base together: all of it must lie in the window."""
BASE_BYTES_MIN = 8
"""Shorter ones zstd does not take."""
PIECE_BYTES = 1_048_576
SAVED_BYTES_MIN = 256
SAVED_SHARE_MIN = 0.02
"""An encoding must be smaller by both than what it takes the place of: zstd than the package, a
delta than zstd."""


class TooLateError(FleetError):
    """The time for making an encoding is over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """A package as it travels.

    Attributes:
        offer: What a device is told.
        data: The bytes.
        way: What was done: ``plain`` or ``regrouped``.
    """

    offer: PackageOffer
    data: bytes
    way: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Bytes of one package by every way there is; None where a way is not open.

    Attributes:
        package: As it is.
        zstd: zstd alone.
        zstd_regrouped: The same with tensors regrouped.
        patch: zstd with the base as prefix.
        patch_regrouped: The same with the differences of tensors regrouped.
        chosen: What would travel.
        encoding: How that is encoded.
    """

    package: int
    zstd: int | None
    zstd_regrouped: int | None
    patch: int | None
    patch_regrouped: int | None
    chosen: int
    encoding: Encoding


def never() -> bool:
    """Set no deadline."""
    return False


def encode_plain(target: bytes, *, is_late: Callable[[], bool] = never) -> Encoded | None:
    """Encode without a base; None when the package is too large; raises TooLateError."""
    return _best(_plain_ways(target, is_late))


def encode_delta(
    target: bytes, base: bytes, *, is_late: Callable[[], bool] = never
) -> Encoded | None:
    """Encode from a base; None when both are too large; raises TooLateError."""
    return _best(_delta_ways(target, base, is_late))


def measure_encodings(target: bytes, base: bytes | None = None) -> Sizes:
    """Make a package, or any bytes, in every way and say how many bytes each takes."""
    plain = list(_plain_ways(target, never))
    delta = list(_delta_ways(target, base, never)) if base is not None else []
    best: Encoding = Encoding.IDENTITY
    chosen = len(target)
    for encoded in (min(plain, key=_size, default=None), min(delta, key=_size, default=None)):
        if encoded is not None and is_worth(len(encoded.data), chosen):
            best, chosen = encoded.offer.encoding, len(encoded.data)
    by_way = {(e.offer.encoding, e.way): len(e.data) for e in (*plain, *delta)}
    return Sizes(
        package=len(target),
        zstd=by_way.get((Encoding.ZSTD, "plain")),
        zstd_regrouped=by_way.get((Encoding.ZSTD, "regrouped")),
        patch=by_way.get((Encoding.DELTA, "plain")),
        patch_regrouped=by_way.get((Encoding.DELTA, "regrouped")),
        chosen=chosen,
        encoding=best,
    )


def is_worth(smaller: int, larger: int) -> bool:
    """Tell whether fewer bytes are few enough for the memory and time they cost a device.

    >>> is_worth(980, 1_000), is_worth(97_000, 100_000), is_worth(99_000, 100_000)
    (False, True, False)
    """
    return larger - smaller >= max(SAVED_BYTES_MIN, larger * SAVED_SHARE_MIN)


def decode(data: bytes, *, size_bytes: int, base: bytes | None, window_log: int) -> bytes:
    """Restore a package as a device does; raises FleetError for what is no encoded package."""
    base_sha256 = hashlib.sha256(base).hexdigest() if base is not None else ""

    def open_frame() -> ZstdDecompressor:
        return ZstdDecompressor(
            zstd_dict=ZstdDict(base, is_raw=True).as_prefix if base else None,
            options={DecompressionParameter.window_log_max: window_log},
        )

    try:
        pieces = restore(
            io.BytesIO(data),
            size_bytes=size_bytes,
            base=base,
            base_sha256=base_sha256,
            open_frame=open_frame,
        )
        return b"".join(pieces)
    except (ContractError, ZstdError, EOFError) as error:
        raise FleetError(f"encoded package cannot be restored: {error}") from error


def _best(ways: Iterator[Encoded]) -> Encoded | None:
    """Return the smallest of those there was time for; raises TooLateError when there was none."""
    found: list[Encoded] = []
    try:
        found.extend(ways)
    except TooLateError:
        if not found:
            raise
    return min(found, key=_size, default=None)


def _size(encoded: Encoded) -> int:
    return len(encoded.data)


def _plain_ways(target: bytes, is_late: Callable[[], bool]) -> Iterator[Encoded]:
    if not 0 < len(target) <= PLAIN_BYTES_MAX:
        return
    tensors = plan_segments(find_tensors(target), {})
    for segments in ((), tensors) if tensors else ((),):
        yield _encode(target, None, segments, is_late)


def _delta_ways(target: bytes, base: bytes, is_late: Callable[[], bool]) -> Iterator[Encoded]:
    if not target or not BASE_BYTES_MIN <= len(base) <= DELTA_BYTES_MAX - len(target):
        return
    tensors = plan_segments(find_tensors(target), find_tensors(base))
    for segments in ((), tensors) if tensors else ((),):
        yield _encode(target, base, segments, is_late)


def _encode(
    target: bytes, base: bytes | None, segments: tuple[Segment, ...], is_late: Callable[[], bool]
) -> Encoded:
    sha256 = hashlib.sha256(target).hexdigest()
    base_sha256 = hashlib.sha256(base).hexdigest() if base is not None else ""
    head = EncodedHead(
        sha256=sha256, size_bytes=len(target), base=base_sha256, segments=segments
    ).encode()
    data = head + _compress(group(target, segments, base), len(target), base, is_late)
    window_log = window_log_of(len(target))
    if base is None:
        window_log = min(window_log, PLAIN_WINDOW_LOG_MAX)
    offer = PackageOffer(
        encoding=Encoding.ZSTD if base is None else Encoding.DELTA,
        sha256=hashlib.sha256(data).hexdigest(),
        size_bytes=len(data),
        chunks=_hash_chunks(data),
        window_log=window_log,
        base=base_sha256,
    )
    restored = decode(data, size_bytes=len(target), base=base, window_log=window_log)
    if hashlib.sha256(restored).hexdigest() != sha256:
        raise FleetError(f"package {sha256[:12]} was encoded but is not what comes back")
    return Encoded(offer=offer, data=data, way="regrouped" if segments else "plain")


def _compress(
    pieces: Iterable[bytes], size_bytes: int, base: bytes | None, is_late: Callable[[], bool]
) -> bytes:
    together = size_bytes + (len(base) if base is not None else 0)
    window_log = window_log_of(together)
    if base is None:
        window_log = min(window_log, PLAIN_WINDOW_LOG_MAX)
    compressor = ZstdCompressor(
        options={
            CompressionParameter.compression_level: LEVEL
            if together <= LARGE_BYTES
            else LEVEL_LARGE,
            CompressionParameter.window_log: window_log,
            CompressionParameter.enable_long_distance_matching: int(base is not None),
            CompressionParameter.checksum_flag: 0,
        },
        zstd_dict=ZstdDict(base, is_raw=True).as_prefix if base is not None else None,
    )
    compressor.set_pledged_input_size(size_bytes)
    out = []
    for piece in pieces:
        for at in range(0, len(piece), PIECE_BYTES):
            if is_late():
                raise TooLateError("the time for making an encoding is over")
            out.append(compressor.compress(piece[at : at + PIECE_BYTES]))
    out.append(compressor.flush())
    return b"".join(out)


def _hash_chunks(data: bytes) -> str:
    whole = hashlib.sha256()
    for start in range(0, len(data), CHUNK_BYTES):
        whole.update(hashlib.sha256(data[start : start + CHUNK_BYTES]).digest())
    return whole.hexdigest()
