"""Packages as they travel, and offers of them as the server makes."""

import random

from edge_agent.contract.transfer import ChunkFrame, ChunkRequest, FrameKind, PackageOffer
from fleet_server.adapters.package_encoder import Encoded, encode_delta, encode_plain

MEMORY_BYTES = 64_000_000


def encoded(target: bytes, base: bytes | None = None) -> Encoded:
    """Encode as the server does."""
    made = encode_plain(target) if base is None else encode_delta(target, base)
    assert made is not None
    return made


def offer_frame(request: ChunkRequest, offer: PackageOffer | bytes) -> ChunkFrame:
    """Answer a question how a package can travel."""
    return ChunkFrame(
        kind=FrameKind.OFFER,
        request=request.request,
        index=0,
        sha256_prefix=bytes.fromhex(request.sha256[:32]),
        body=offer if isinstance(offer, bytes) else offer.encode(),
    )


def noise(size: int, *, seed: int = 0) -> bytes:
    """Bytes that do not compress."""
    return random.Random(seed).randbytes(size)
