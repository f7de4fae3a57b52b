"""A sweep: many training runs, their learning rates, fusion and frozen parts chosen by Optuna from what came before.

A sweep is resumed from `tune.json` alone: before each trial the study is made of it anew, and what is drawn
follows from the seed and the trial's number. So a sweep that was stopped chooses as if it had not been.
"""

from __future__ import annotations

import contextlib
import gc
import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object

from ..data.read import read_data
from ..loading.dataset import PairDataset
from ..model.build import build_model
from ..model.folder import load_model
from ..model.processor import DiptychProcessor
from ..runtime.console import SILENT
from ..runtime.files import Lock, user_path
from ..runtime.launch import fork, forks
from ..runtime.options import require_flags
from ..runtime.outputs import writable_folder
from ..runtime.record import read_record, require_same, write_record
from ..runtime.signals import Interrupted
from ..training.config import DataOptions, TrainConfig, read_options
from ..training.objective import ALIGN, CLASSIFY, epoch_score
from ..training.resume import FREE
from ..training.train import train
from .report import draw_picture, trial_text, write_table
from .space import Space, space_of
from .study import is_hopeless, suggest
from .trials import NAME, Sweep, Trial, read_sweep

EPOCHS = 5
"""Of a trial, where nobody says."""
_ENCODERS = ("image_encoder", "text_encoder", "image_weights", "image_size", "max_length")


