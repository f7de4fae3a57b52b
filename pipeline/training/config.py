"""How a run goes, what it builds and what it reads: every option of training with its default, help and range."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from ..data.options import Reading
from ..runtime.choices import (
    CLASS_WEIGHTS,
    FUSION_OPTIONS,
    FUSIONS,
    IMAGE_FITS,
    IMAGE_WEIGHTS,
    METRICS,
    OBJECTIVES,
    PATTERNS,
    PRECISIONS,
    RECIPES,
)
from ..runtime.options import check_options, option, sort_options

RENAMED = {
    "accumulate": "gradient_accumulation_steps",
    "clip": "max_grad_norm",
    "warmup": "warmup_ratio",
}
"""Names of 0.3, read with a warning until 0.5."""

DATA, MODEL, TRAINING, RUN = "Data", "Model", "Training", "Run"
"""Panels of the command's help."""
_data, _model, _training, _run = (partial(option, panel=panel) for panel in (DATA, MODEL, TRAINING, RUN))


@dataclass(frozen=True)
class DataOptions(Reading):
    """What is read of the data, and how."""

    stream: bool = _data(False, "Read rows one after another, for data too large to be loaded.")


@dataclass(frozen=True)
class BuildOptions:
    """What a new model is built from; None leaves a choice to `build_model` and `DiptychConfig`."""

    image_encoder: str | None = _model(
        None,
        "Image encoder: a torchvision ResNet, a Hub id or a folder of a vision model, or a run's folder.  "
        "[default: resnet50]",
    )
    text_encoder: str | None = _model(
        None, "BERT-family text encoder: a Hub id or a folder, or a run's folder.  [default: bert-base-uncased]"
    )
    image_weights: str | None = _model(
        None,
        "Start the image encoder from its published weights or from random ones.  [default: pretrained]",
        choices=IMAGE_WEIGHTS,
    )
    image_size: tuple[int, int] | None = _model(
        None, "HEIGHTxWIDTH in pixels that the image encoder sees.  [default: what its weights were made for]"
    )
    image_fit: str | None = _model(
        None,
        f"How images of other proportions come to that size: whole or cut.  [default: {IMAGE_FITS[0]}]",
        choices=IMAGE_FITS,
    )
    max_length: int | None = _model(None, "Longest text, in word pieces.  [default: 128]", least=3)
    region_grid: int | None = _model(
        None,
        "Regions per side of an image at most; 0 is the image encoder's own grid.  [default: 4; concat, mlp: 1]",
        least=0,
    )
    fusion: str | None = _model(None, "How the modalities are fused.  [default: cross-modal]", choices=FUSIONS)
    pattern: str | None = _model(
        None, "Which tokens see each other, with --fusion self-attention.  [default: dense]", choices=PATTERNS
    )
    window: int | None = _model(None, "Tokens that a sliding window shows on each side.  [default: 128]", least=1)
    hidden_size: int | None = _model(None, "Width of the tokens.  [default: 512]", least=1)
    fusion_layers: int | None = _model(
        None, "Layers of cross-modal or self-attention fusion.  [default: 1; self-attention: 2]", least=1
    )
    fusion_heads: int | None = _model(None, "Attention heads of the fusion.  [default: 8]", least=1)
    fusion_hidden_size: int | None = _model(
        None, "Width of the fusion's feed-forward layers.  [default: 512; else 1024]", least=1
    )
    dropout: float | None = _model(None, "Dropout of the fusion.  [default: 0.1]", least=0, below=1)
    modality_dropout: float | None = _model(
        None, "Chance that a training row loses one modality.  [default: 0.3]", least=0, below=1
    )
    modality_gate: bool | None = _model(None, "Learn weights of the modalities.  [default: yes, except for concat]")
    architecture: dict[str, Any] | None = option(None, "Further fields of the model's configuration.", panel="")  # noqa: RUF009

    def __post_init__(self) -> None:
        check_options(self)
        more = {name: value for name, value in (self.architecture or {}).items() if value is not None}
        for name in more:
            if getattr(self, name, None) is not None:
                raise ValueError(f"{name} is {getattr(self, name)!r}, and another in architecture: give it once")
        if self.window is not None and "sliding" not in (self.pattern or more.get("pattern") or ""):
            raise ValueError(f"window is {self.window}, but nothing slides: give pattern sliding-window too")
        fusion = self.fusion or more.get("fusion") or FUSIONS[0]
        for name, fusions in FUSION_OPTIONS.items():
            value = getattr(self, name)
            if fusion not in fusions and value is not None:
                raise ValueError(
                    f"{name} is {value!r}, which the {fusion} fusion doesn't have; it goes with {', '.join(fusions)}"
                )

    def given(self) -> dict[str, Any]:
        """Arguments of `build_model`: what was chosen."""
        flat = {**asdict(self), **(self.architecture or {})}
        del flat["architecture"]
        return {name: value for name, value in flat.items() if value is not None}


