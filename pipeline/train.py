"""Fine-tune a model: from data and options to a run's folder."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import set_seed

from .. import __version__
from .batches import Augmentation, PairDataset, speaks_of_sides
from .build import build_model, load_model, tidy
from .check import quick_check
from .columns import find_columns, label_ids, label_names
from .config import MULTI_LABEL
from .data import Table, hold_out, load_tables
from .features import cache_folder
from .fit import Fit, rank_epoch
from .labels import is_multi_label, multi_label_names, multi_label_targets, strata
from .launch import fork, forks
from .losses import ClassLoss, balanced_weights
from .model import DiptychModel
from .record import begin_anew, identity_of, read_record, require_same, write_record
from .rows import Columns
from .stages import trains_from
from .train_config import TrainConfig


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
        tidy(folder / "model")

    tables = load_tables(data)
    table = tables.get("train") or next(iter(tables.values()))
    columns = find_columns(table, image=image_column, text=text_column, label=label_column, need_label=not aligning)
    say(f"columns: {columns}")
    for finding in quick_check(tables, columns):
        say(f"check: {finding}")
    names: list[str] = []
    labels: Any = None
    multi_label = not aligning and is_multi_label(table, str(columns.label))
    read_labels = multi_label_targets if multi_label else label_ids
    if multi_label:
        say(f"labels: lists in {columns.label!r}, so a row may have several or none (multi-label)")
    if not aligning:
        names = (multi_label_names if multi_label else label_names)(table, str(columns.label))
        labels = read_labels(table, str(columns.label), names)
        if len(set(labels)) < 2:
            raise ValueError(
                f"{table.name}: all {len(labels)} rows have the same label in {columns.label!r}; nothing can be learned"
            )

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

    changes, augment_from, why = _augmentation(config, network, table, columns)
    say(f"augmentation: {', '.join(name for name, on in changes.items() if on) or 'none'}{why}")
    augmentation = Augmentation(processor.image_processor, **changes) if any(changes.values()) else None

    kept: list[int] | None = None
    held: list[int] | None = None
    if "validation" in tables:
        held_table = tables["validation"]
        held_labels: Any = None if aligning else read_labels(held_table, str(columns.label), names)
    else:
        held_table, held_labels = table, labels
        classes = [0] * len(table.rows) if labels is None else strata(labels) if multi_label else labels
        kept, held = hold_out(table, classes, fraction=config.validation_share, seed=config.seed)
    validated: Any = held_labels if held is None or aligning else [held_labels[row] for row in held]
    if multi_label and not any(any(target) for target in validated):
        raise ValueError(
            f"{held_table.name}: no row to validate with has a label in {columns.label!r}, so that nothing can be "
            "measured; give a validation split in which some have"
        )
    trained = labels if kept is None or labels is None else [labels[row] for row in kept]
    network.class_loss = ClassLoss(
        multi_label=multi_label,
        weights=balanced_weights(trained, len(names)) if config.class_weights == "balanced" else None,
        focal_gamma=config.focal_gamma,
        smoothing=config.label_smoothing,
    )
    ids = network.alignment is not None
    training_set = PairDataset(
        table,
        columns,
        labels,
        processor,
        rows=kept,
        augmentation=augmentation,
        ids=ids,
        seed=config.seed,
        augment_from=augment_from,
    )
    validation_set = PairDataset(held_table, columns, held_labels, processor, rows=held, ids=aligning)
    source = "its own split" if held is None else f"a stratified {config.validation_share:.0%}, seed {config.seed}"
    what = "no labels needed" if aligning else f"{len(names)} classes"
    say(f"data: {len(training_set)} rows to train on, {len(validation_set)} to validate ({source}), {what}")
    total, training = (
        sum(p.numel() for p in network.parameters() if p.requires_grad or every) for every in (True, False)
    )
    say(f"model: {total / 1e6:.1f} M parameters, {training / 1e6:.1f} M of them train")

    cache = cache_folder(cache_dir) if config.cache else None
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
            "best": max(history, key=lambda epoch: rank_epoch(epoch, fit.best)) if history else None,
            "problems": fit.progress.problems,
        }

    def note(state: str = "running") -> None:
        if main:
            write_record(folder, record(state))

    try:
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
    config: TrainConfig, network: DiptychModel, table: Table, columns: Columns
) -> tuple[dict[str, bool], int, str]:
    """Which changes of pictures are on, from which epoch, and what to say of it."""
    asked = {"flip": config.flip, "crop": config.crop, "colour": config.colour}
    joins = trains_from(network.image_encoder, config.unfreeze_image, config)
    changes = {name: on if on is not None else joins is not None for name, on in asked.items()}
    why = "" if joins is not None or any(changes.values()) else " (the image trunk is frozen)"
    if changes["flip"] and config.flip is None and speaks_of_sides(table.rows[columns.text][:10_000]):
        changes["flip"], why = False, " (texts speak of sides: no flip)"
    start = 1 if joins is None or any(asked.values()) else joins  # who asks for them has them from the start
    return changes, start, why + (f" (from epoch {start})" if start > 1 else "")


def _silence(_: str) -> None:
    """Say nothing."""


def writable_folder(out: str | Path) -> Path:
    """Make the folder `out` if need be, and see that it can be written to.

    Raises:
        ValueError: It cannot.
    """
    folder = Path(out).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".diptych-{os.getpid()}"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise ValueError(f"{out} cannot be written to ({error.strerror}); choose another --out") from error
    return folder
