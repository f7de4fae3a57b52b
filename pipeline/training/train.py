"""Fine-tune a model: from data and options to a run's folder."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.state import AcceleratorState

from ..model.folder import remember_rows
from ..runtime.console import SILENT, Console
from ..runtime.files import user_path
from ..runtime.heartbeat import Heartbeat
from ..runtime.launch import fork, forks
from ..runtime.options import require_flags
from ..runtime.outputs import remove_leftovers, writable_folder
from ..runtime.record import read_record, require_same, write_record
from ..runtime.version import __version__
from .calibrate import calibrate_run
from .checkpoints import remove_checkpoints
from .config import read_options
from .loop import Fit
from .objective import cell
from .resume import begin, identity_of, may_begin
from .run_folder import RunFolder
from .setup import set_up


def train(
    data: Any,
    out: str | Path,
    *,
    model: str | Path | None = None,
    say: Callable[[str], None] = print,
    quiet: bool = False,
    resume: bool = False,
    overwrite: bool = False,
    after_epoch: Callable[[dict[str, Any]], None] = lambda epoch: None,
    processes: int | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Fine-tune on labelled pairs; the best epoch's model is kept in `out/model`, the run's record in `out/run.json`.

    With `objective="align"` no labels are needed: the model learns which image and which text belong
    together, and can rank afterwards.

    Args:
        data: Whatever `load_tables` takes; its `train` split (or only one) is trained on.
        out: The run's folder; made, or an earlier run in it replaced.
        model: Start from this saved model, all of it; its head is new if the labels differ. Without
            it the fusion and the head are new, over the two encoders.
        say: What to do with each line that tells the user how it goes.
        quiet: Show no progress bar.
        resume: Resume the run in `out` from its newest whole checkpoint, if it has one.
        overwrite: Replace the run that is in `out`.
        after_epoch: Called with the metrics of each epoch, in all processes; what it raises ends the run.
        processes: How many share the work, one for each GPU; by default all GPUs. Several are forked from this one
            (with CPU in place of GPUs if there is none), unless a launcher has started them already.
        **options: Fields of `TrainConfig`, `BuildOptions` and `DataOptions`, such as `epochs`, `text_encoder` and
            `label_column`; `training/config.py` has them all, each with its default and what it does.

    Returns:
        The record: configuration, epochs, and the best epoch's metrics on the validation split.

    Raises:
        ValueError: Something is not usable; the message says what and what to do.
        Interrupted: SIGTERM, SIGINT or SIGHUP came; the message says what was saved.
        OSError: A checkpoint or the model cannot be written; those that were there stay.
    """
    require_flags(quiet=quiet, resume=resume, overwrite=overwrite)
    config, build, reading = read_options(options)
    if model is not None and (chosen := build.given()):
        raise ValueError(
            f"{', '.join(chosen)} cannot be chosen for the model {model}, which has its own: leave "
            f"{'it' if len(chosen) == 1 else 'them'} out, or leave the model out"
        )
    if (count := forks(processes, say)) > 1:
        how: dict[str, Any] = {"model": model, "say": say, "quiet": quiet, "after_epoch": after_epoch}
        how |= {"resume": resume, "overwrite": overwrite}
        fork(count, partial(train, data, out, **how, **options))
        return read_record(user_path(out))
    # without `cpu` Accelerate sees one process where several share a machine that has no accelerator
    main = PartialState(cpu=not torch.accelerator.is_available()).is_main_process  # it alone speaks and writes
    console = Console(say, bars=not quiet) if main else SILENT
    made = not user_path(out).exists()
    folder = RunFolder(writable_folder(out))
    may_begin(folder, resume=resume, overwrite=overwrite)
    try:
        setup = set_up(data, config, build, reading, model, console)
        config = setup.config
        fit = Fit(setup.model, setup.processor, config, setup.objective, folder, console)
        rows, config = setup.rows, replace(config, precision=fit.accelerator.mixed_precision)
        others: dict[str, Any] = {"columns": str(setup.columns), **setup.augmentation}
        remember_rows(setup.model, rows.training.row_ids())
        identity = identity_of(config, setup.model, setup.processor, rows.training, rows.validation, **others)
        earlier = read_record(folder.path) if resume else {}
        began = earlier.get("model")
        if earlier and not _same_start(began, model):
            raise ValueError(
                f"the run in {folder} started from {began or 'new weights'}, not from {model or 'new weights'}: "
                f"{f'give --model {began}' if began else 'leave --model out'}, or choose another --out"
            )
        if earlier.get("state") == "done":
            require_same(earlier["identity"], identity, folder.path)
            if main:
                remove_leftovers(folder.path)  # of a run that was killed as it had just said that it is done
            console.print(f"the run in {folder} is done: there is nothing to resume")
            if main:
                with contextlib.suppress(OSError):
                    remove_checkpoints(folder.checkpoints)  # if it was killed before it had
            return earlier
        about: dict[str, Any] = {
            "diptych": __version__,
            "torch": str(torch.__version__),
            "columns": asdict(setup.columns),
            "model": None if model is None else str(user_path(model).resolve() if user_path(model).exists() else model),
            "build": build.given(),
            "rows": {"train": len(rows.training), "validation": len(rows.validation)},
            "processes": fit.accelerator.num_processes,
            "run": asdict(config),
            "identity": identity,
        }
        about = json.loads(json.dumps(about, default=str))  # paths among the options

        def note(state: str = "running") -> None:
            if main:
                write_record(folder.path, _record(about, state, fit))

        with begin(folder, console, resume=resume, overwrite=overwrite) if main else contextlib.nullcontext():
            try:
                with Heartbeat(folder.path):
                    fit.run(rows, resume=resume, identity=identity, note=note, after_epoch=after_epoch)
                if config.calibration and setup.objective.needs_labels:
                    best = setup.objective.best(fit.progress.history)
                    batches = fit.validation_batches(rows, best["epoch"] if best else 1)
                    about["calibration"] = calibrate_run(fit, batches, seed=config.seed, rows=len(rows.validation))
                note("done")
            except BaseException:
                with contextlib.suppress(OSError, ValueError):  # of a full disk, say, which is then the error to show
                    note("interrupted")
                raise
            if main:
                with contextlib.suppress(OSError):
                    remove_checkpoints(folder.checkpoints)  # nothing is left to resume
    finally:
        if made:
            with contextlib.suppress(OSError):  # it is not empty: the run began
                folder.path.rmdir()
        AcceleratorState._reset_state()  # or its precision would be that of whatever follows in this process
    record = _record(about, "done", fit)
    best, select = record["best"], record["select"]
    console.print(f"kept epoch {best['epoch']}, {select} {cell(best[select])}: {folder}")
    return record


def _same_start(began: str | None, model: str | Path | None) -> bool:
    """Whether a model is the one that a run began with, whose folder may have been moved since."""
    if began is None or model is None:
        return began is None and model is None
    old, new = (user_path(path).resolve() for path in (began, model))
    old, new = (path.parent if path.name == "model" else path for path in (old, new))
    return old == new or (not old.exists() and new.exists())


def _record(about: dict[str, Any], state: str, fit: Fit) -> dict[str, Any]:
    """The record of a run: what it is, and how far it has come."""
    progress = fit.progress
    return {
        **about,
        "state": state,
        "start": progress.start,
        "steps": progress.step,
        "skipped_steps": progress.skipped,
        "epochs": progress.history,
        "select": fit.objective.select,
        "best": fit.objective.best(progress.history),
        "problems": progress.problems,
    }
