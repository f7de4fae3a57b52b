"""What each modality contributed to an answer: exact Shapley values, from passes of the fusion alone."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ...encoders.tokens import Tokens
from .model import DiptychModel, DiptychOutput


def log_odds(logits: Tensor, labels: Tensor) -> Tensor:
    """Of one class of each row against all others, (batch,).

    Args:
        logits: (batch, classes), raw.
        labels: (batch,), class indices.
    """
    if logits.shape[1] == 1:
        return logits[:, 0]
    own = torch.nn.functional.one_hot(labels, logits.shape[1]).bool()
    rest = logits.masked_fill(own, float("-inf")).logsumexp(dim=1)
    return logits[own] - rest


def contributions(model: DiptychModel, image: Tokens, text: Tokens) -> tuple[DiptychOutput, Tensor]:
    """What the fusion makes of a batch, and Shapley values of image and text for the predicted class, (batch, 2).

    With v(S) the log-odds given the modalities S, a modality gets the mean of what it adds to nothing and of what it
    adds to the other (Shapley, 1953; for modalities Hu et al., SHAPE, 2022): both sum to v(both) - v(neither). An
    absent modality gets 0. A multi-label model has one for each class, of its own logit: (batch, 2, classes).

    All views pass the fusion as one batch, as they are few numbers beside its weights: for one pair that costs less
    than two passes.

    Args:
        model: With classes, in eval mode.
        image: (batch, regions, dim), as the image encoder gives them.
        text: (batch, words, dim), likewise.
    """
    count = len(image.present)
    nobody = torch.zeros_like(image.present)
    with torch.no_grad():
        output = model.fuse(
            _joined(image, [image.present, image.present, nobody, nobody[:1]]),
            _joined(text, [text.present, nobody, text.present, nobody[:1]]),
        )
    assert output.logits is not None
    own = DiptychOutput(
        logits=output.logits[:count],
        modality_weights=None if output.modality_weights is None else output.modality_weights[:count],
    )
    views = list(output.logits.float().split([count, count, count, 1]))
    there = torch.stack([image.present, text.present], dim=1)  # (batch, 2)
    views[3] = views[3].expand_as(views[0])
    if model.config.multi_label:
        there = there.unsqueeze(-1)
    else:
        predicted = views[0].argmax(dim=1)
        views = [log_odds(view, predicted) for view in views]
    both, with_image, with_text, empty = views
    of_image = (with_image - empty + both - with_text) / 2
    of_text = (with_text - empty + both - with_image) / 2
    return own, torch.stack([of_image, of_text], dim=1) * there


def _joined(tokens: Tokens, views: list[Tensor]) -> Tokens:
    """One batch of all views, each of the first rows of `tokens` and with a `present` of its own."""

    def rows(values: Tensor) -> Tensor:
        return torch.cat([values[: len(view)] for view in views])

    ids = None if tokens.ids is None else rows(tokens.ids)
    return replace(tokens, states=rows(tokens.states), mask=rows(tokens.mask), present=torch.cat(views), ids=ids)
