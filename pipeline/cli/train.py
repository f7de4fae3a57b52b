"""`diptych train`."""

from __future__ import annotations

from typing import Annotated, Any

from ..training.config import RENAMED, BuildOptions, DataOptions, TrainConfig, read_options
from .command import command, option
from .options import Processes, StartModel, TrainingData
from .terminal import Show, process_rank, share_with


@command(DataOptions, BuildOptions, TrainConfig, renamed=RENAMED)
def train(
    show: Show,
    data: TrainingData,
    out: Annotated[str, option("The run's folder.")],
    model: StartModel = None,
    resume: Annotated[
        bool, option("Resume the run in OUT from its newest whole checkpoint, if it has one.", "--resume")
    ] = False,
    overwrite: Annotated[bool, option("Replace the run that is in OUT.", "--overwrite")] = False,
    processes: Processes = None,
    **options: Any,
) -> None:
    """Fine-tune on labelled pairs.

    Keeps the best epoch's model in OUT/model and the record in OUT/run.json.
    """
    read_options(options)  # before torch is loaded: what they say of a value that is not allowed
    share_with(processes)
    from ..training.train import train as run

    how: dict[str, Any] = {"say": show.remark, "quiet": show.quiet, "resume": resume, "processes": processes}
    record = run(data, out, model=model, overwrite=overwrite, **how, **options)
    if show.as_json and process_rank() == 0:
        show.result(record, str)
