"""Fit the network a spec of pictures names, where what trains it is installed."""

from collections.abc import Callable

from fleet_server.errors import RefusedError
from fleet_server.training.cnn_settings import CnnSettings
from fleet_server.training.dataset import Side
from fleet_server.training.fit import Fitted
from fleet_server.training.spec import PictureSection, Spec


def fit_network(
    spec: Spec,
    settings: CnnSettings,
    asked: PictureSection,
    train: Side,
    classes: tuple[str, ...],
    tell: Callable[[str], None],
) -> Fitted:
    """Fit it on the training pictures.

    Args:
        spec: Of pictures.
        settings: Of the network.
        asked: Of the pictures.
        train: Training rows and their pictures.
        classes: Names by index; empty for a regression.
        tell: Hears how far it is.

    Raises:
        RefusedError: PyTorch is not installed, or the pictures do not suit the network.
    """
    try:
        from fleet_server.training.cnn import train_cnn
    except ImportError as error:
        raise RefusedError(
            'train.estimator "cnn" needs PyTorch, which is not installed here: pip install'
            " 'edgefleet[torch]' (its build for the processor alone will do), or take an estimator"
            " of scikit-learn"
        ) from error
    network = train_cnn(
        settings, asked.image, train, classes=len(classes), seed=spec.train.seed, tell=tell
    )
    record = network.record
    return Fitted(
        estimator=network,
        notes=(
            f"the network of pass {record['best_pass']} of {record['passes']} counts, chosen on"
            f" {record['validation_pictures']} validation pictures",
        ),
    )
