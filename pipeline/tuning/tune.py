"""A sweep: many training runs, their learning rates, fusion and frozen parts chosen by Optuna from what came before.

`tune.json` is all that a sweep goes on from: before each trial the study is made of it anew, and what is drawn
follows from the seed and the trial's number. So a sweep that was cut off chooses as if it had not been.
"""

from __future__ import annotations

import contextlib
import gc
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import datasets
import torch
from accelerate import PartialState

from ..data.columns import find_columns
from ..data.splits import training_table
from ..data.tables import load_tables
from ..loading.dataset import PairDataset
from ..model.build import build_model
from ..model.folder import load_model
from ..model.model import DiptychModel
from ..model.processor import DiptychProcessor
from ..runtime.launch import fork, forks
from ..runtime.outputs import writable_folder
from ..runtime.record import read_record, require_same, write_record
from ..runtime.signals import Interrupted
from ..training.config import TrainConfig
from ..training.objective import ALIGN, CLASSIFY, epoch_score
from ..training.resume import FREE
from ..training.train import train
from .report import draw_picture, trial_text, write_table
from .space import Space, space_of
from .study import is_hopeless, suggest
from .trials import NAME, Sweep, Trial, read_sweep

if TYPE_CHECKING:
    pass

_BUILD = ("image_encoder", "text_encoder", "image_weights", "image_size", "max_length")


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

    Trials are compared by the figure that `train` keeps its best epoch by, on the same validation rows. The
    first is what `train` does by itself. Of the others Optuna's TPE (Bergstra et al., Algorithms for
    Hyper-Parameter Optimization, 2011) chooses the parameters, and a trial whose best epoch so far is below
    the median of those before it, after as many, is cut short. One that fails (a loss that is not finite, too
    little memory) is noted, and the sweep goes on.

    `out` holds the best trial's model in `model/`, and so stands wherever a run's folder does; what came of
    each trial in `tune.json`, `trials.csv` and `trials.png`; and each one's `run.json` below `trials/`.

    Args:
        data: As for `train`.
        out: The sweep's folder.
        trials: How many, in all; a sweep that goes on may have more than it began with.
        fusions: From which to choose; all if not given.
        say: What to do with each line that tells the user how it goes.
        quiet: Show no progress bar.
        resume: Go on with the sweep in `out`: trials that have ended are kept, and one that was cut off goes
            on from its newest whole checkpoint.
        processes: As for `train`: they share each trial.
        **options: Of `train`; what they fix is not searched.

    Returns:
        What `tune.json` holds, and under `options` those of `train` that make the best model again.

    Raises:
        ValueError: Optuna is not installed, something is not usable, or every trial failed; the message says what.
        Interrupted: SIGTERM or SIGINT came; the message says what was saved.
        OSError: Something cannot be written; the sweep can go on when it can.
    """
    given = {**locals(), "processes": None}
    _require_optuna()
    if trials < 1:
        raise ValueError(f"trials is {trials}; it must be at least 1")
    if (count := forks(processes, say)) > 1:
        fork(count, partial(tune, **given.pop("options"), **given))
        return read_record(Path(out).expanduser(), NAME)
    # of all that share a trial; they choose the same, each by itself
    team = PartialState(cpu=not torch.accelerator.is_available())
    main = team.is_main_process
    if not main:
        say = _silence
    folder = writable_folder(out)
    earlier = read_sweep(folder)
    team.wait_for_everyone()  # before any of them writes what others still have to read
    if earlier is not None and not resume:
        ended = sum(trial.state != "running" for trial in earlier.trials)
        raise ValueError(
            f"{folder} holds a sweep, of which {ended} trials have ended: go on with --resume, choose another --out, "
            "or delete it"
        )
    names = ("run.json", "model", "trials", "trials.csv", "trials.png")
    there = [name for name in names if earlier is None and (folder / name).exists()]
    if there:
        raise ValueError(
            f"{folder} holds {there[0]} of something else, which a sweep would replace: choose another --out"
        )

    options = {name: value for name, value in options.items() if value is not None or name.startswith("unfreeze_")}
    network, processor = _start(options)
    space = space_of(network.image_encoder, network.text_encoder, options, fusions=fusions)
    del network
    identity = _identity(data, options, space, processor)
    sweep = earlier or Sweep(folder, identity, (ALIGN if options.get("objective") == "align" else CLASSIFY).select)
    require_same(sweep.identity, identity, folder, what="sweep")
    if resume and earlier is None:
        say(f"no sweep in {folder}: starting from the beginning")
    searched = ", ".join(f"{name} ({_range(values)})" for name, values in space.described().items())
    say(f"searching {searched}")
    left = sweep.trials[-1] if sweep.trials and sweep.trials[-1].state == "running" else None
    said = False
    while (trial := _next(sweep, space, options.get("seed", 0), trials)) is not None:
        try:
            how: dict[str, Any] = {"say": _silence if said else say, "quiet": quiet, "resume": trial is left}
            how["processes"] = 1 if team.num_processes == 1 else None  # no more than there are
            _run(trial, sweep, space, data, options, main=main, **how)
        except Interrupted as error:
            told = str(error)
            raise Interrupted(f"trial {trial.number} of {trials} was {told}" if told else "", error.code) from error
        except KeyboardInterrupt:
            told = f"stopped in trial {trial.number} of {trials}; the same command with --resume goes on from there"
            raise Interrupted(told if main else "", 130) from None
        if torch.accelerator.is_available():
            gc.collect()  # a model that still hangs in a cycle would share the device's memory with the next
        said = said or bool(trial.figures)  # what the run says of the data is the same for all
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
    say(f"kept trial {best.number}, {sweep.figure} {best.figure:.4f}: {folder}")
    return record


def _silence(_: str) -> None:
    """Say nothing."""


def _require_optuna() -> None:
    try:
        import optuna  # noqa: F401
    except ImportError as error:
        raise ValueError("a sweep needs Optuna, which is not installed: pip install 'diptych[tune]'") from error


def _range(values: list[Any]) -> str:
    numbers = all(isinstance(value, float) for value in values)
    return f"{values[0]:g} to {values[1]:g}" if numbers else " | ".join(map(str, values))


def _start(options: dict[str, Any]) -> tuple[DiptychModel, DiptychProcessor]:
    """What training begins with, as far as its encoders and how they see."""
    if options.get("model") is not None:
        return load_model(options["model"])
    build = {name: options[name] for name in _BUILD if name in options}
    return build_model(labels=["-", "-"], fusion="mlp", hidden_size=4, fusion_heads=1, **build)  # which nobody looks at


def _identity(data: Any, options: dict[str, Any], space: Space, processor: DiptychProcessor) -> dict[str, Any]:
    """What must be the same for a sweep to go on, by name."""
    tables = load_tables(data, streaming=options.get("stream", False))
    table = training_table(tables)
    chosen = {name: options.get(f"{name}_column") for name in ("image", "text", "label")}
    columns = find_columns(table, **chosen, need_label=options.get("objective") != "align")
    rows = {}
    for split, one in tables.items():
        if isinstance(one.rows, datasets.Dataset) and (one is table or split == "validation"):
            labels = None if columns.label is None else list(one.rows[columns.label])
            rows[f"{split} data"] = PairDataset(one, columns, labels, processor).fingerprint()
    fixed = {name: value for name, value in options.items() if name not in {*FREE, "cache", "cache_dir"}}
    found = {"data": list(tables), **fixed, "columns": str(columns), "search": space.described(), **rows}
    return dict(json.loads(json.dumps(found, default=str, sort_keys=True)))


def _next(sweep: Sweep, space: Space, seed: int, trials: int) -> Trial | None:
    """The trial that was cut off, or a new one; None if there are enough, or none that differs from all others."""
    if sweep.trials and sweep.trials[-1].state == "running":
        return sweep.trials[-1]
    if len(sweep.trials) >= trials:
        return None
    parameters = suggest(sweep, space, seed)
    if parameters is None:
        return None
    sweep.trials.append(Trial(len(sweep.trials) + 1, parameters))
    return sweep.trials[-1]


def _run(
    trial: Trial,
    sweep: Sweep,
    space: Space,
    data: Any,
    options: dict[str, Any],
    *,
    main: bool,
    **how: Any,
) -> None:
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
        sweep.figure = epoch["select"]
        figure, loss = epoch_score(epoch, sweep.figure)
        trial.end_epoch(epoch["epoch"], figure, -loss, epoch["seconds"])
        note()
        if epoch["epoch"] < epochs and is_hopeless(trial, sweep, space):
            raise optuna.TrialPruned

    epochs = options.get("epochs", TrainConfig.epochs)
    chosen = space.options(trial.parameters, options)
    place = sweep.run_folder(trial)
    note()
    try:
        train(data, place, **chosen, **how, after_epoch=after_epoch)
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
