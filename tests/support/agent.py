"""Builders and fakes of the agent: releases, a world in memory, a way to cut its power."""

import hashlib
from dataclasses import replace
from functools import lru_cache

from edge_agent.contract.assignment import ProbationPolicy
from edge_agent.contract.package import EVIDENCE, MEMBERS, pack_members
from edge_agent.contract.transfer import (
    CHUNK_BYTES,
    ChunkFrame,
    ChunkRequest,
    Encoding,
    FrameKind,
    PackageOffer,
    Part,
)
from edge_agent.core.probation import ProbationStats
from edge_agent.core.release import Release

GOOD_STATS = ProbationStats(requests=100, rows=100, latency_ms_p95=1.0, output_shift=0.05)


def a_release(number: int, *, rollout: int = 0) -> Release:
    return Release(
        target=f"model/{number}/camera.tar",
        sha256=f"{number:064x}",
        size_bytes=200_000,
        chunks="c" * 64,
        schema="d" * 64,
        rollout=rollout,
        probation=ProbationPolicy(duration_s=60, rows_min=30, timeout_s=600),
    )


@lru_cache(maxsize=32)
def hash_chunks(blob: bytes) -> tuple[str, bytes]:
    """Hash a blob and its chunks, once: searches offer the same few thousands of times."""
    pieces = (blob[n : n + CHUNK_BYTES] for n in range(0, len(blob), CHUNK_BYTES))
    digests = b"".join(hashlib.sha256(piece).digest() for piece in pieces)
    return hashlib.sha256(blob).hexdigest(), digests


class ChunkServer:
    """Answers chunk requests for one blob, as the real server must."""

    def __init__(self, blob: bytes) -> None:
        self.blob = blob
        self.sha256, self.hashes = hash_chunks(blob)
        self.chunks = hashlib.sha256(self.hashes).hexdigest()
        self.served: list[tuple[Part, int]] = []

    def answer(self, request: ChunkRequest) -> list[ChunkFrame]:
        if request.part is Part.OFFER:
            body = PackageOffer(encoding=Encoding.IDENTITY).encode()
            return [replace(self.frame(request, 0, body), kind=FrameKind.OFFER)]
        source = self.hashes if request.part is Part.HASHES else self.blob
        kind = FrameKind.HASHES if request.part is Part.HASHES else FrameKind.CHUNK
        self.served += [(request.part, index) for index in request.indices]
        return [
            replace(
                self.frame(request, n, source[n * CHUNK_BYTES : (n + 1) * CHUNK_BYTES]), kind=kind
            )
            for n in request.indices
        ]

    def frame(self, request: ChunkRequest, index: int, body: bytes) -> ChunkFrame:
        return ChunkFrame(
            kind=FrameKind.CHUNK,
            request=request.request,
            index=index,
            sha256_prefix=bytes.fromhex(self.sha256[:32]),
            body=body,
        )

    def refusal(
        self, request: ChunkRequest, kind: FrameKind, *, retry_after_s: int = 0
    ) -> ChunkFrame:
        frame = self.frame(request, 0, b"")
        return replace(frame, kind=kind, retry_after_s=retry_after_s)


def a_package(name: str, *, padding: int = 0, body: bytes = b"") -> bytes:
    """A package in form only: its members say which it is; enough where nothing is loaded."""
    members = {member: name.encode() for member in MEMBERS}
    return pack_members({**members, EVIDENCE: body + name.encode() * (1 + padding // len(name))})
