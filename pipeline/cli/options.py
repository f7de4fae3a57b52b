"""Options that commands share, and what is seen to of them."""

from __future__ import annotations

from typing import Annotated

import typer

from ..runtime.files import existing
from .command import option

Split = Annotated[str | None, option("Which split of the data.", panel="Data")]
CacheDir = Annotated[str | None, option("Where features are kept.  [default: $DIPTYCH_CACHE, or ~/.cache/diptych]")]
Processes = Annotated[
    int | None,
    option("Processes that share the rows, one for each GPU.  [default: all GPUs]", panel="Run"),
]
BatchSize = Annotated[int, option("Rows per forward pass.")]
Model = Annotated[str, typer.Argument(help="A run's folder, a model's folder or a Hub id.")]
TrainingData = Annotated[
    str,
    typer.Argument(help="A folder with train.csv, a table file, an image folder, a saved dataset or a Hub id."),
]
StartModel = Annotated[
    str | None, option("Start from this saved model: a run's folder, a model's folder or a Hub id.", panel="Model")
]


def require_files_in_order(image: str, text: str | None) -> None:
    """Raise a `ValueError` if they are swapped, the image does not exist, or the text is a file."""
    if text is not None and existing(text):
        if not existing(image):
            raise ValueError(f"IMAGE and TEXT are swapped: {text} is a file. Give the image first, then the sentence")
        raise ValueError(f"TEXT is {text}, which is a file; give the sentence itself, or --data for a table of pairs")
    if image.strip() and "://" not in image and not existing(image):
        hint = "" if text is None else "; for the text alone give '' in its place"
        raise ValueError(f"the image {image[:200]} does not exist{hint}")