@dataclass(frozen=True)
class TrainConfig:
    """How a run goes; saved in its folder. The architecture is saved with the model instead."""

    objective: str = _training(
        "classify", "Classify by labels, or align images with their texts, which needs no labels.", choices=OBJECTIVES
    )
    recipe: str = _training(
        "balanced", "How long to train where --epochs does not say: fast, balanced, or best.", choices=RECIPES
    )
    epochs: int | None = _training(
        None, "Passes over the training rows.  [default: by --recipe and the number of rows]", least=1
    )
    batch_size: int = _training(32, "Rows per optimizer step, over all devices and micro-batches.", least=1)
    gradient_accumulation_steps: int = _training(
        1, "Micro-batches per optimizer step, for batches that do not fit in memory.", least=1
    )
    learning_rate: float = _training(5e-4, "Peak learning rate of randomly initialised parts.", above=0, below=math.inf)
    encoder_learning_rate: float = _training(
        5e-5, "Peak learning rate of pretrained encoders.", above=0, below=math.inf
    )
    weight_decay: float = _training(
        0.01, "Weight decay of matrices; biases and norms have none.", least=0, below=math.inf
    )
    warmup_ratio: float = _training(
        0.1, "Share of the steps in which the learning rate rises; it then falls as a cosine.", least=0, below=1
    )
    max_grad_norm: float = _training(1.0, "Gradients are scaled down to this norm.", above=0)
    unfreeze_image: int | None = _training(
        0, "Parts of a pretrained image encoder that train, counted from the top: a number or all.", none="all"
    )
    unfreeze_text: int | None = _training(
        0, "Parts of a pretrained text encoder that train, counted from the top: a number or all.", none="all"
    )
    unfreeze_at: int = _training(1, "Epoch from which these parts train; they are frozen before it.", least=1)
    layer_decay: float = _training(
        1.0,
        "Learning rate of each part of a pretrained encoder, as a share of that of the part above.",
        above=0,
        most=1,
    )
    alignment_weight: float | None = _training(
        None,
        "Weight of the contrastive loss beside that of the classes.  [default: 0, or what --model has]",
        least=0,
        below=math.inf,
    )
    class_weights: str = _training(
        "none", "Let every row count the same in the loss, or every class.", choices=CLASS_WEIGHTS
    )
    focal_gamma: float = _training(
        0.0, "Focal loss gamma: down-weights well-classified rows; 0 is off, 2 usual.", least=0, below=math.inf
    )
    label_smoothing: float = _training(0.0, "Share of each target that is spread over all classes.", least=0, below=1)
    select: str | None = _training(
        None,
        "Metric on the validation rows that chooses the best epoch.  [default: accuracy; of rare classes macro_f1 or "
        "loss, and a line says why]",
        choices=METRICS,
    )
    calibration: bool = _training(True, "Calibrate the scores on validation rows after the last epoch.")
    patience: int | None = _training(
        None, "Stop after so many epochs without a better one, not counting those before --unfreeze-at.", least=1
    )
    flip: bool | None = _training(
        None, "Mirror training images.  [default: where the image encoder trains and no text speaks of left or right]"
    )
    crop: bool | None = _training(None, "Crop training images at random.  [default: where the image encoder trains]")
    colour: bool | None = _training(
        None,
        "Change brightness, contrast and saturation of training images.  [default: where the image encoder trains]",
    )
    validation_share: float = _data(
        0.1, "Share of the training rows held out, if the data has no validation split.", above=0, below=1
    )
    shuffle_buffer: int = _data(1000, "With --stream: rows held in memory to shuffle them.", least=1)
    cache: bool = _run(True, "Keep the features of frozen encoders on disk, to compute them only once.")
    cache_dir: str | None = _run(None, "Where features are kept.  [default: $DIPTYCH_CACHE, or ~/.cache/diptych]")
    precision: str | None = _run(
        None, "Number format; no is 32 bits.  [default: what accelerate launch was told, else no]", choices=PRECISIONS
    )
    seed: int = _run(0, "Seed of weights, order, augmentation and dropout.", least=0, most=2**32 - 1)
    workers: int = _run(0, "Processes per device that read and prepare rows; 0 uses the training process.", least=0)
    tracker: str | None = _run(None, "Log metrics to tensorboard, or to another tracker that Accelerate knows.")
    checkpoint_steps: int = _run(0, "Optimizer steps between checkpoints; 0 counts none.", least=0)
    checkpoint_minutes: float = _run(15.0, "Minutes between checkpoints; 0 never looks at the clock.", least=0)
    keep: int = _run(2, "How many of the newest checkpoints are kept.", least=1)
    skip_nonfinite: bool = _run(False, "Skip steps whose loss or gradient is not finite, instead of stopping.")

    def __post_init__(self) -> None:
        check_options(self)
        most = max(16, 2 * (os.cpu_count() or 1))
        if self.workers > most:  # each is a process: the machine would stand still
            raise ValueError(f"workers is {self.workers}, and there are {os.cpu_count()} CPUs; give {most} or fewer")
        if self.epochs is not None and self.unfreeze_at > self.epochs:
            raise ValueError(
                f"unfreeze_at is {self.unfreeze_at}, after the last of {self.epochs} epochs; choose an earlier one"
            )
        if self.objective == "align":
            for name, off in (("class_weights", "none"), ("focal_gamma", 0.0), ("label_smoothing", 0.0)):
                if getattr(self, name) != off:
                    raise ValueError(f"{name} is {getattr(self, name)!r}, but to align needs no classes; leave it out")
            if self.alignment_weight == 0:
                raise ValueError("alignment_weight is 0, but to align needs it; give one above 0, or leave it out")
        if self.tracker is not None:
            from .tracking import check_tracker

            check_tracker(self.tracker)


