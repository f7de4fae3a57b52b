"""Options that commands share, and the choices that some have."""

from __future__ import annotations

from typing import Annotated

import typer

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
