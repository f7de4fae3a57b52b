"""How much each expert of a model counts, fitted on validation rows at the end of an epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from ...encoders.trainable import evaluating
from ..loading.plan import gather_parts

MOST = 2000
"""Rows that are enough for eight numbers."""


@torch.no_grad()
def fit_experts(
    model: Any,
    batches: Iterable[dict[str, Any]],
    accelerator: Accelerator,
    chooses: Callable[[int], bool] | None = None,
) -> None:
    """Fit the experts of a model, if it has any, on the first `MOST` rows of `batches`.

    Args:
        model: Prepared by `accelerator`; changed in place, alike in all processes.
        batches: This process's rows to validate with.
        chooses: Of a row's number, whether it is one to fit on, and not to calibrate on; all are if not given.
    """
    plain = accelerator.unwrap_model(model)
    if plain.experts is None:
        return
    parts: list[dict[str, Tensor]] = []
    numbers: list[int] = []
    with evaluating(model):
        for batch in batches:
            with accelerator.autocast():
                evidence, opinions = plain.evidence(*plain.encode(batch))
            part = {"evidence": evidence.transpose(0, 1), "scores": opinions.scores.float().transpose(0, 1)}
            mine = torch.tensor([chooses is None or chooses(row) for row in batch["rows"]], dtype=torch.bool)
            parts.append({**part, "present": opinions.present, "labels": batch["labels"], "mine": mine})
            numbers += batch["rows"]
            if len(numbers) * accelerator.num_processes >= MOST:
                break
    kept = {name: tensor.to(plain.device) for name, tensor in gather_parts(parts, numbers, accelerator).items()}
    usable = kept["present"].any(dim=1) & kept["mine"]
    evidence, scores = (kept[name][usable].transpose(0, 1) for name in ("evidence", "scores"))
    plain.experts.fit(evidence, scores, kept["present"][usable], kept["labels"][usable], plain.class_loss)
