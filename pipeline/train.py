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
from .columns import find_columns, label_ids, label_names
from .data import hold_out, load_tables
from .fit import Fit, TrainConfig


def train(
    data: Any,
    out: str | Path,
    *,
    model: str | Path | None = None,
    image_encoder: str = "resnet50",
    text_encoder: str = "bert-base-uncased",
    image_weights: str = "pretrained",
    image_size: tuple[int, int] | None = None,
    max_length: int = 128,
    image_column: str | None = None,
    text_column: str | None = None,
    label_column: str | None = None,
    say: Callable[[str], None] = print,
    quiet: bool = False,
    architecture: dict[str, Any] | None = None,
    **run: Any,
) -> dict[str, Any]:
    """Fine-tune on labelled pairs; the best epoch's model is kept in `out/model`, the run's record in `out/run.json`.

    Args:
        data: Whatever `load_tables` takes; its `train` split (or only one) is trained on.
        out: The run's folder; made, or an earlier run in it replaced.
        model: Start from this saved model, all of it; its head is new if the labels differ. Without
            it the fusion and the head are new, over the two encoders.
        image_encoder: As for `build_model`.
        text_encoder: As for `build_model`.
        image_weights: As for `build_model`.
        image_size: As for `build_model`.
        max_length: As for `build_model`.
        image_column: The image column, if it cannot be told by its features and name.
        text_column: The text column, likewise.
        label_column: The label column, likewise.
        say: What to do with each line that tells the user how it goes.
        quiet: Show no progress bar.
        architecture: Other fields of `DiptychConfig`, such as `fusion`.
        **run: Fields of `TrainConfig`.

    Returns:
        The record: configuration, epochs, and the best epoch's metrics on the validation split.

    Raises:
        ValueError: Something is not usable; the message says what and what to do.
    """
    random_image = image_weights == "random" and model is None
    if random_image:
        run.setdefault("unfreeze_image", None)
    config = TrainConfig(**run)
    if not PartialState().is_main_process:  # one of several processes speaks
        say = _silence
    folder = writable_folder(out)

    if (folder / "run.json").exists():
        say(f"replacing the earlier run in {folder}")
    tables = load_tables(data)
    table = tables.get("train") or next(iter(tables.values()))
    columns = find_columns(table, image=image_column, text=text_column, label=label_column)
    say(f"columns: {columns}")
    label = str(columns.label)
    names = label_names(table, label)
    labels = label_ids(table, label, names)
    if len(set(labels)) < 2:
        raise ValueError(
            f"{table.name}: all {len(labels)} rows have the same label in {label!r}; nothing can be learned"
        )

    set_seed(config.seed)
    if model is not None:
        network, processor = load_model(model)
        if network.config.labels != names:
            network, processor = load_model(model, labels=names)
            say("the head is new: the labels are not those of the model to start from")
    else:
        network, processor = build_model(
            image_encoder,
            text_encoder,
            labels=names,
            image_weights=image_weights,
            image_size=image_size,
            max_length=max_length,
            **(architecture or {}),
        )
    network.image_encoder.unfreeze(config.unfreeze_image)
    network.text_encoder.unfreeze(config.unfreeze_text)

    flip = config.flip if config.flip is not None else not speaks_of_sides(table.rows[columns.text][:10_000])
    augmentation = Augmentation(processor.image_processor, flip=flip, crop=config.crop, colour=config.colour)
    changes = [name for name, on in (("flip", flip), ("crop", config.crop), ("colour", config.colour)) if on]
    say(
        f"augmentation: {', '.join(changes) or 'none'}"
        + ("" if flip or config.flip is False else " (texts speak of sides: no flip)")
    )

    if "validation" in tables:
        held_table = tables["validation"]
        kept: list[int] | None = None
        held: list[int] | None = None
        held_labels = label_ids(held_table, label, names)
    else:
        held_table, held_labels = table, labels
        kept, held = hold_out(table, labels, fraction=config.validation_share, seed=config.seed)
    training_set = PairDataset(table, columns, labels, processor, rows=kept, augmentation=augmentation)
    validation_set = PairDataset(held_table, columns, held_labels, processor, rows=held)
    source = "its own split" if held is None else f"a stratified {config.validation_share:.0%}, seed {config.seed}"
    say(
        f"data: {len(training_set)} rows to train on, {len(validation_set)} to validate ({source}), "
        f"{len(names)} classes"
    )
    total, training = (
        sum(p.numel() for p in network.parameters() if p.requires_grad or every) for every in (True, False)
    )
    say(f"model: {total / 1e6:.1f} M parameters, {training / 1e6:.1f} M of them train")

    fit = Fit(network, processor, config, folder / "model", say=say, quiet=quiet)
    history = fit.run(training_set, validation_set)
    best = max(history, key=lambda epoch: (epoch["accuracy"], -epoch["loss"]))
    record = {
        "diptych": __version__,
        "torch": str(torch.__version__),
        "columns": asdict(columns),
        "model": None if model is None else str(model),
        "encoders": None
        if model is not None
        else {"image": image_encoder, "image_weights": image_weights, "text": text_encoder},
        "rows": {"train": len(training_set), "validation": len(validation_set)},
        "run": asdict(config),
        "start": fit.start,
        "epochs": history,
        "best": best,
        "problems": fit.problems,
    }
    if fit.accelerator.is_main_process:
        (folder / "run.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    say(f"kept epoch {best['epoch']}, accuracy {best['accuracy']:.4f}: {folder}")
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
