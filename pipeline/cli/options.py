"""Options that commands share, and the choices that some have."""

from __future__ import annotations

from enum import Enum
from typing import Annotated

import typer

from .command import option

Json = Annotated[bool, option("Print JSON, for programs.", "--json")]
Quiet = Annotated[bool, option("No progress, no remarks: only results and errors.", "--quiet")]
Debug = Annotated[bool, option("On an error, show the traceback.", "--debug")]
ImageColumn = Annotated[str | None, option("Column of the images, if not detected automatically.", panel="Data")]
TextColumn = Annotated[str | None, option("Column of the texts, if not detected automatically.", panel="Data")]
LabelColumn = Annotated[str | None, option("Column of the labels, if not detected automatically.", panel="Data")]
Split = Annotated[str | None, option("Which split of the data.", panel="Data")]
Cache = Annotated[bool, option("Keep on disk what frozen trunks give, to encode it only once.", "--cache/--no-cache")]
CacheDir = Annotated[str | None, option("Where features are kept.  [default: $DIPTYCH_CACHE, or ~/.cache/diptych]")]
Processes = Annotated[
    int | None,
    option("Processes that share the rows, one for each GPU.  [default: all GPUs]", panel="Speed"),
]
BatchSize = Annotated[int, option("Rows per forward pass.")]


class OnBadRow(str, Enum):
    """What to do with a row whose image or text cannot be used."""

    mask = "mask"
    skip = "skip"
    error = "error"


class Fusion(str, Enum):
    """How both halves come together."""

    cross_modal = "cross-modal"
    self_attention = "self-attention"
    bilinear = "bilinear"
    concat = "concat"
    mlp = "mlp"


class Pattern(str, Enum):
    """Which tokens see each other in self-attention."""

    dense = "dense"
    sliding_window = "sliding-window"
    global_ = "global"
    both = "sliding-window+global"


class Objective(str, Enum):
    """What is trained for."""

    classify = "classify"
    align = "align"


class ClassWeights(str, Enum):
    """How classes count in the loss."""

    none = "none"
    balanced = "balanced"


class Precision(str, Enum):
    """Number format of training."""

    no = "no"
    fp16 = "fp16"
    bf16 = "bf16"


class Dtype(str, Enum):
    """Number format of the encoders in classifying, other than 32 bits."""

    bf16 = "bf16"
    fp16 = "fp16"


class ImageWeights(str, Enum):
    """Where a ResNet named by --image-encoder starts from."""

    pretrained = "pretrained"
    random = "random"


TrainingData = Annotated[
    str, typer.Argument(help="A Hub id, a saved dataset, an image folder with metadata, or table files.")
]
StartModel = Annotated[str | None, option("Start from this model of ours instead of two encoders.")]
ObjectiveOf = Annotated[Objective, option("Classify by labels, or align images with texts, which needs none.")]
ImageEncoder = Annotated[
    str | None,
    option("A torchvision ResNet, ResNeXt or Wide ResNet, or a run's folder.  [default: resnet50]"),
]
TextEncoder = Annotated[
    str | None,
    option("A BERT-family encoder: a Hub id or a folder; or a run's folder.  [default: bert-base-uncased]"),
]
ImageWeightsOf = Annotated[
    ImageWeights | None,
    option("Start the ResNet from its published weights, or not.  [default: pretrained]"),
]
ImageSize = Annotated[
    str | None,
    option("HEIGHTxWIDTH in pixels that the ResNet sees; what its weights were made for if not given."),
]
MaxLength = Annotated[int | None, option("Longest text in word pieces.  [default: 128]")]
Epochs = Annotated[int, option("Passes over the training rows.")]
GlobalBatchSize = Annotated[int, option("Rows per optimizer step, all devices together.")]
Accumulate = Annotated[int, option("Forward passes per optimizer step.")]
ClassWeightsOf = Annotated[ClassWeights, option("Let every row count the same in the loss, or every class.")]
PrecisionOf = Annotated[
    Precision | None, option("Number format; no is 32 bits.  [default: what accelerate launch says, or no]")
]
Workers = Annotated[int, option("Processes per device that prepare rows.")]


def _size(size: str) -> tuple[int, int]:
    height, _, width = size.lower().partition("x")
    if not height.isdigit() or (width and not width.isdigit()):
        raise ValueError(f"--image-size is {size!r}; give HEIGHTxWIDTH in pixels, such as 80x60, or one number")
    return int(height), int(width or height)


def _parts(count: str, option: str) -> int | None:
    if count == "all":
        return None
    if not count.isdigit():
        raise ValueError(f"{option} is {count!r}; give a number of parts, or all")
    return int(count)
