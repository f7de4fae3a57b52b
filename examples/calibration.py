"""How far scores can be trusted: calibration, abstaining and label sets of finished runs, on rows that nobody saw.

    python examples/calibration.py RUN [RUN ...] --data DATA

Each RUN was calibrated on the validation split of DATA; all is judged on its test split, with both modalities, the
text only and the image only. The range beside the expected calibration error (15 bins of equal mass) is what 95 % of
10,000 simulations give that draw labels from the model's own calibrated probabilities. Who abstains is chosen as
`--precision 0.90` does, by the calibration that is saved with the model. Sets at 90 % are made 200 times, each time of
validation and test rows shuffled and split again: temperature and limit from one part, coverage and size on the other.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from diptych import load_model
from diptych.pipeline.data.labels import label_ids
from diptych.pipeline.data.read import read_data
from diptych.pipeline.data.splits import pick_split
from diptych.pipeline.evaluation.calibration import (
    calibration_metrics,
    confidences,
    expected_calibration_error,
    fit_temperature,
)
from diptych.pipeline.evaluation.evaluate import collect
from diptych.pipeline.evaluation.worth import wilson
from diptych.pipeline.feature_cache.encode import RowsToEncode, encode_images, encode_texts
from diptych.pipeline.feature_cache.folder import cache_folder
from diptych.pipeline.loading.dataset import PairDataset
from diptych.pipeline.loading.loader import batches_once
from diptych.pipeline.model.calibration import MODALITIES, precision_threshold, rounded, set_limit
from diptych.pipeline.model.scores import scores
from torch import Tensor

Rows = dict[str, tuple[Tensor, Tensor]]
"""Raw logits and labels by modality."""
PRECISION, LEVEL = 0.90, 0.90


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--cache-dir", help="Of features, as for training")
    parser.add_argument("--simulations", type=int, default=10_000)
    parser.add_argument("--resplits", type=int, default=200)
    options = parser.parse_args()
    lines = [line for run in options.runs for line in judge(run, options)]
    print("| run | modality | NLL before | after | change | ECE after | by chance | Brier | accuracy before | after |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for line in lines:
        print(
            "| {run} | {modality} | {nll[0]:.4f} | {nll[1]:.4f} | {change:+.4f} | {ece:.3f} | {low:.3f} to {high:.3f} "
            "| {brier[0]:.4f} -> {brier[1]:.4f} | {accuracy[0]:.2%} | {accuracy[1]:.2%} |".format(**line)
        )
    print(f"\n| run | modality | right of answered at {PRECISION} | answered | sets at {LEVEL} hold it | size |")
    print("|---|---|---|---|---|---|")
    for line in lines:
        print("| {run} | {modality} | {precision} | {answered} | {held:.1%} | {size:.2f} |".format(**line))
    print(f"\n{summary(lines)}")


def judge(run: Path, options: Any) -> Iterator[dict[str, Any]]:
    """What is printed of a run, a line for each modality."""
    model, processor = load_model(run)
    config = model.config
    if not config.calibration:
        raise SystemExit(f"{run} is not calibrated")
    validation, test = (
        logits_of(model, processor, options.data, split, cache_folder(options.cache_dir))
        for split in ("validation", "test")
    )
    rng = np.random.default_rng(0)
    for number, name in enumerate(MODALITIES):
        logits, labels = test[name]
        before = logits.softmax(1)
        after = scores(logits, config, torch.full((len(logits),), number))
        metrics = calibration_metrics(before, labels), calibration_metrics(after, labels)
        confidence, right = confidences(after, labels)
        simulated = simulated_errors(confidence, rng, options.simulations)
        answered = np.array([*map(rounded, confidence)]) >= precision_threshold(config, name, PRECISION)
        held, size = resplit(config, name, validation[name], test[name], rng, options.resplits)
        yield {
            "run": run.name,
            "modality": {"both": "both", "text": "text only", "image": "image only"}[name],
            "nll": [one["nll"] for one in metrics],
            "change": metrics[1]["nll"] - metrics[0]["nll"],
            "ece": metrics[1]["ece"],
            "low": np.quantile(simulated, 0.025),
            "high": np.quantile(simulated, 0.975),
            "brier": [one["brier"] for one in metrics],
            "accuracy": [float((one.argmax(1) == labels).float().mean()) for one in (before, after)],
            "right": float(right[answered].mean()) if answered.any() else None,
            "precision": share(right[answered]),
            "answered": share(answered),
            "held": held,
            "size": size,
        }


def logits_of(model: Any, processor: Any, data: str, split: str, cache: Path) -> Rows:
    """Raw logits of a split, of rows that have what the modality takes; frozen encoders by their cached features."""
    read = read_data(data, pick=partial(pick_split, split=split, default=split), known=model.config.columns)
    labels = label_ids(read.table, str(read.columns.label), model.config.labels)
    dataset = PairDataset(read.table, read.columns, labels, processor)
    wanted = [RowsToEncode(read.table, read.columns, range(len(labels)))]
    images, texts = (encode(model, processor, wanted, cache) for encode in (encode_images, encode_texts))
    dataset = dataset.with_features(images and images[0], texts and texts[0])
    accelerator = Accelerator()
    kept = collect(model, batches_once(dataset, accelerator, batch_size=128), accelerator, each_half=True)
    image, text = kept["present"].unbind(dim=1)
    views = {"both": ("both", image & text), "text": ("text_only", text), "image": ("image_only", image)}
    return {name: (kept[view][there], kept["labels"][there]) for name, (view, there) in views.items()}


def simulated_errors(confidence: np.ndarray, rng: np.random.Generator, count: int) -> np.ndarray:
    """The expected calibration error of labels that are drawn from the calibrated scores, so that they are perfect."""
    drawn = rng.random((count, len(confidence))) < confidence
    return np.array([expected_calibration_error(confidence, right) for right in drawn])


def resplit(
    config: Any,
    name: str,
    validation: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    rng: np.random.Generator,
    count: int,
) -> tuple[float, float]:
    """Mean share of rows whose set holds their label, and mean size of the sets, over `count` new splits."""
    config = deepcopy(config)
    logits, labels = (torch.cat(parts).double() for parts in zip(validation, test, strict=True))
    labels = labels.long()
    found = []
    for _ in range(count):
        order = torch.from_numpy(rng.permutation(len(labels)))
        one, other = order[: len(validation[1])], order[len(validation[1]) :]
        temperature = fit_temperature(logits[one], labels[one])[0]
        strange = 1 - (logits / temperature).softmax(1)
        own = strange.gather(1, labels[:, None])[:, 0]
        known = {"score": [1.0], "least-ambiguous": own[one].tolist()}
        config.calibration = {name: known}
        limit = set_limit(config, name, LEVEL)
        found.append(
            (float((own[other] <= limit).double().mean()), float((strange[other] <= limit).sum(1).double().mean()))
        )
    held, size = np.mean(found, axis=0)
    return float(held), float(size)


def share(hits: np.ndarray) -> str:
    """A share with its 95 % interval (Wilson)."""
    if not len(hits):
        return "none"
    low, high = wilson(int(hits.sum()), len(hits))
    return f"{hits.mean():.1%} ({low:.1%} to {high:.1%})"


def summary(lines: list[dict[str, Any]]) -> str:
    """How many lines do what calibration is for."""
    both = [line for line in lines if line["modality"] == "both"]
    alone = [line for line in lines if line["modality"] != "both"]
    checks = {
        "log-likelihood better with both": [line["change"] < 0 for line in both],
        "at most 0.005 nats worse with one alone": [line["change"] <= 0.005 for line in alone],
        "calibration error within what chance gives": [line["low"] <= line["ece"] <= line["high"] for line in lines],
        "accuracy unchanged": [line["accuracy"][0] == line["accuracy"][1] for line in lines],
        "0.87 or more right of answered rows": [line["right"] is None or line["right"] >= 0.87 for line in lines],
        "sets hold the label of 88 to 92 %": [0.88 <= line["held"] <= 0.92 for line in lines],
    }
    return "\n".join(f"{name}: {sum(found)} of {len(found)}" for name, found in checks.items())


if __name__ == "__main__":
    main()
