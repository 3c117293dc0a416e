"""Training and the model registry of a workspace.

What trains is imported when it is built: looking at models must not load scikit-learn.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from fleet_server.adapters.database.model_repository import DatabaseModelRegistry
from fleet_server.bootstrap import Fleet
from fleet_server.ports.training import StepListener
from fleet_server.services.browse_family import BrowseFamily
from fleet_server.services.browse_models import BrowseModels
from fleet_server.workspace import Workspace

if TYPE_CHECKING:
    from fleet_server.services.train_family import FamilyListener, TrainFamily
    from fleet_server.services.train_model import TrainModel

PROFILES_DIR = "profiles"


def profiles_dir(workspace: Workspace) -> Path:
    """Return the folder of the fleet's own device profiles; it need not exist."""
    return workspace.root / PROFILES_DIR


def build_browser(fleet: Fleet) -> BrowseModels:
    """Return what finds models and versions: ``list_models``, ``get_model``, ``get_version``."""
    return BrowseModels(registry=DatabaseModelRegistry(fleet.engine))


def build_family_browser(fleet: Fleet) -> BrowseFamily:
    """Return what looks at a family as one thing: ``view(pattern) -> FamilyView``."""
    return BrowseFamily(registry=DatabaseModelRegistry(fleet.engine))


def build_trainer(fleet: Fleet, listener: StepListener) -> "TrainModel":
    """Return what trains specs: ``train(spec_path, actor=…, force_reason=None) -> Trained``."""
    from fleet_server.adapters.estimator_files import SkopsEstimatorWriter
    from fleet_server.adapters.git_commit import GitCodeVersions
    from fleet_server.adapters.table_files import PyarrowTableReader
    from fleet_server.adapters.training_pictures import FilePictureReader
    from fleet_server.services.train_model import TrainModel

    reader = PyarrowTableReader()
    return TrainModel(
        reader=reader,
        pictures=FilePictureReader(tables=reader),
        registry=DatabaseModelRegistry(fleet.engine),
        packages=fleet.objects,
        estimators=SkopsEstimatorWriter(),
        code_versions=GitCodeVersions(),
        clock=fleet.clock,
        listener=listener,
        profiles_dir=profiles_dir(fleet.workspace),
    )


def is_family(fleet: Fleet, spec_path: Path) -> bool:
    """Tell whether a spec is of a family; raises MisuseError when it cannot be read."""
    from fleet_server.services.read_spec import read_spec

    return read_spec(spec_path, profiles_dir(fleet.workspace)).family is not None


def build_family_trainer(
    fleet: Fleet, listener: "FamilyListener", jobs: int | None
) -> "TrainFamily":
    """Return what trains families: ``train(spec_path, actor=…) -> TrainedFamily``.

    Args:
        fleet: The workspace.
        listener: Hears of each member.
        jobs: Processes; None for one a processor.
    """
    from fleet_server.adapters.estimator_files import SkopsEstimatorWriter
    from fleet_server.adapters.git_commit import GitCodeVersions
    from fleet_server.adapters.member_pool import JoblibMemberPool
    from fleet_server.adapters.table_files import PyarrowTableReader
    from fleet_server.services.train_family import TrainFamily

    return TrainFamily(
        reader=PyarrowTableReader(),
        registry=DatabaseModelRegistry(fleet.engine),
        packages=fleet.objects,
        estimators=SkopsEstimatorWriter(),
        code_versions=GitCodeVersions(),
        clock=fleet.clock,
        pool=JoblibMemberPool(jobs),
        listener=listener,
        profiles_dir=profiles_dir(fleet.workspace),
    )
