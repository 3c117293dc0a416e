"""Read the parameters of ``estimator = "cnn"``."""

from fleet_server.training.cnn_settings import BLOCKS_MAX, CHANNELS_MAX, CnnSettings
from fleet_server.training.spec_problems import Section, show

BALANCED = "balanced"


def read_cnn(params: Section, *, is_classification: bool) -> CnnSettings:
    """Read ``train.params`` of the network; problems go where the section says."""
    default = CnnSettings()
    section = Section(params.problems, params.path, params.values, kind="train.params cnn")
    weight = section.text("class_weight", chars_max=40)
    if weight and (weight != BALANCED or not is_classification):
        section.add("class_weight", f'{show(weight)}: only "{BALANCED}" of a classification works')
    dropout = section.number("dropout", low=0, high=0.9)
    rate = section.number("learning_rate", low=1e-6, high=1)
    validation = section.number("validation", low=0.05, high=0.5)
    return CnnSettings(
        channels=_read_channels(section, default.channels),
        hidden=section.integer("hidden", default.hidden, low=1, high=4_096),
        dropout=default.dropout if dropout is None else dropout,
        epochs_max=section.integer("epochs_max", default.epochs_max, low=1, high=10_000),
        patience=section.integer("patience", default.patience, low=1, high=10_000),
        batch=section.integer("batch", default.batch, low=2, high=4_096),
        learning_rate=default.learning_rate if rate is None else rate,
        validation=default.validation if validation is None else validation,
        is_balanced=weight == BALANCED,
        is_flipped=section.flag("flip", default=False),
        shift_pixels=section.integer("shift", 0, low=0, high=256),
        threads=section.integer("threads", 1, low=1, high=256),
    )


def _read_channels(section: Section, default: tuple[int, ...]) -> tuple[int, ...]:
    if "channels" not in section:
        return default
    channels = section.items("channels", items_max=BLOCKS_MAX)
    is_sound = all(
        isinstance(n, int) and not isinstance(n, bool) and 1 <= n <= CHANNELS_MAX for n in channels
    )
    if not channels or not is_sound:
        section.add(
            "channels",
            f"{show(channels)} must be 1 to {BLOCKS_MAX} whole numbers from 1 to {CHANNELS_MAX}",
        )
        return default
    return tuple(channels)
