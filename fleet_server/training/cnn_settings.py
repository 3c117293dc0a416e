"""What a spec may say of the small network of convolutions, ``estimator = "cnn"``.

Plain values: the network itself is in ``cnn.py``, which alone needs PyTorch.
"""

from dataclasses import dataclass

CNN = "cnn"
BLOCKS_MAX = 8
CHANNELS_MAX = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class CnnSettings:
    """Shape and training of the network.

    Attributes:
        channels: Of each block of convolution, normalisation and pooling.
        hidden: Units between the last block and the answer.
        dropout: Share of them left out in training, below 1.
        epochs_max: Passes over the training pictures, at most.
        patience: Passes without a smaller loss on the validation pictures that end the training.
        batch: Pictures a step.
        learning_rate: Of AdamW.
        validation: Share of the training pictures that only say when to stop.
        is_balanced: Whether a class weighs as much as every other, however rare.
        is_flipped: Whether half of the pictures are mirrored in training.
        shift_pixels: By how much they are moved at random in training, at most.
        threads: Of the processor; another number gives another model.
    """

    channels: tuple[int, ...] = (16, 32, 64)
    hidden: int = 64
    dropout: float = 0.2
    epochs_max: int = 60
    patience: int = 8
    batch: int = 32
    learning_rate: float = 0.001
    validation: float = 0.15
    is_balanced: bool = False
    is_flipped: bool = False
    shift_pixels: int = 0
    threads: int = 1
