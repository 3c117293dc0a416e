"""Say what a device's labels mean for the slots that rollouts of families hold.

Nothing is decided here: the controller moves devices at its next look (``core/rollout_moves.py``).
"""

from collections.abc import Mapping
from dataclasses import dataclass

from fleet_server.core.rollout_moves import tell_label
from fleet_server.ports.rollouts import Books


@dataclass(frozen=True, slots=True, kw_only=True)
class MoveTeller:
    """Looks at one device's slots."""

    books: Books

    def tell(self, device_id: str, labels: Mapping[str, str]) -> list[str]:
        """Give a sentence for each slot that changes its member, or cannot."""
        said = []
        with self.books.reading() as book:
            device = book.devices.find(device_id)
            held = [] if device is None else book.rollouts.list_holders(device.number)
            for rollout_id, target in held:
                rollout = book.rollouts.find(rollout_id)
                if rollout is not None and (sentence := tell_label(rollout, target, labels)):
                    said.append(sentence)
        return said
