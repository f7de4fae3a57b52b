"""After the last epoch: the kept model is calibrated on validation rows."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..evaluation.calibration import calibrate, calibration_metrics
from ..evaluation.drawing import TITLES, draw_reliability
from ..evaluation.evaluate import collect
from ..loading.loader import Batches
from ..model.calibration import MODALITIES
from ..model.config import DiptychConfig
from ..model.folder import load_model, save_model
from ..model.scores import scores
from .loop import Fit
from .objective import ENOUGH_TO_CALIBRATE, chooses_epoch

_SHOWN = {"nll": "NLL", "ece": "ECE", "brier": "Brier"}
_VIEWS = {"both": "both", "text": "text_only", "image": "image_only"}


def calibrate_run(fit: Fit, batches: Batches, *, seed: int, rows: int) -> dict[str, Any]:
    """Calibrate the model that a run has kept, and save it again.

    Args:
        fit: Of the run, which is over.
        batches: This process's, of the validation rows.
        seed: Of the run.
        rows: Of validation, in all processes.

    Returns:
        By modality: `rows`, `temperature`, `each_class`, whether classes are scaled one by one, and negative
        log-likelihood, ECE and Brier score `before` and `after`; nothing in all processes but the main one.
    """
    model, processor = load_model(fit.folder.model)
    kept = collect(model.to(fit.accelerator.device), batches, fit.accelerator, fit.console, each_half=True)
    if not fit.accelerator.is_main_process:
        return {}
    apart = rows >= ENOUGH_TO_CALIBRATE
    if apart:
        mine = torch.tensor([not chooses_epoch(seed, row) for row in kept["number"].tolist()])
        kept = {name: tensor[mine] for name, tensor in kept.items()}
    image, text = kept["present"].unbind(dim=1)
    has = {"both": image & text, "text": text, "image": image}
    logits = {name: kept[_VIEWS[name]][there] for name, there in has.items()}
    labels = {name: kept["labels"][there] for name, there in has.items()}
    calibration = calibrate(logits, labels, model.config, seed=seed)
    if not calibration:
        fit.console.print(f"calibration: {len(image)} validation rows are too few, so the scores stay raw")
        return {}
    raw = {name: scores(logits[name], model.config) for name in calibration}
    _keep_decisions(model.config, calibration)
    model.config.calibration = calibration
    drawn: dict[str, tuple[Tensor, Tensor]] = {}
    report: dict[str, Any] = {}
    for name, before in raw.items():
        after = scores(logits[name], model.config, torch.full((len(before),), MODALITIES.index(name)))
        drawn[name] = before, after
        report[name] = {
            "rows": len(before),
            "temperature": calibration[name]["temperature"],
            "each_class": "scale" in calibration[name],
            "before": calibration_metrics(before, labels[name]),
            "after": calibration_metrics(after, labels[name]),
        }
    save_model(model, processor, fit.folder.model)
    draw_reliability(drawn, labels, fit.folder.path / "reliability.png")
    which = "did not choose" if apart else "also chose"
    fit.console.print(f"calibration on validation rows that {which} the epoch; {fit.folder.path / 'reliability.png'}")
    for name, values in report.items():
        changes = (
            f"{_SHOWN[key]} {values['before'][key]:.3f} -> {values['after'][key]:.3f}" for key in values["after"]
        )
        each = "  (each class scaled)" if values["each_class"] else ""
        fit.console.print(f"  {TITLES[name]:15}{values['rows']:6} rows  {'  '.join(changes)}{each}")
    return report


def _keep_decisions(config: DiptychConfig, calibration: dict[str, Any]) -> None:
    """Move a multi-label model's thresholds with the scores, so that they decide as before."""
    if config.thresholds and "both" in calibration:
        temperatures = calibration["both"]["temperature"]
        config.set_thresholds([_moved(t, by) for t, by in zip(config.thresholds, temperatures, strict=True)])


def _moved(threshold: float, temperature: float) -> float:
    if not 0 < threshold < 1:
        return float(threshold)
    return 1 / (1 + math.exp(-math.log(threshold / (1 - threshold)) / temperature))
