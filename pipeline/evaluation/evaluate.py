"""Measure a model on labelled data."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from ...encoders.tokens import widen
from ...encoders.trainable import evaluating
from ..data.content import NOTHING
from ..data.labels import label_ids, multi_label_targets
from ..data.options import Reading
from ..data.read import read_data, require_some
from ..data.splits import pick_split
from ..loading.dataset import PairDataset
from ..loading.loader import batches_once
from ..loading.plan import gather_parts
from ..model.calibration import MODALITIES, modalities_of, precision_threshold
from ..model.config import DEFAULT_THRESHOLD, DiptychConfig
from ..model.folder import load_model
from ..model.model import require_classes
from ..model.scores import scores
from ..runtime.console import SILENT, Console
from ..runtime.options import require_flags, sort_options
from .drawing import draw_coverage, picture_place
from .metrics import best_thresholds, classification_metrics, multi_label_metrics
from .missing import Missing, take_away
from .worth import by_class, measure_worth, worth_report

_Batches = Iterable[Mapping[str, Any]]
PROMISES = (0.9, 0.95)
"""Precisions that are marked on a coverage-accuracy curve."""


def evaluate(
    model: Any,
    data: Any,
    *,
    split: str | None = None,
    batch_size: int = 64,
    say: Callable[[str], None] = lambda line: None,
    quiet: bool = False,
    emap_exact: bool = False,
    out: str | Path | None = None,
    **options: Any,
) -> dict[str, Any]:
    """How good a saved model is on both halves and on each alone.

    Args:
        model: A run's or a model's folder, or a Hub id.
        data: Whatever `load_tables` takes.
        split: Which split; `test` if there are several and none is named.
        batch_size: Rows per forward pass and device.
        say: What to do with each line that says how the data is read.
        quiet: Show no progress bar.
        emap_exact: Project by all pairs of images and texts, in place of 32 for each of at most 500 rows.
        out: A folder, in which `coverage.png` is written: accuracy by the share of rows that are answered; of a model
            with one label a row.
        **options: Fields of `Reading`, such as `label_column`, where columns are those of training if not given, and
            of `Missing`, which takes modalities away from some rows.

    Returns:
        What `measure` gives with `each_half`, and `rows`; `trained_on`, how many of these the model was trained on,
        None where it does not remember; `missing`, which of them lack a modality on purpose; `by_class`, the rows,
        precision, recall and F1 of each; of a model with one label a row `worth`: accuracies with 95 % intervals of
        the majority class, both modalities, each alone, images swapped among rows and the additive projection (see
        `measure_worth`), paired differences, and a sentence.

    Raises:
        ValueError: The model or the data is not usable; the message says why.
    """
    require_flags(quiet=quiet, emap_exact=emap_exact)
    reading, missing = sort_options(options, Reading, Missing)
    picture = None if out is None else picture_place(out, "coverage.png")
    classifier, processor = load_model(model)
    require_classes(classifier)
    if classifier.config.multi_label and emap_exact:
        raise ValueError("emap_exact is of models with one label a row; this one has any number: leave it out")
    pick, known = partial(pick_split, split=split, default="test"), classifier.config.columns
    read = read_data(data, reading, pick=pick, known=known, say=say)
    table, columns = read.table, read.columns
    require_some(table, columns)
    read_labels = multi_label_targets if classifier.config.multi_label else label_ids
    labels = read_labels(table, str(columns.label), classifier.config.labels)
    accelerator = Accelerator()
    dataset = PairDataset(table, columns, labels, processor)
    console = Console(bars=not quiet)

    def batches() -> Iterable[dict[str, Any]]:
        whole = batches_once(dataset, accelerator, batch_size=batch_size)
        return whole if missing.missing is None else take_away(whole, missing.table(len(dataset)))

    classifier = classifier.to(accelerator.device)
    kept = collect(classifier, batches(), accelerator, console, each_half=True)
    measured = metrics_of_rows(kept, classifier.config, each_half=True)
    report = {"rows": len(dataset), "columns": str(columns), "trained_on": trained_on(classifier, dataset), **measured}
    report["missing"] = None if missing.missing is None else str(missing)
    usable = kept["present"].any(dim=1)
    predicted, truth = kept["both"][usable].argmax(dim=1), kept["labels"][usable]
    names = classifier.config.labels
    if classifier.config.multi_label:
        limits = torch.tensor(measured["thresholds"])
        chosen = (
            scores(kept["both"], classifier.config, modalities_of(*kept["present"].unbind(dim=1)))[usable] >= limits
        )
        return report | {"by_class": by_class(chosen.long(), truth.long(), names)}
    report["by_class"] = by_class(predicted, truth, names)
    whole = kept["present"].all(dim=1)
    if bool(whole.any()):
        answers = {name: kept[name][whole].argmax(dim=1) for name in ("both", "text_only", "image_only")}
        truth = kept["labels"][whole]
        answers["majority"] = truth.mode().values.expand_as(truth)
        right = {name: answer == truth for name, answer in answers.items()}
        sampled = {}
        if accelerator.num_processes == 1:  # of several each has a share of the rows
            found = measure_worth(classifier.eval(), batches(), accelerator, console, exact=emap_exact)
            sampled = {name: found[name].argmax(dim=1) == found["labels"] for name in found if name != "labels"}
        report["worth"] = worth_report(right, sampled)
    if picture is not None and accelerator.is_main_process:
        drawn = draw_coverage(scored(kept, classifier.config), _thresholds(classifier.config), picture)
        say(f"accuracy by coverage: {picture if drawn else 'not drawn of so few rows'}")
    return report


def by_modality(kept: dict[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """Raw logits and labels by modality, of what `collect` gave `each_half`: of rows that have what it takes."""
    image, text = kept["present"].unbind(dim=1)
    views = {"both": ("both", image & text), "text": ("text_only", text), "image": ("image_only", image)}
    return {name: (kept[view][rows], kept["labels"][rows]) for name, (view, rows) in views.items()}


def scored(kept: dict[str, Tensor], config: DiptychConfig) -> dict[str, tuple[Tensor, Tensor]]:
    """Calibrated scores and labels, as `by_modality` gives raw logits."""
    return {
        name: (scores(logits, config, torch.full((len(logits),), MODALITIES.index(name))), labels)
        for name, (logits, labels) in by_modality(kept).items()
    }


def _thresholds(config: DiptychConfig) -> dict[str, dict[float, float]]:
    """By modality, the scores from which on a calibrated model keeps `PROMISES`."""
    found: dict[str, dict[float, float]] = {name: {} for name in MODALITIES}
    for name, precision in product(MODALITIES, PROMISES):
        with contextlib.suppress(ValueError):  # it is not calibrated, or on too few rows
            found[name][precision] = precision_threshold(config, name, precision)
    return found


def trained_on(model: Any, dataset: PairDataset) -> int | None:
    """How many rows a model was trained on, however they are stored; None if it does not remember.

    Compared are images and texts together, or the one of them that both training and these rows have a column for.
    """
    if model.training_ids is None:
        return None
    known = model.config.columns or {}
    image, text = (bool(getattr(dataset.columns, name) and known.get(name, True)) for name in ("image", "text"))
    ids = dataset.row_ids()[:, 0 if image and text else 1 if image else 2]
    return int((torch.isin(ids, model.training_ids) & (ids != NOTHING)).sum())


@torch.inference_mode()
def measure(
    model: Any,
    batches: _Batches,
    accelerator: Accelerator,
    console: Console = SILENT,
    *,
    each_half: bool = False,
    choose_thresholds: bool = False,
    chooses: Callable[[int], bool] | None = None,
) -> dict[str, Any]:
    """Metrics over all rows of `batches`, each counted once however many processes share them.

    Rows that have neither half get no prediction: they are counted in `without_prediction`, and
    in no metric.

    Args:
        model: Prepared by `accelerator`.
        batches: This process's.
        each_half: Whether to measure each half alone as well, the other taken away from every row.
        choose_thresholds: Whether to choose a multi-label model's thresholds on these rows, in place of its own.
        chooses: Of a row's number, whether it counts; all do if not given.

    Returns:
        `accuracy`, `macro_f1`, `auroc`, `loss`; of a multi-label model `micro_f1`, `macro_f1`,
        `mean_average_precision`, `loss` and the `thresholds` that F1 is measured with; `without_prediction` and
        `one_half`, counts of rows. With `each_half` also `text_only` and `image_only`: `rows` that have that half, and
        the first figures of them.
    """
    plain = accelerator.unwrap_model(model)
    kept = collect(model, batches, accelerator, console, each_half=each_half)
    if chooses is not None:
        mine = torch.tensor([chooses(number) for number in kept["number"].tolist()])
        kept = {name: tensor[mine] for name, tensor in kept.items()}
    return metrics_of_rows(kept, plain.config, each_half=each_half, choose_thresholds=choose_thresholds)


def metrics_of_rows(
    kept: dict[str, Tensor], config: DiptychConfig, *, each_half: bool = False, choose_thresholds: bool = False
) -> dict[str, Any]:
    """The metrics of `measure`, of what `collect` gave."""
    image_there, text_there = kept["present"].unbind(dim=1)
    usable = image_there | text_there
    modalities = modalities_of(image_there, text_there)
    thresholds = None
    if config.multi_label:
        thresholds = config.thresholds or [DEFAULT_THRESHOLD] * config.num_labels
        if choose_thresholds:
            found_scores = scores(kept["both"][usable], config, modalities[usable])
            thresholds = best_thresholds(found_scores.numpy(), kept["labels"][usable].numpy())

    def metrics_of(name: str, rows: Tensor) -> dict[str, Any]:
        had = modalities if name == "both" else torch.full_like(modalities, MODALITIES.index(name.partition("_")[0]))
        found, labels = scores(kept[name], config, had)[rows].numpy(), kept["labels"][rows].numpy()
        if thresholds is None:
            return classification_metrics(found, labels)
        return multi_label_metrics(found, labels.astype(int), np.array(thresholds))

    metrics = metrics_of("both", usable)
    if thresholds is not None:
        metrics["thresholds"] = thresholds
    metrics["without_prediction"] = int((~usable).sum())
    metrics["one_half"] = int((image_there ^ text_there).sum())
    if each_half:
        for name, rows in (("text_only", text_there), ("image_only", image_there)):
            metrics[name] = {"rows": int(rows.sum()), **(metrics_of(name, rows) if bool(rows.any()) else {})}
    return metrics


@torch.inference_mode()
def collect(
    model: Any, batches: _Batches, accelerator: Accelerator, console: Console = SILENT, *, each_half: bool = False
) -> dict[str, Tensor]:
    """What a model gives for all rows, in their order, each once however many processes share them.

    Args: as of `measure`.

    Returns:
        `both` (rows, classes), raw logits; with `each_half` also `text_only` and `image_only`, as if each row lacked
        the other; `labels`; `present` (rows, 2), image first; `number`
        (rows,), of each row in its table.
    """
    plain = accelerator.unwrap_model(model)
    names = ("both", "text_only", "image_only") if each_half else ("both",)
    parts: list[dict[str, Tensor]] = []
    numbers: list[int] = []
    with evaluating(model):
        for batch in console.progress(batches, desc="evaluate", unit="batch"):
            with accelerator.autocast():
                image, text = plain.encode(batch)
                no_image, no_text = (replace(half, present=torch.zeros_like(half.present)) for half in (image, text))
                views = {"both": (image, text), "text_only": (no_image, text), "image_only": (image, no_text)}
                outputs = {name: plain.fuse(*views[name]) for name in names}
            found = {name: widen(output.logits) for name, output in outputs.items()}
            found |= {"labels": batch["labels"], "present": torch.stack([image.present, text.present], dim=1)}
            found["number"] = torch.tensor(batch["rows"])
            parts.append({name: tensor.cpu() for name, tensor in found.items()})
            numbers += batch["rows"]
    return gather_parts(parts, numbers, accelerator)
