"""Fine-tune a model: from data and options to a run's folder."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import torch
from accelerate import PartialState
from accelerate.utils import set_seed

from ..check.check import quick_check
from ..data.columns import find_columns
from ..data.splits import training_table
from ..data.tables import load_tables
from ..feature_cache.folder import cache_folder
from ..loading.augmentation import Augmentation
from ..model.build import build_model
from ..model.config import MULTI_LABEL
from ..model.folder import load_model, remove_leftovers
from ..model.losses import ClassLoss, balanced_weights
from ..model.model import DiptychModel
from ..runtime.files import writable_folder
from ..runtime.heartbeat import Heartbeat
from ..runtime.launch import fork, forks
from ..runtime.record import read_record, require_same, write_record
from ..runtime.version import __version__
from .config import TrainConfig
from .loop import Fit, epoch_score
from .optim import trains_from
from .resume import begin_anew, identity_of
from .stream_rows import StreamRows
from .table_rows import TableRows


def train(
    data: Any,
    out: str | Path,
    *,
    model: str | Path | None = None,
    image_encoder: str | None = None,
    text_encoder: str | None = None,
    image_weights: str | None = None,
    image_size: tuple[int, int] | None = None,
    max_length: int | None = None,
    image_column: str | None = None,
    text_column: str | None = None,
    label_column: str | None = None,
    alignment_weight: float | None = None,
    say: Callable[[str], None] = print,
    quiet: bool = False,
    architecture: dict[str, Any] | None = None,
    resume: bool = False,
    stream: bool = False,
    after_epoch: Callable[[dict[str, Any]], None] = lambda epoch: None,
    cache_dir: str | Path | None = None,
    processes: int | None = None,
    **run: Any,
) -> dict[str, Any]:
    """Fine-tune on labelled pairs; the best epoch's model is kept in `out/model`, the run's record in `out/run.json`.

    With `objective="align"` no labels are needed: the model learns which image and which text belong
    together, and can rank afterwards.

    Args:
        data: Whatever `load_tables` takes; its `train` split (or only one) is trained on.
        out: The run's folder; made, or an earlier run in it replaced.
        model: Start from this saved model, all of it; its head is new if the labels differ. Without
            it the fusion and the head are new, over the two encoders.
        image_encoder: As for `build_model`, by default `resnet50`.
        text_encoder: As for `build_model`, by default `bert-base-uncased`.
        image_weights: As for `build_model`.
        image_size: As for `build_model`.
        max_length: As for `build_model`.
        image_column: The image column, if it cannot be told by its features and name.
        text_column: The text column, likewise.
        label_column: The label column, likewise.
        alignment_weight: Of the contrastive term beside the classes' loss. By default 0, or what `model`
            has; 1 for `objective="align"`.
        say: What to do with each line that tells the user how it goes.
        quiet: Show no progress bar.
        architecture: Other fields of `DiptychConfig`, such as `fusion`.
        resume: Go on with the run in `out`, from its newest whole checkpoint, if it has one.
        stream: Read the rows one after another instead of loading them; an IterableDataset is streamed anyway.
        after_epoch: Called with the figures of each epoch, in all processes; what it raises ends the run.
        cache_dir: Where features are kept (see `cache` of `TrainConfig`), by default what `cache_folder` gives.
        processes: How many share the work, one for each GPU; by default all GPUs. Several are forked from this one
            (with CPU in place of GPUs if there is none), unless a launcher has started them already.
        **run: Fields of `TrainConfig`.

    Returns:
        The record: configuration, epochs, and the best epoch's metrics on the validation split.

    Raises:
        ValueError: Something is not usable; the message says what and what to do.
        Interrupted: SIGTERM or SIGINT came; the message says what was saved.
        OSError: A checkpoint or the model cannot be written; those that were there stay.
    """
    given = {**locals(), "processes": None}
    if (count := forks(processes, say)) > 1:
        fork(count, partial(train, **given.pop("run"), **given))
        return read_record(Path(out).expanduser())
    build = {
        "image_encoder": image_encoder,
        "text_encoder": text_encoder,
        "image_weights": image_weights,
        "image_size": image_size,
        "max_length": max_length,
        **(architecture or {}),
    }
    build = {name: value for name, value in build.items() if value is not None}
    if model is not None and build:
        raise ValueError(
            f"{', '.join(build)} cannot be chosen for the model {model}, which has its own: leave "
            f"{'it' if len(build) == 1 else 'them'} out, or leave the model out"
        )
    if image_weights == "random":
        run.setdefault("unfreeze_image", None)
    config = TrainConfig(**run)
    aligning = config.objective == "align"
    # without `cpu` Accelerate sees one process where several share a machine that has no accelerator
    main = PartialState(cpu=not torch.accelerator.is_available()).is_main_process  # it alone speaks and writes
    if not main:
        say = _silence
    folder = writable_folder(out)
    if not resume:
        begin_anew(folder, say, may_write=main)
    if main:
        remove_leftovers(folder / "model")

    tables = load_tables(data, streaming=stream)
    table = training_table(tables)
    columns = find_columns(table, image=image_column, text=text_column, label=label_column, need_label=not aligning)
    say(f"columns: {columns}")
    if isinstance(table.rows, datasets.Dataset):
        for finding in quick_check(tables, columns):
            say(f"check: {finding}")
        rows: TableRows | StreamRows = TableRows(tables, columns, config)
    else:
        say("streaming: one pass to count rows and classes (`diptych check` would read the rest as well)")
        rows = StreamRows(tables, columns, config, quiet=quiet or not main)
    names, multi_label = rows.names, rows.multi_label
    if multi_label:
        say(f"labels: lists in {columns.label!r}, so a row may have several or none (multi-label)")

    set_seed(config.seed)
    if model is not None:
        network, processor = load_model(model)
        if network.config.labels != names or network.config.multi_label != multi_label:
            network, processor = load_model(model, labels=names, multi_label=multi_label)
            if names:
                say("the head is new: the labels are not those of the model to start from")
    else:
        network, processor = build_model(labels=names, problem_type=MULTI_LABEL if multi_label else None, **build)
    if alignment_weight is None and aligning:
        alignment_weight = network.config.alignment_weight or 1.0
    if alignment_weight is not None:
        network.set_alignment(alignment_weight)
    if aligning:
        for unread in (network.fusion, network.null_tokens):
            unread.requires_grad_(False)
    network.image_encoder.unfreeze(config.unfreeze_image)
    network.text_encoder.unfreeze(config.unfreeze_text)

    changes, augment_from, why = _augmentation(config, network, rows)
    say(f"augmentation: {', '.join(name for name, on in changes.items() if on) or 'none'}{why}")
    augmentation = Augmentation(processor.image_processor, **changes) if any(changes.values()) else None

    network.class_loss = ClassLoss(
        multi_label=multi_label,
        weights=balanced_weights(rows.class_counts()) if config.class_weights == "balanced" else None,
        focal_gamma=config.focal_gamma,
        smoothing=config.label_smoothing,
    )
    training_set, validation_set = rows.pair_sets(
        processor, augmentation, ids=network.alignment is not None, augment_from=augment_from
    )
    what = "no labels needed" if aligning else f"{len(names)} classes"
    say(f"data: {len(training_set)} rows to train on, {len(validation_set)} to validate ({rows.source}), {what}")
    total, training = (
        sum(p.numel() for p in network.parameters() if p.requires_grad or every) for every in (True, False)
    )
    say(f"model: {total / 1e6:.1f} M parameters, {training / 1e6:.1f} M of them train")

    cache = cache_folder(cache_dir) if config.cache and isinstance(rows, TableRows) else None
    if config.cache and isinstance(rows, StreamRows) and (network.image_encoder.frozen or network.text_encoder.frozen):
        say("features: of a stream they are not kept, so a frozen trunk encodes its rows in every epoch")
    fit = Fit(network, processor, config, folder / "model", cache=cache, say=say, quiet=quiet)
    identity = identity_of(config, network, processor, training_set, validation_set, columns=str(columns), **changes)
    earlier = read_record(folder) if resume else {}
    if earlier.get("state") == "done":
        require_same(earlier["identity"], identity, folder)
        say(f"the run in {folder} is done: there is nothing to go on with")
        return earlier

    def record(state: str) -> dict[str, Any]:
        history = fit.progress.history
        return {
            "diptych": __version__,
            "torch": str(torch.__version__),
            "state": state,
            "columns": asdict(columns),
            "model": None if model is None else str(model),
            "build": build,
            "rows": {"train": len(training_set), "validation": len(validation_set)},
            "processes": fit.accelerator.num_processes,
            "run": asdict(config),
            "identity": identity,
            "start": fit.progress.start,
            "steps": fit.progress.step,
            "skipped_steps": fit.progress.skipped,
            "epochs": history,
            "best": max(history, key=lambda epoch: epoch_score(epoch, fit.best)) if history else None,
            "problems": fit.progress.problems,
        }

    def note(state: str = "running") -> None:
        if main:
            write_record(folder, record(state))

    try:
        with Heartbeat(folder):
            fit.run(training_set, validation_set, resume=resume, identity=identity, note=note, after_epoch=after_epoch)
    except BaseException:
        with contextlib.suppress(OSError):  # of a full disk, say, which is then the error to tell
            note("interrupted")
        raise
    note("done")
    if main:
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)  # they are for going on, and nothing is left
    found = record("done")
    best = found["best"]
    say(f"kept epoch {best['epoch']}, {fit.best} {best[fit.best]:.4f}: {folder}")
    return found


def _augmentation(
    config: TrainConfig, network: DiptychModel, rows: TableRows | StreamRows
) -> tuple[dict[str, bool], int, str]:
    """Which changes of pictures are on, from which epoch, and what to say of it."""
    asked = {"flip": config.flip, "crop": config.crop, "colour": config.colour}
    joins = trains_from(network.image_encoder, config.unfreeze_image, config)
    changes = {name: on if on is not None else joins is not None for name, on in asked.items()}
    why = "" if joins is not None or any(changes.values()) else " (the image trunk is frozen)"
    if changes["flip"] and config.flip is None and rows.speaks_of_sides():
        changes["flip"], why = False, " (texts speak of sides: no flip)"
    start = 1 if joins is None or any(asked.values()) else joins  # who asks for them has them from the start
    return changes, start, why + (f" (from epoch {start})" if start > 1 else "")


def _silence(_: str) -> None:
    """Say nothing."""
