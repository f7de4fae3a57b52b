"""What trains when, and how fast: parts that are unfrozen later, learning rates that shrink towards the input.

All of it follows from the run's configuration and the epoch or step, so that a resumed run needs nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch.nn import Parameter
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from ...encoders.trainable import Encoder
from ..model.model import DiptychModel
from .config import TrainConfig

WORDS_RATE = 200.0
"""Learning rate of the scores of words, by plain gradients that are not clipped: their bags are sparse and of length 1.
A rate for each number, as AdamW has it, gives rare words and classes the steps of frequent ones: fewer are right."""


def unfreeze(model: DiptychModel, config: TrainConfig, epoch: int) -> bool:
    """Freeze and unfreeze the parts of both trunks as they are in `epoch`; True if pretrained ones are unfrozen in it.

    Until `unfreeze_at` pretrained trunks are frozen; random ones train from the start, as they must.

    Raises:
        ValueError: A trunk has not that many parts, or random ones would be frozen.
    """
    joined = False
    for encoder, count in ((model.image_encoder, config.unfreeze_image), (model.text_encoder, config.unfreeze_text)):
        waits = encoder.pretrained and count != 0
        encoder.unfreeze(0 if waits and epoch < config.unfreeze_at else count)
        joined |= waits and epoch == config.unfreeze_at > 1
    return joined


def trains_from(encoder: Encoder, count: int | None, config: TrainConfig) -> int | None:
    """The epoch from which some part of a trunk trains, of which `count` are to; None if none ever does."""
    if not encoder.pretrained:
        return 1
    return None if count == 0 else config.unfreeze_at


def parameter_groups(model: DiptychModel, config: TrainConfig) -> list[dict[str, Any]]:
    """What trains sooner or later, grouped by part of the model and by whether its weights decay.

    Pretrained trunks learn at `encoder_learning_rate` at their top, and at `layer_decay` times the rate of
    the part above below it (Howard and Ruder, ULMFiT, 2018); everything else at `learning_rate`. A group
    has a `name`, and `unfrozen_at`: the epoch from which it trains. Until then its parameters get no gradient, so
    that AdamW neither moves them nor keeps moments of them; these begin, corrected for it, when they are unfrozen.

    Args:
        model: With every part unfrozen that is ever to train, as in the last epoch.
    """
    rates, starts = {}, {}
    for trunk, encoder in (("image", model.image_encoder), ("text", model.text_encoder)):
        if encoder.pretrained:
            for depth, (name, _) in enumerate(reversed(encoder.parts())):
                rates[f"{trunk}.{name}"] = config.encoder_learning_rate * config.layer_decay**depth
                starts[f"{trunk}.{name}"] = config.unfreeze_at
    groups = []
    for name, modules in model.parts():
        parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
        options = {"lr": rates.get(name, config.learning_rate), "name": name, "unfrozen_at": starts.get(name, 1)}
        if name == "words":  # next to 1 the second moment is nothing: AdamW is then gradient descent with momentum
            options |= {"lr": WORDS_RATE, "eps": 1.0}
        for is_matrix in (True, False):
            chosen = [p for p in parameters if (p.dim() > 1) == is_matrix]
            decay = config.weight_decay if is_matrix and name != "words" else 0.0
            if chosen:
                groups.append({"params": chosen, "weight_decay": decay, **options})
    return groups


def clipped(optimizer: Any) -> list[Parameter]:
    """The parameters whose gradients are clipped: all but the scores of words, which are no part of a deep network."""
    return [p for group in optimizer.param_groups if group["name"] != "words" for p in group["params"]]


def schedule(optimizer: Optimizer, *, steps: int, warmup: float, epochs: int) -> LambdaLR:
    """Learning rates that rise for a share of the steps and fall as a cosine; of a group unfrozen later, from then on.

    Args:
        optimizer: Of groups with `unfrozen_at`.
        steps: Of the optimizer, in all epochs.
        warmup: Share of the steps in which rates rise; of a group that is unfrozen later, of the steps left to it.
        epochs: Of equal numbers of steps.
    """

    def rise(step: int, start: int) -> float:
        length = round(warmup * (steps - start))
        return min(1.0, (step - start) / length) if length else 1.0

    def factor(start: int) -> Callable[[int], float]:
        begin = round(warmup * steps)

        def of(step: int) -> float:
            if step < start:
                return 0.0
            fall = 0.5 * (1 + math.cos(math.pi * max(0, step - begin) / max(1, steps - begin)))
            return max(0.0, fall) * rise(step, start)

        return of

    starts = [(group.get("unfrozen_at", 1) - 1) * steps // epochs for group in optimizer.param_groups]
    return LambdaLR(optimizer, [factor(start) for start in starts])
