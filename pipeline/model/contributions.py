"""What each modality contributed to an answer: exact Shapley values, from passes of the fusion alone."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ...encoders.tokens import Tokens
from .model import DiptychModel


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


def contributions(model: DiptychModel, image: Tokens, text: Tokens, logits: Tensor) -> Tensor:
    """Shapley values of image and text for the log-odds of the predicted class, (batch, 2).

    With v(S) the log-odds given the modalities S, a modality gets the mean of what it adds to nothing and of what it
    adds to the other (Shapley, 1953; for modalities Hu et al., SHAPE, 2022): both sum to v(both) - v(neither). An
    absent modality gets 0. A multi-label model has one for each class, of its own logit: (batch, 2, classes).

    Args:
        model: With classes, in eval mode.
        image: (batch, regions, dim), as the image encoder gives them.
        text: (batch, words, dim), likewise.
        logits: (batch, classes), what the fusion makes of both.
    """
    with torch.no_grad():
        image_only = _logits(model, image, _without(text))
        text_only = _logits(model, _without(image), text)
        neither = _logits(model, _without(_first(image)), _without(_first(text))).expand_as(logits)
    there = torch.stack([image.present, text.present], dim=1)  # (batch, 2)
    logits = logits.float()
    if model.config.multi_label:
        both, with_image, with_text, empty = logits, image_only, text_only, neither
        there = there.unsqueeze(-1)
    else:
        predicted = logits.argmax(dim=1)
        both, with_image, with_text, empty = (
            log_odds(some, predicted) for some in (logits, image_only, text_only, neither)
        )
    of_image = (with_image - empty + both - with_text) / 2
    of_text = (with_text - empty + both - with_image) / 2
    return torch.stack([of_image, of_text], dim=1) * there


def _logits(model: DiptychModel, image: Tokens, text: Tokens) -> Tensor:
    output = model.fuse(image, text)
    assert output.logits is not None
    return output.logits.float()


def _without(tokens: Tokens) -> Tokens:
    return replace(tokens, present=torch.zeros_like(tokens.present))


def _first(tokens: Tokens) -> Tokens:
    ids = None if tokens.ids is None else tokens.ids[:1]
    return replace(tokens, states=tokens.states[:1], mask=tokens.mask[:1], present=tokens.present[:1], ids=ids)
