"""Data and model of a run, ready to train."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import set_seed

from ..check.check import quick_check
from ..data.labels import alike
from ..data.read import read_data, require_some
from ..data.rows import Columns
from ..feature_cache.folder import cache_folder, require_room
from ..loading.augmentation import Augmentation
from ..loading.dataset import PairDataset
from ..model.build import build_model
from ..model.config import MULTI_LABEL as MULTI_LABEL_TYPE
from ..model.folder import load_model
from ..model.losses import ClassLoss, balanced_weights
from ..model.model import DiptychModel
from ..model.processor import DiptychProcessor
from ..runtime.console import Console
from .config import BuildOptions, DataOptions, TrainConfig
from .feature_reuse import EpochRows, FeatureReuse
from .objective import (
    ALIGN,
    CLASSIFY,
    ENOUGH_TO_CALIBRATE,
    MULTI_LABEL,
    Objective,
    choose_metric,
    chooses_epoch,
)
from .optim import trains_from
from .recipe import with_length
from .stream_rows import StreamRows
from .table_rows import TableRows
from .training_rows import TrainingRows


@dataclass(frozen=True)
class Setup:
    """Data and model of a run.

    Attributes:
        config: How the run goes, with its number of epochs.
        columns: Which columns are read.
        objective: What the run trains for.
        model: With every part unfrozen that is ever to train.
        processor: Of the model.
        rows: To learn from and to measure by.
        augmentation: Which changes of training images are on.
    """

    config: TrainConfig
    columns: Columns
    objective: Objective
    model: DiptychModel
    processor: DiptychProcessor
    rows: EpochRows
    augmentation: dict[str, bool]


def set_up(
    data: Any,
    config: TrainConfig,
    build: BuildOptions,
    reading: DataOptions,
    model: str | Path | None,
    console: Console,
) -> Setup:
    """Read the data, build or load the model, and bring them together.

    Args:
        data: Whatever `load_tables` takes.
        model: A saved model to start from, in place of a new one.

    Raises:
        ValueError: Something is not usable; the message says what and what to do.
    """
    labelled = config.objective == "classify"
    columns, rows = _read(data, config, reading, labelled, console)
    objective = (MULTI_LABEL if rows.multi_label else CLASSIFY) if labelled else ALIGN
    counts = (rows.class_counts(), rows.class_counts(held=True)) if objective is CLASSIFY else (None, None)
    objective, why = choose_metric(objective, config.select, *counts)
    console.print(f"best epoch: by {objective.select} on validation, {why}")

    set_seed(config.seed)
    network, processor = _start(model, build, rows, console)
    objective.prepare(network, config.alignment_weight)
    network.config.calibration = None  # of other weights
    network.config.columns = {"image": columns.image, "text": columns.text, "label": columns.label}
    network.image_encoder.unfreeze(config.unfreeze_image)
    network.text_encoder.unfreeze(config.unfreeze_text)
    network.class_loss = ClassLoss(
        multi_label=rows.multi_label,
        weights=balanced_weights(rows.class_counts()) if config.class_weights == "balanced" else None,
        focal_gamma=config.focal_gamma,
        smoothing=config.label_smoothing,
    )
    if network.experts is not None:
        counts_ = rows.class_counts()
        network.experts.set_prior(counts_ if config.class_weights == "none" else torch.ones_like(counts_))
    changes, augment_from, why = _augmentation(config, network, rows)
    console.print(f"augmentation: {', '.join(name for name, on in changes.items() if on) or 'none'}{why}")
    augmentation = Augmentation(processor.image_processor, **changes) if any(changes.values()) else None
    ids = network.alignment is not None
    training = rows.pairs(processor, augmentation=augmentation, augment_from=augment_from, ids=ids)
    validation = rows.pairs(processor, held=True, ids=not labelled)
    what = f"{len(rows.names)} classes" if labelled else "no labels needed"
    if labelled and config.calibration and len(validation) >= ENOUGH_TO_CALIBRATE:
        chooses = partial(chooses_epoch, config.seed)
        measure = partial(objective.measure, chooses=chooses)
        objective = replace(objective, measure=measure, chooses=chooses, rows=len(validation) // 2)
    elif labelled:
        objective = replace(objective, rows=len(validation))
    console.print(f"data: {len(training):,} rows to train on, {len(validation):,} to validate ({rows.source}), {what}")
    config, length = with_length(config, network, len(training))
    console.print(length)
    total, trained = (
        sum(p.numel() for p in network.parameters() if p.requires_grad or every) for every in (True, False)
    )
    console.print(f"model: {total / 1e6:.1f} M parameters, {trained / 1e6:.1f} M of them train")
    epoch_rows = EpochRows(training, validation)
    if config.cache and isinstance(training, PairDataset) and isinstance(validation, PairDataset):
        require_room(cache := cache_folder(config.cache_dir), 0)
        epoch_rows = FeatureReuse(training, validation, network, processor, config, folder=cache, console=console)
    elif config.cache and (network.image_encoder.frozen or network.text_encoder.frozen):
        console.print("features: of a stream they are not kept, so a frozen encoder computes them in every epoch")
    return Setup(config, columns, objective, network, processor, epoch_rows, changes)


def _read(
    data: Any, config: TrainConfig, reading: DataOptions, labelled: bool, console: Console
) -> tuple[Columns, TrainingRows]:
    """Which columns there are, and the rows of training and validation."""
    read = read_data(data, reading, need_label=labelled, streaming=reading.stream, say=console.print)
    tables, table, columns = read.tables, read.table, read.columns
    if table.rows.by_number and not reading.stream and config.shuffle_buffer != TrainConfig.shuffle_buffer:
        raise ValueError(
            f"shuffle_buffer is {config.shuffle_buffer}, but all rows are held and shuffled: leave it out, or give "
            "stream"
        )
    for part in (table, tables.get("validation", table)):
        require_some(part, columns)
    rows: TrainingRows
    if table.rows.by_number and not reading.stream:
        for finding in quick_check(tables, columns):
            console.print(f"check: {finding}")
        rows = TableRows(tables, columns, config, labelled=labelled, console=console)
    else:
        if not table.rows.again:
            raise ValueError(f"{table.name} is an iterator, which can be read once: give a list, a file or a dataset")
        console.print("streaming: one pass to count rows and classes (`diptych check` would read the rest as well)")
        rows = StreamRows(tables, columns, config, labelled=labelled, console=console)
        for group in alike(rows.names):
            names = ", ".join(map(repr, group))
            console.print(f"labels {names} differ in letter case alone, and are {len(group)} classes: make them one?")
    if rows.multi_label:
        console.print(f"labels: lists in {columns.label!r}, so a row may have several or none (multi-label)")
    return columns, rows


def _start(
    model: str | Path | None, build: BuildOptions, rows: TrainingRows, console: Console
) -> tuple[DiptychModel, DiptychProcessor]:
    """The model to train, new or saved, with a head for the classes of `rows`."""
    if model is None:
        problem = MULTI_LABEL_TYPE if rows.multi_label else None
        return build_model(labels=rows.names, problem_type=problem, **build.given())
    network, processor = load_model(model)
    if network.config.labels != rows.names or network.config.multi_label != rows.multi_label:
        network, processor = load_model(model, labels=rows.names, multi_label=rows.multi_label)
        if rows.names:
            console.print("the head is new: the labels are not those of the model to start from")
    return network, processor


def _augmentation(config: TrainConfig, network: DiptychModel, rows: TrainingRows) -> tuple[dict[str, bool], int, str]:
    """Which changes of images are on, from which epoch, and what to print of it."""
    asked = {"flip": config.flip, "crop": config.crop, "colour": config.colour}
    trains = trains_from(network.image_encoder, config.unfreeze_image, config)
    changes = {name: on if on is not None else trains is not None for name, on in asked.items()}
    why = "" if trains is not None or any(changes.values()) else " (the image encoder is frozen)"
    if changes["flip"] and config.flip is None and rows.speaks_of_sides():
        changes["flip"], why = False, " (texts speak of sides: no flip)"
    start = 1 if trains is None or any(asked.values()) else trains  # who asks for them has them from the start
    return changes, start, why + (f" (from epoch {start})" if start > 1 else "")