def tune(
    data: Any,
    out: str | Path,
    *,
    trials: int = 20,
    fusions: Sequence[str] | None = None,
    say: Callable[[str], None] = print,
    quiet: bool = False,
    resume: bool = False,
    processes: int | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Train many times, and keep the model of the best: a search over learning rates, fusions and frozen parts.

    Trials are compared by the metric that `train` keeps its best epoch by, on the same validation rows. The
    first is what `train` does by default. Of the others Optuna's TPE (Bergstra et al., Algorithms for
    Hyper-Parameter Optimization, 2011) chooses the parameters, and a trial whose best epoch so far is below
    the median of those before it, after as many, is cut short. One that fails (a loss that is not finite, too
    little memory) is noted, and the next one begins.

    `out` holds the best trial's model in `model/`, and so stands wherever a run's folder does; what came of
    each trial in `tune.json`, `trials.csv` and `trials.png`; and each one's `run.json` below `trials/`.

    Args:
        data: As for `train`.
        out: The sweep's folder.
        trials: How many, in all; a sweep that is resumed may have more than it began with.
        fusions: From which to choose; all if not given.
        say: What to do with each line for the user.
        quiet: Show no progress bar.
        resume: Resume the sweep in `out`: trials that have ended are kept, and one that was stopped is resumed from
            its newest whole checkpoint.
        processes: As for `train`: they share each trial.
        **options: Of `train`; what they fix is not searched.

    Returns:
        What `tune.json` holds, and under `options` those of `train` that make the best model again.

    Raises:
        ValueError: Optuna is not installed, something is not usable, or every trial failed; the message says what.
        Interrupted: SIGTERM or SIGINT came; the message says what was saved.
        OSError: Something cannot be written; the sweep can be resumed when it can.
    """
    _require_optuna()
    require_flags(quiet=quiet, resume=resume)
    if isinstance(fusions, str):
        raise ValueError(f"fusions is {fusions!r}, one text: give a list")
    fusions = None if fusions is None else list(fusions)
    if isinstance(data, Iterator):
        raise ValueError("the data is an iterator, which can be read once: give a list, a file or a dataset")
    if trials < 1:
        raise ValueError(f"trials is {trials}; it must be at least 1")
    if (count := forks(processes, say)) > 1:
        how: dict[str, Any] = {"trials": trials, "fusions": fusions, "say": say, "quiet": quiet, "resume": resume}
        fork(count, partial(tune, data, out, **how, **options))
        return read_record(user_path(out), NAME)
    # of all that share a trial; they choose the same, each by itself
    team = PartialState(cpu=not torch.accelerator.is_available())
    main = team.is_main_process
    if not main:
        say = SILENT.print
    folder = writable_folder(out)
    with _only_one(folder, main):
        return _search(data, folder, team, options, trials=trials, fusions=fusions, say=say, quiet=quiet, resume=resume)


@contextlib.contextmanager
def _only_one(folder: Path, main: bool) -> Iterator[None]:
    """Keep other sweeps and runs out of a folder; of several processes the main one does.

    Raises:
        ValueError: Another is at work there; in all processes.
    """
    lock, busy = None, False
    if main:
        try:
            lock = Lock(folder)
        except BlockingIOError:
            busy = True
    if any(gather_object([busy])):
        raise ValueError(f"another sweep or run is at work in {folder}: wait for it, or choose another --out")
    try:
        yield
    finally:
        if lock is not None:
            lock.release()


def _search(
    data: Any,
    folder: Path,
    team: PartialState,
    options: dict[str, Any],
    *,
    trials: int,
    fusions: Sequence[str] | None,
    say: Callable[[str], None],
    quiet: bool,
    resume: bool,
) -> dict[str, Any]:
    """The sweep in a folder that no other writes to: args, returns and raises as of `tune`."""
    main = team.is_main_process
    earlier = read_sweep(folder)
    team.wait_for_everyone()  # before any of them writes what others still have to read
    if earlier is not None and not resume:
        ended = sum(trial.state != "running" for trial in earlier.trials)
        raise ValueError(
            f"{folder} holds a sweep, of which {ended} trials have ended: give --resume, choose another --out, "
            "or delete it"
        )
    names = ("run.json", "model", "trials", "trials.csv", "trials.png")
    there = [name for name in names if earlier is None and (folder / name).exists()]
    if there:
        raise ValueError(
            f"{folder} holds {there[0]} of something else, which a sweep would replace: choose another --out"
        )

    options = {name: value for name, value in options.items() if value is not None or name.startswith("unfreeze_")}
    if options.get("recipe") is not None:
        raise ValueError("recipe is not for a sweep, whose trials are all of one length: give epochs")
    options.setdefault("epochs", EPOCHS)  # that trials can be compared epoch by epoch
    own = {name: value for name, value in options.items() if name != "model"}
    config, build, reading = read_options(own, searches=True)
    if "model" in options:
        network, processor = load_model(options["model"])
    else:  # the head is never trained
        encoders = {name: value for name, value in build.given().items() if name in _ENCODERS}
        network, processor = build_model(labels=["-", "--"], fusion="mlp", hidden_size=4, fusion_heads=1, **encoders)
    space = space_of(network.image_encoder, network.text_encoder, options, fusions=fusions)
    del network
    identity = _identity(data, options, config, reading, space, processor)
    sweep = earlier or Sweep(folder, identity, (ALIGN if config.objective == "align" else CLASSIFY).select)
    require_same(sweep.identity, identity, folder, what="sweep")
    if resume and earlier is None:
        say(f"no sweep in {folder}: starting from the beginning")
    searched = ", ".join(f"{name} ({_range(values)})" for name, values in space.described().items())
    say(f"searching {searched}")
    left = sweep.trials[-1] if sweep.trials and sweep.trials[-1].state == "running" else None
    first = True
    while (trial := _next(sweep, space, config.seed, trials)) is not None:
        try:
            how: dict[str, Any] = {"say": say if first else SILENT.print, "quiet": quiet, "resume": trial is left}
            how["processes"] = 1 if team.num_processes == 1 else None  # no more than there are
            run = partial(train, data, sweep.run_folder(trial), **space.options(trial.parameters, options), **how)
            _run(trial, sweep, space, run, epochs=options["epochs"], main=main)
        except Interrupted as error:
            message = f"trial {trial.number} of {trials} was {error}" if str(error) else ""
            raise Interrupted(message, error.code) from error
        except KeyboardInterrupt:
            message = f"stopped in trial {trial.number} of {trials}; the same command with --resume resumes it"
            raise Interrupted(message if main else "", 130) from None
        if torch.accelerator.is_available():
            gc.collect()  # a model that still hangs in a cycle would share the device's memory with the next
        first = first and not trial.metrics  # what a run prints of the data is the same for all
        say(trial_text(trial, sweep, of=trials))
        if main:
            write_table(sweep, space, folder / "trials.csv")
            draw_picture(sweep, space, folder / "trials.png")
    best = sweep.best
    if best is None:
        failed = [f", the first failed: {trial.reason}" for trial in sweep.trials if trial.state == "failed"]
        raise ValueError(f"none of the {len(sweep.trials)} trials came to its end{(failed or [''])[0]}")
    if len(sweep.trials) < trials:
        say(f"nothing is left to try: there are no more than {len(sweep.trials)} trials that differ")
    record = {**sweep.record(), "options": space.options(best.parameters, options)}
    if main:
        write_record(folder, record, NAME)
        sweep.clear()
    say(f"kept trial {best.number}, {sweep.metric} {best.shown(sweep.metric):.4f}: {folder}")
    return record


def _require_optuna() -> None:
    try:
        import optuna  # noqa: F401
    except ImportError as error:
        raise ValueError("a sweep needs Optuna, which is not installed: pip install 'diptych[tune]'") from error


def _range(values: list[Any]) -> str:
    numbers = all(isinstance(value, float) for value in values)
    return f"{values[0]:g} to {values[1]:g}" if numbers else " | ".join(map(str, values))


def _identity(
    data: Any,
    options: dict[str, Any],
    config: TrainConfig,
    reading: DataOptions,
    space: Space,
    processor: DiptychProcessor,
) -> dict[str, Any]:
    """What must be the same for a sweep to be resumed, by name."""
    read = read_data(data, reading, need_label=config.objective != "align", streaming=reading.stream)
    tables, columns = read.tables, read.columns
    rows = {}
    for split, table in tables.items():
        if table.rows.by_number and not reading.stream and (table is read.table or split == "validation"):
            labels: Any = None if columns.label is None else list(map(str, table.rows.values(columns.label)))
            rows[f"{split} data"] = PairDataset(table, columns, labels, processor).fingerprint()
    fixed = {name: value for name, value in options.items() if name not in {*FREE, "cache", "cache_dir"}}
    identity = {"data": list(tables), **fixed, "columns": str(columns), "search": space.described(), **rows}
    return dict(json.loads(json.dumps(identity, default=str, sort_keys=True)))


def _next(sweep: Sweep, space: Space, seed: int, trials: int) -> Trial | None:
    """The trial that was stopped, or a new one; None if there are enough, or none that differs from all others."""
    if sweep.trials and sweep.trials[-1].state == "running":
        return sweep.trials[-1]
    if len(sweep.trials) >= trials:
        return None
    parameters = suggest(sweep, space, seed)
    if parameters is None:
        return None
    sweep.trials.append(Trial(len(sweep.trials) + 1, parameters))
    return sweep.trials[-1]


def _run(trial: Trial, sweep: Sweep, space: Space, run: Callable[..., Any], *, epochs: int, main: bool) -> None:
    """Train a trial to its end, and note what came of it; `tune.json` says at every epoch where it stands.

    Raises:
        ValueError: It cannot begin, and it is the first: no other could.
    """
    import optuna

    def note(state: str = "running", reason: str = "") -> None:
        trial.state, trial.reason = state, reason
        if main:
            sweep.save()

    def after_epoch(epoch: dict[str, Any]) -> None:
        sweep.metric = epoch["select"]
        metric, loss = epoch_score(epoch, sweep.metric)
        trial.end_epoch(epoch["epoch"], metric, -loss, epoch["seconds"])
        note()
        if epoch["epoch"] < epochs and is_hopeless(trial, sweep, space):
            raise optuna.TrialPruned

    place = sweep.run_folder(trial)
    note()
    try:
        run(after_epoch=after_epoch)
    except optuna.TrialPruned:
        note("pruned")
    except (ValueError, torch.OutOfMemoryError) as error:
        begun = read_record(place)
        if main and not begun and trial.number == 1:
            (sweep.folder / NAME).unlink()
            for empty in (place, place.parent):
                with contextlib.suppress(OSError):  # others have put something there
                    empty.rmdir()
        if not begun and trial.number == 1:
            raise
        note("failed", " ".join(str(error).split()))
    else:
        note("done")
