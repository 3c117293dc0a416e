"""Find models and versions by name; what does not exist is answered with what does."""

import difflib
from dataclasses import dataclass

from fleet_server.errors import NotFoundError
from fleet_server.ports.registry import Model, ModelRegistry, Version

NAMES_SHOWN_MAX = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class BrowseModels:
    """The use case."""

    registry: ModelRegistry

    def list_models(self) -> list[Model]:
        """Give every model by name."""
        return self.registry.list_models()

    def get_model(self, name: str) -> Model:
        """Give one model; raises NotFoundError naming the nearest."""
        model = self.registry.find_model(name)
        if model is not None:
            return model
        names = [known.name for known in self.registry.list_models()]
        if not names:
            raise NotFoundError(
                f"no model {name!r}: none is registered; `edgefleet train SPEC.toml` makes one"
            )
        near = difflib.get_close_matches(name, names, 1)
        shown = ", ".join(names[:NAMES_SHOWN_MAX])
        hint = f"did you mean {near[0]!r}?" if near else f"there are: {shown}"
        raise NotFoundError(f"no model {name!r}; {hint}")

    def get_version(self, name: str, number: int | None) -> Version:
        """Give one version, the newest when no number is given; raises NotFoundError."""
        model = self.get_model(name)
        wanted = max(model.versions, default=0) if number is None else number
        version = self.registry.find_version(name, wanted)
        if version is None:
            known = list(model.versions)
            shown = ", ".join(str(n) for n in known[-NAMES_SHOWN_MAX:])
            more = f" and {len(known) - NAMES_SHOWN_MAX} older" if len(known) > 20 else ""
            raise NotFoundError(f"{name} has no version {wanted}; it has {shown}{more}")
        return version
