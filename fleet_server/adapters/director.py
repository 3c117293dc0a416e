"""The director: seals assignments into DSSE envelopes with the server's online key.

``targets`` delegates to this key and to nothing but assignments: it moves devices among packages
that approvers signed, it cannot make a package runnable.
"""

import json
from pathlib import Path

from securesystemslib.dsse import Envelope

from edge_agent.contract.assignment import (
    DIRECTOR_ROLE,
    ENVELOPE_BYTES_MAX,
    PAYLOAD_TYPE,
    Assignment,
)
from fleet_server.adapters.online_keys import OnlineKeys
from fleet_server.errors import RefusedError


class Director:
    """The ``AssignmentSigner`` of a workspace; follows a rotation of its key."""

    def __init__(self, keys_dir: Path) -> None:
        self._keys = OnlineKeys(keys_dir)
        self._keys.signer(DIRECTOR_ROLE)

    def seal(self, assignment: Assignment) -> bytes:
        """Sign an assignment.

        Raises:
            RefusedError: It would be larger than devices accept.
        """
        envelope = Envelope(assignment.encode(), PAYLOAD_TYPE, {})
        envelope.sign(self._keys.signer(DIRECTOR_ROLE))
        data = json.dumps(envelope.to_dict(), separators=(",", ":")).encode()
        if len(data) > ENVELOPE_BYTES_MAX:
            raise RefusedError(
                f"the assignment of {assignment.device} has {len(data)} bytes for"
                f" {len(assignment.slots)} slots, the limit is {ENVELOPE_BYTES_MAX}; use fewer"
            )
        return data
