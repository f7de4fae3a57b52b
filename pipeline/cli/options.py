"""Options that commands share, and the choices that some have."""

from __future__ import annotations

from enum import Enum
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress, no remarks: only results and errors.")]
Debug = Annotated[bool, typer.Option("--debug", help="On an error, show the traceback.")]
ImageColumn = Annotated[str | None, typer.Option(help="Column with the images, if it cannot be told.")]
TextColumn = Annotated[str | None, typer.Option(help="Column with the texts, likewise.")]
LabelColumn = Annotated[str | None, typer.Option(help="Column with the labels, likewise.")]
Split = Annotated[str | None, typer.Option(help="Which split of the data.")]
Cache = Annotated[
    bool, typer.Option("--cache/--no-cache", help="Keep on disk what frozen trunks give, to encode it only once.")
]
CacheDir = Annotated[
    str | None, typer.Option(help="Where features are kept.  [default: $DIPTYCH_CACHE, or ~/.cache/diptych]")
]
Processes = Annotated[
    int | None, typer.Option(help="Processes, one for each GPU; they share the rows.  [default: all GPUs]")
]
BatchSize = Annotated[int, typer.Option(help="Rows per forward pass.")]


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
StartModel = Annotated[str | None, typer.Option(help="Start from this model of ours instead of two encoders.")]
ObjectiveOf = Annotated[
    Objective, typer.Option(help="Classify by labels, or align images with texts, which needs none.")
]
ImageEncoder = Annotated[
    str | None,
    typer.Option(help="A torchvision ResNet, ResNeXt or Wide ResNet, or a run's folder.  [default: resnet50]"),
]
TextEncoder = Annotated[
    str | None,
    typer.Option(help="A BERT-family encoder: a Hub id or a folder; or a run's folder.  [default: bert-base-uncased]"),
]
ImageWeightsOf = Annotated[
    ImageWeights | None,
    typer.Option(help="Start the ResNet from its published weights, or not.  [default: pretrained]"),
]
ImageSize = Annotated[
    str | None,
    typer.Option(help="HEIGHTxWIDTH in pixels that the ResNet sees; what its weights were made for if not given."),
]
MaxLength = Annotated[int | None, typer.Option(help="Longest text in word pieces.  [default: 128]")]
Epochs = Annotated[int, typer.Option(help="Passes over the training rows.")]
GlobalBatchSize = Annotated[int, typer.Option(help="Rows per optimizer step, all devices together.")]
Accumulate = Annotated[int, typer.Option(help="Forward passes per optimizer step.")]
ClassWeightsOf = Annotated[ClassWeights, typer.Option(help="Let every row count the same in the loss, or every class.")]
PrecisionOf = Annotated[Precision, typer.Option(help="Number format; no is 32 bits.")]
Workers = Annotated[int, typer.Option(help="Processes per device that prepare rows.")]


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
