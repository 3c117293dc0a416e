"""What crosses between the agent and its process of trust: frames over a socket, verdicts as JSON.

A frame is a JSON object and some byte strings beside it (metadata files go as they are). Both ends
are this release; sizes are bounded all the same, as what is carried came from outside.
"""

import json
import socket
import struct
from collections.abc import Mapping, Sequence
from typing import Any

from edge_agent.contract.assignment import Assignment, read_instant
from edge_agent.contract.codes import Code
from edge_agent.contract.metadata import BUNDLE_INFLATED_BYTES_MAX
from edge_agent.contract.package import TargetCustom
from edge_agent.core.release import PackageKey
from edge_agent.core.renewal_plan import CertificateFacts
from edge_agent.core.verified import (
    AcceptedTrust,
    Standing,
    VerifiedAssignment,
    VerifiedTarget,
)
from edge_agent.errors import AgentError, Refusal
from edge_agent.ports import Verdict

HEAD_BYTES_MAX = 1_048_576
PARTS_BYTES_MAX = 2 * BUNDLE_INFLATED_BYTES_MAX + 1_048_576
"""A bundle, as many bytes of bins, an envelope."""
_LENGTH = struct.Struct(">I")
_READ_BYTES = 65_536

Frame = tuple[dict[str, Any], list[bytes]]


class FrameError(AgentError):
    """The other end is gone, too slow, or says what makes no sense."""


def send_frame(
    connected: socket.socket, head: Mapping[str, Any], parts: Sequence[bytes] = ()
) -> None:
    """Send one frame; raises FrameError."""
    data = json.dumps({**head, "parts": [len(part) for part in parts]}).encode()
    if len(data) > HEAD_BYTES_MAX or sum(map(len, parts)) > PARTS_BYTES_MAX:
        raise FrameError(
            f"{len(data)} and {sum(map(len, parts))} bytes, the limits are {HEAD_BYTES_MAX} and"
            f" {PARTS_BYTES_MAX}"
        )
    try:
        connected.sendall(_LENGTH.pack(len(data)) + data)
        for part in parts:
            connected.sendall(part)
    except OSError as error:
        raise FrameError(f"nobody reads: {error}") from error


def receive_frame(connected: socket.socket) -> Frame:
    """Wait for one frame; raises FrameError."""
    (length,) = _LENGTH.unpack(_receive(connected, _LENGTH.size))
    if length > HEAD_BYTES_MAX:
        raise FrameError(f"{length} bytes, the limit is {HEAD_BYTES_MAX}")
    head = json.loads(_receive(connected, length))
    sizes = head.pop("parts")
    if sum(sizes) > PARTS_BYTES_MAX:
        raise FrameError(f"{sum(sizes)} bytes, the limit is {PARTS_BYTES_MAX}")
    return head, [_receive(connected, size) for size in sizes]


def _receive(connected: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        try:
            more = connected.recv(min(_READ_BYTES, size - len(data)))
        except OSError as error:
            raise FrameError(f"no answer: {error}") from error
        if not more:
            raise FrameError("the other end is gone")
        data += more
    return bytes(data)


def verdict_to_json(verdict: Verdict) -> dict[str, Any]:
    """Give what ``verdict_from_json`` reads."""
    result = verdict.result
    return {
        "standing": _standing_to_json(verdict.standing) if verdict.standing else None,
        "assignment": _assignment_to_json(result)
        if isinstance(result, VerifiedAssignment)
        else None,
        "refusal": _refusal_to_json(result) if isinstance(result, Refusal) else None,
        "doubt": _refusal_to_json(verdict.doubt) if verdict.doubt else None,
    }


def verdict_from_json(value: Mapping[str, Any]) -> Verdict:
    """Read what ``verdict_to_json`` gave; raises LookupError, TypeError, ValueError, AgentError."""
    refusal, assignment = value["refusal"], value["assignment"]
    result: VerifiedAssignment | Refusal | None = None
    if refusal is not None:
        result = _refusal_from_json(refusal)
    elif assignment is not None:
        result = _assignment_from_json(assignment)
    standing, doubt = value["standing"], value["doubt"]
    return Verdict(
        standing=None if standing is None else _standing_from_json(standing),
        result=result,
        doubt=None if doubt is None else _refusal_from_json(doubt),
    )


def keys_to_json(keys: frozenset[PackageKey]) -> list[list[str]]:
    """Give packages in a fixed order."""
    return sorted([key.target, key.sha256] for key in keys)


def keys_from_json(value: Sequence[Sequence[str]]) -> frozenset[PackageKey]:
    """Read what ``keys_to_json`` gave."""
    return frozenset(PackageKey(target=target, sha256=sha256) for target, sha256 in value)


def facts_to_json(facts: CertificateFacts) -> dict[str, str]:
    """Give what a certificate says."""
    return {
        "serial": facts.serial,
        "not_before": facts.not_before.isoformat(),
        "not_after": facts.not_after.isoformat(),
        "authority": facts.authority,
        "newest": facts.newest,
    }


def facts_from_json(value: Mapping[str, str]) -> CertificateFacts:
    """Read what ``facts_to_json`` gave."""
    what = "certificate facts"
    return CertificateFacts(
        serial=value["serial"],
        not_before=read_instant(value["not_before"], what=what),
        not_after=read_instant(value["not_after"], what=what),
        authority=value["authority"],
        newest=value["newest"],
    )


def _standing_to_json(standing: Standing) -> dict[str, Any]:
    return {
        "accepted": standing.accepted.to_json(),
        "metadata": dict(standing.metadata),
        "approved": keys_to_json(standing.approved),
        "withdrawn": keys_to_json(standing.withdrawn),
        "bins": sorted(standing.bins),
        "authorities": list(standing.authorities),
    }


def _standing_from_json(value: Mapping[str, Any]) -> Standing:
    return Standing(
        accepted=AcceptedTrust.from_json(value["accepted"]),
        metadata=dict(value["metadata"]),
        approved=keys_from_json(value["approved"]),
        withdrawn=keys_from_json(value["withdrawn"]),
        bins=frozenset(value["bins"]),
        authorities=tuple(value["authorities"]),
    )


def _assignment_to_json(verified: VerifiedAssignment) -> dict[str, Any]:
    return {
        "assignment": verified.assignment.encode().decode(),
        "targets": {
            slot: {
                "path": target.path,
                "sha256": target.sha256,
                "size_bytes": target.size_bytes,
                "custom": target.custom.to_json(),
            }
            for slot, target in verified.targets.items()
        },
        "accepted": verified.accepted.to_json(),
        "metadata": dict(verified.metadata),
    }


def _assignment_from_json(value: Mapping[str, Any]) -> VerifiedAssignment:
    return VerifiedAssignment(
        assignment=Assignment.decode(value["assignment"].encode()),
        targets={
            slot: VerifiedTarget(
                path=target["path"],
                sha256=target["sha256"],
                size_bytes=target["size_bytes"],
                custom=TargetCustom.from_json(target["custom"]),
            )
            for slot, target in value["targets"].items()
        },
        accepted=AcceptedTrust.from_json(value["accepted"]),
        metadata=dict(value["metadata"]),
    )


def _refusal_to_json(refusal: Refusal) -> dict[str, str]:
    return {"code": str(refusal.code), "detail": refusal.detail}


def _refusal_from_json(value: Mapping[str, str]) -> Refusal:
    return Refusal(Code(value["code"]), value["detail"])
