"""All that decides how predictions are answered, as a value that crosses to another process."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from device_profiles.profile import DeviceProfile
from edge_agent.settings import AgentSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingConfig:
    """All that decides how predictions are answered.

    Attributes:
        directory: The agent's.
        boot: Marks windows and prediction ids; another one for each start of what serves, so that
            (boot, stream, sequence) never repeats.
        settings: Of the operator.
        profile: Of the device.
        rows: Section ``[row_samples]`` of the settings, checked; None samples nothing.
    """

    directory: Path
    boot: int
    settings: AgentSettings
    profile: DeviceProfile
    rows: Mapping[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """Give what ``from_json`` reads, in another process of the same release."""
        return {
            "directory": str(self.directory),
            "boot": self.boot,
            "settings": asdict(self.settings),
            "profile": self.profile.to_table(),
            "rows": self.rows,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "ServingConfig":
        """Read what ``to_json`` gave."""
        return cls(
            directory=Path(value["directory"]),
            boot=value["boot"],
            settings=AgentSettings(**value["settings"]),
            profile=DeviceProfile.from_table(value["profile"], source="the agent"),
            rows=value["rows"],
        )
