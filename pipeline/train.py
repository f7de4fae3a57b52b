"""Fine-tune a model: from data and options to a run's folder."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import set_seed

from .. import __version__
from .batches import Augmentation, PairDataset, speaks_of_sides
from .build import build_model, load_model
from .check import quick_check
from .columns import find_columns, label_ids, label_names
from .data import hold_out, load_tables
from .fit import Fit, TrainConfig, rank_epoch


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
        **run: Fields of `TrainConfig`.

    Returns:
        The record: configuration, epochs, and the best epoch's metrics on the validation split.

    Raises:
        ValueError: Something is not usable; the message says what and what to do.
    """
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
    if not PartialState().is_main_process:  # one of several processes speaks
        say = _silence
    folder = writable_folder(out)

    if (folder / "run.json").exists():
        say(f"replacing the earlier run in {folder}")
    tables = load_tables(data)
    table = tables.get("train") or next(iter(tables.values()))
    columns = find_columns(table, image=image_column, text=text_column, label=label_column, need_label=not aligning)
    say(f"columns: {columns}")
    for finding in quick_check(tables, columns):
        say(f"check: {finding}")
    names: list[str] = []
    labels: list[int] | None = None
    if not aligning:
        names = label_names(table, str(columns.label))
        labels = label_ids(table, str(columns.label), names)
        if len(set(labels)) < 2:
            raise ValueError(
                f"{table.name}: all {len(labels)} rows have the same label in {columns.label!r}; nothing can be learned"
            )

    set_seed(config.seed)
    if model is not None:
        network, processor = load_model(model)
        if network.config.labels != names:
            network, processor = load_model(model, labels=names)
            if names:
                say("the head is new: the labels are not those of the model to start from")
    else:
        network, processor = build_model(labels=names, **build)
    if alignment_weight is None and aligning:
        alignment_weight = network.config.alignment_weight or 1.0
    if alignment_weight is not None:
        network.set_alignment(alignment_weight)
    if aligning:
        for unread in (network.fusion, network.null_tokens):
            unread.requires_grad_(False)
    network.image_encoder.unfreeze(config.unfreeze_image)
    network.text_encoder.unfreeze(config.unfreeze_text)

    flip = config.flip if config.flip is not None else not speaks_of_sides(table.rows[columns.text][:10_000])
    augmentation = Augmentation(processor.image_processor, flip=flip, crop=config.crop, colour=config.colour)
    changes = [name for name, on in (("flip", flip), ("crop", config.crop), ("colour", config.colour)) if on]
    say(
        f"augmentation: {', '.join(changes) or 'none'}"
        + ("" if flip or config.flip is False else " (texts speak of sides: no flip)")
    )

    kept: list[int] | None = None
    held: list[int] | None = None
    if "validation" in tables:
        held_table = tables["validation"]
        held_labels = None if aligning else label_ids(held_table, str(columns.label), names)
    else:
        held_table, held_labels = table, labels
        classes = [0] * len(table.rows) if labels is None else labels
        kept, held = hold_out(table, classes, fraction=config.validation_share, seed=config.seed)
    ids = network.alignment is not None
    training_set = PairDataset(table, columns, labels, processor, rows=kept, augmentation=augmentation, ids=ids)
    validation_set = PairDataset(held_table, columns, held_labels, processor, rows=held, ids=aligning)
    source = "its own split" if held is None else f"a stratified {config.validation_share:.0%}, seed {config.seed}"
    what = "no labels needed" if aligning else f"{len(names)} classes"
    say(f"data: {len(training_set)} rows to train on, {len(validation_set)} to validate ({source}), {what}")
    total, training = (
        sum(p.numel() for p in network.parameters() if p.requires_grad or every) for every in (True, False)
    )
    say(f"model: {total / 1e6:.1f} M parameters, {training / 1e6:.1f} M of them train")

    fit = Fit(network, processor, config, folder / "model", say=say, quiet=quiet)
    history = fit.run(training_set, validation_set)
    best = max(history, key=lambda epoch: rank_epoch(epoch, fit.best))
    record = {
        "diptych": __version__,
        "torch": str(torch.__version__),
        "columns": asdict(columns),
        "model": None if model is None else str(model),
        "build": build,
        "rows": {"train": len(training_set), "validation": len(validation_set)},
        "run": asdict(config),
        "start": fit.start,
        "epochs": history,
        "best": best,
        "problems": fit.problems,
    }
    if fit.accelerator.is_main_process:
        (folder / "run.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    say(f"kept epoch {best['epoch']}, {fit.best} {best[fit.best]:.4f}: {folder}")
    return record


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