OF_PARTS = ("unfreeze_at", "layer_decay", "encoder_learning_rate")
"""Options that say how parts of pretrained encoders train."""


def read_options(
    options: Mapping[str, Any], *, searches: bool = False
) -> tuple[TrainConfig, BuildOptions, DataOptions]:
    """Options by name, sorted into what they are of; names of 0.3 with a warning.

    Args:
        searches: Whether the parts of encoders that train are yet to be chosen, where the options do not say.

    Raises:
        ValueError: One does not exist or is out of its range; the message names it and what is allowed.
    """
    options = dict(options)
    for old, new in RENAMED.items():
        if old in options:
            warnings.warn(f"{old} is called {new} now; the old name goes with 0.5", FutureWarning, stacklevel=3)
            options.setdefault(new, options.pop(old))
    if options.get("image_weights") == "random":  # frozen, they would never learn
        options.setdefault("unfreeze_image", None)
    config, build, data = sort_options(options, TrainConfig, BuildOptions, DataOptions)
    if options.get("recipe") is not None and config.epochs is not None:
        raise ValueError(
            f"recipe is {config.recipe!r} and epochs is {config.epochs}, and each says how long: give one of them"
        )
    undecided = searches and not {"unfreeze_image", "unfreeze_text"} <= {*options}
    if config.unfreeze_image == config.unfreeze_text == 0 and not undecided:
        for name in OF_PARTS:
            if getattr(config, name) != getattr(TrainConfig, name):
                raise ValueError(
                    f"{name} is {getattr(config, name)}, but no part of an encoder trains: choose some by "
                    "unfreeze_image or unfreeze_text"
                )
    for name in ("text_only", "image_only"):
        if getattr(data, name) and (config.objective == "align" or config.alignment_weight):
            raise ValueError(f"{name} leaves no pairs to align: leave it out, or objective align and alignment_weight")
    return config, build, data
