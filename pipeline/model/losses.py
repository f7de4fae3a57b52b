"""The loss of the classes, and how it weighs them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ...encoders.tokens import widen
from ...fusion.processes import mean_over_processes


@dataclass(frozen=True)
class ClassLoss:
    """Cross-entropy of each row's class; of multi-label rows, binary cross-entropy of each class.

    With q the target smoothed by `smoothing` e (of K classes, (1 - e) for the row's own plus e / K for
    each; of a multi-label class, 1 - e / 2 for yes and e / 2 for no), p the scores, g = `focal_gamma` and
    w the weight of what the row really is, whatever the smoothing:

        one label a row:  w[y] * sum over c of  q[c] * (1 - p[c])**g * -log p[c]
        a class of several:  w * (q * (1 - p)**g * -log p  +  (1 - q) * p**g * -log(1 - p))

    and the mean of that over the rows (and classes). It is divided by the number of rows, not by the sum
    of their weights, and where processes share a batch by their mean number of rows: the mean over processes
    is then the loss of the one batch. Balanced weights have a mean of 1 over the training rows. At 0, 0 and None
    it is plain cross-entropy.

    Attributes:
        multi_label: Whether each class is a question of its own.
        weights: (classes,), or (2, classes) of a multi-label class's absence and presence; None weighs all alike.
        focal_gamma: How much less rows count that are told well already (Lin et al., Focal loss, 2017).
        smoothing: Share of the target that is spread over all classes (Szegedy et al., 2016).
    """

    multi_label: bool = False
    weights: Tensor | None = None
    focal_gamma: float = 0.0
    smoothing: float = 0.0

    def __call__(self, logits: Tensor, labels: Tensor, *, shared: bool = False) -> Tensor:
        """The mean loss.

        Args:
            logits: (batch, classes), raw.
            labels: (batch,), class indices; of multi-label rows (batch, classes), 1 where a class is there.
            shared: Whether all processes call this, each with its rows of one batch, perhaps none.
        """
        logits = widen(logits)
        weights = None if self.weights is None else self.weights.to(logits)
        if self.multi_label:
            truth = labels.to(logits)  # (batch, classes)
            target = truth * (1 - self.smoothing) + self.smoothing / 2
            yes, no = F.logsigmoid(logits), F.logsigmoid(-logits)  # log p, log (1 - p)
            loss = -(target * self._easing(yes) * yes + (1 - target) * self._easing(no) * no)  # (batch, classes)
            loss = loss if weights is None else loss * torch.where(truth > 0, weights[1], weights[0])
            return loss.mean(dim=-1).sum() / _rows(labels, shared)
        target = F.one_hot(labels, logits.shape[-1]).to(logits)  # (batch, classes)
        target = target * (1 - self.smoothing) + self.smoothing / logits.shape[-1]
        log_p = logits.log_softmax(dim=-1)
        loss = -(target * self._easing(log_p) * log_p).sum(dim=-1)  # (batch,)
        return (loss if weights is None else loss * weights[labels]).sum() / _rows(labels, shared)

    def _easing(self, log_p: Tensor) -> Tensor | float:
        """The focal factor (1 - p)**g; above 0, where its slope would be infinite for g < 1."""
        return (-log_p.expm1()).clamp(min=1e-7) ** self.focal_gamma if self.focal_gamma else 1.0


def _rows(labels: Tensor, shared: bool) -> Tensor:
    """How many rows there are; of a shared batch the mean over the processes."""
    rows = torch.tensor(float(len(labels)), device=labels.device)
    return mean_over_processes(rows) if shared else rows


def balanced_weights(counts: Tensor) -> Tensor:
    """Weights by which every class counts the same, as scikit-learn's `balanced`; their mean over the rows is 1.

    Args:
        counts: Rows of each class, (classes,); or (2, classes), without and with each class.

    Returns:
        As many: rows / (classes that occur * rows of the class), of two rows for each class by itself. 1 for what
        does not occur.
    """
    counts = counts.double()
    occurring, rows = (counts > 0).sum(dim=0), counts.sum(dim=0)
    return torch.where(counts > 0, rows / (occurring * counts), 1.0).float()
