"""After the last epoch: the kept model is calibrated on validation rows."""

from __future__ import annotations

import math
from typing import Any

import torch

from ..evaluation.calibration import calibrate, calibration_metrics
from ..evaluation.drawing import TITLES, draw_reliability
from ..evaluation.evaluate import by_modality, collect, scored
from ..loading.loader import Batches
from ..model.config import DiptychConfig
from ..model.folder import load_model, save_model
from ..model.scores import scores
from .loop import Fit
from .objective import ENOUGH_TO_CALIBRATE, chooses_epoch

_SHOWN = {"nll": "NLL", "ece": "ECE", "brier": "Brier"}


def calibrate_run(fit: Fit, batches: Batches, *, seed: int, rows: int) -> dict[str, Any]:
    """Calibrate the model that a run has kept, and save it again.

    Args:
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
    logits, labels = ({name: both[place] for name, both in by_modality(kept).items()} for place in (0, 1))
    calibration = calibrate(logits, labels, model.config, seed=seed)
    if not calibration:
        fit.console.print(f"calibration: {len(kept['labels'])} validation rows are too few, so the scores stay raw")
        return {}
    raw = {name: scores(logits[name], model.config) for name in calibration}
    _keep_decisions(model.config, calibration)
    model.config.calibration = calibration
    after = scored(kept, model.config)
    report = {
        name: {
            "rows": len(before),
            "temperature": calibration[name]["temperature"],
            "each_class": "scale" in calibration[name],
            "before": calibration_metrics(before, labels[name]),
            "after": calibration_metrics(*after[name]),
        }
        for name, before in raw.items()
    }
    save_model(model, processor, fit.folder.model)
    drawn = {name: (before, after[name][0]) for name, before in raw.items()}
    draw_reliability(drawn, labels, fit.folder.reliability)
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
