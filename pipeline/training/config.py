"""`TrainConfig`: how a training run goes."""

from __future__ import annotations

from dataclasses import dataclass

from ..model.losses import CLASS_WEIGHTS
from .tracking import check_tracker

PRECISIONS = ("no", "fp16", "bf16")
OBJECTIVES = {"classify": "accuracy", "align": "image_to_text_recall_at_10"}
"""What is trained for, and the figure by which the best epoch is chosen."""
MULTI_LABEL_BEST = "mean_average_precision"
"""That figure of a multi-label model: unlike F1 it needs no thresholds, which are chosen on the rows that it judges."""


@dataclass(frozen=True)
class TrainConfig:
    """How a run goes; saved in its folder. The architecture is saved with the model instead.

    Attributes:
        objective: `classify` by labels, or `align` each image with its text, without any.
        epochs: Passes over the training rows.
        batch_size: Rows per optimizer step, over all devices and accumulated batches together.
        accumulate: Forward passes per optimizer step, for batches that don't fit in memory.
        learning_rate: Peak, of all that starts from random weights.
        encoder_learning_rate: Peak, of pretrained trunks.
        weight_decay: Of matrices; biases and norms have none.
        warmup: Share of the steps in which the learning rate rises; it then falls as a cosine.
        clip: Largest norm of the gradient.
        unfreeze_image: Parts of a pretrained image trunk that train, counted from the top; None
            for all.
        unfreeze_text: Likewise of the text trunk.
        unfreeze_at: Epoch from which these parts train; pretrained trunks stand still before it.
        layer_decay: What each part of a pretrained trunk learns at, as a share of the rate of the part above.
        class_weights: `balanced` lets every class count the same in the loss, `none` every row.
        focal_gamma: How much less rows count in the loss that are told well already; 0 switches it off.
        label_smoothing: Share of each target that is spread over all classes.
        patience: Stop after so many epochs without a better one, not counting those before `unfreeze_at`.
        tracker: Whom to tell the figures of every epoch, such as `tensorboard`; any that Accelerate knows.
        flip: Mirror training pictures. None does where the image trunk trains, unless the texts speak of left or
            right; where it is frozen, pictures that stay as they are need to be encoded only once.
        crop: Cut training pictures at random; None where the image trunk trains.
        colour: Change brightness, contrast and saturation of training pictures; None likewise.
        cache: Keep what frozen trunks give on disk, and read it instead of encoding again.
        precision: `no` (32 bits), `bf16` or `fp16`.
        seed: Of weights, order, augmentation and dropout.
        validation_share: Of the training rows, held out where the data has no validation split.
        shuffle_buffer: Rows that a stream holds to change their order.
        workers: Processes per device that read and prepare rows; 0 reads in the training process.
        checkpoint_steps: Optimizer steps from one checkpoint to the next; 0 counts none.
        checkpoint_minutes: Minutes from one to the next; 0 never looks at the clock.
        keep: How many checkpoints stay, the newest.
        skip_nonfinite: Leave out, and count, steps whose loss or gradient is not finite; else one ends the run.
    """

    objective: str = "classify"
    epochs: int = 5
    batch_size: int = 64
    accumulate: int = 1
    learning_rate: float = 5e-4
    encoder_learning_rate: float = 5e-5
    weight_decay: float = 0.01
    warmup: float = 0.1
    clip: float = 1.0
    unfreeze_image: int | None = 0
    unfreeze_text: int | None = 0
    unfreeze_at: int = 1
    layer_decay: float = 1.0
    class_weights: str = "none"
    focal_gamma: float = 0.0
    label_smoothing: float = 0.0
    patience: int | None = None
    tracker: str | None = None
    flip: bool | None = None
    crop: bool | None = None
    colour: bool | None = None
    cache: bool = True
    precision: str = "no"
    seed: int = 0
    validation_share: float = 0.1
    shuffle_buffer: int = 1000
    workers: int = 0
    checkpoint_steps: int = 0
    checkpoint_minutes: float = 15.0
    keep: int = 2
    skip_nonfinite: bool = False

    def __post_init__(self) -> None:
        counts = {"epochs": 1, "batch_size": 1, "accumulate": 1, "workers": 0, "unfreeze_at": 1, "patience": 1}
        counts["shuffle_buffer"] = 1
        counts |= {"checkpoint_steps": 0, "keep": 1}
        for name, least in {**counts, "focal_gamma": 0, "checkpoint_minutes": 0}.items():
            if getattr(self, name) is not None and not getattr(self, name) >= least:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least {least}")
        for name in ("learning_rate", "encoder_learning_rate", "clip"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be above 0")
        for name in ("warmup", "validation_share", "label_smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 0 and below 1")
        if not 0 < self.layer_decay <= 1:
            raise ValueError(f"layer_decay is {self.layer_decay}; it must be above 0 and at most 1")
        if self.class_weights not in CLASS_WEIGHTS:
            raise ValueError(f"class_weights is {self.class_weights!r}; choose one of {', '.join(CLASS_WEIGHTS)}")
        if self.unfreeze_at > self.epochs:
            raise ValueError(
                f"unfreeze_at is {self.unfreeze_at}, after the last of {self.epochs} epochs; choose an earlier one"
            )
        if self.objective == "align":
            for name, off in (("class_weights", "none"), ("focal_gamma", 0.0), ("label_smoothing", 0.0)):
                if getattr(self, name) != off:
                    raise ValueError(f"{name} is {getattr(self, name)!r}, but to align needs no classes; leave it out")
        for name in ("unfreeze_at", "layer_decay"):
            if getattr(self, name) != 1 and self.unfreeze_image == self.unfreeze_text == 0:
                raise ValueError(
                    f"{name} is {getattr(self, name)}, but no part of a trunk trains: choose some by unfreeze_image or "
                    "unfreeze_text"
                )
        if self.tracker is not None:
            check_tracker(self.tracker)
        if self.objective not in OBJECTIVES:
            raise ValueError(f"objective is {self.objective!r}; choose one of {', '.join(OBJECTIVES)}")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision is {self.precision!r}; choose one of {', '.join(PRECISIONS)}")
