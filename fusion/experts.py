"""Experts: what each modality says of the classes by itself, and how much that counts beside the fusion."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..encoders.tokens import Tokens
from .attention import AttentionPool

START: tuple[float, ...] = (0.5, 0.25, 0.5, 0.5)
"""What the evidence of fusion, image, text and words counts before anything was fitted."""

PAIRS = 1 << 15
"""Numbers that pairs of word pieces are hashed to."""
PAIR = 0.5
"""What a pair counts beside a word piece."""

MOST = 3.0
"""Logarithm of what an expert can count: 20 times its evidence."""

ENOUGH = 8
"""Rows from which on something is fitted."""


@dataclass(frozen=True)
class Opinions:
    """What the modalities say of each row by themselves.

    Attributes:
        scores: (3, batch, classes), of image, text and words, without what they start from.
        present: (batch, 2), image first.
    """

    scores: Tensor
    present: Tensor


class WordScores(nn.Module):
    """Scores of word pieces for each class: a piece's own, and that of it with the piece before it.

    Pairs are hashed (Joulin et al., fastText, 2016). All scores start as 0.

    Args:
        vocabulary: Number of word pieces.
        classes: Number of classes.
    """

    def __init__(self, vocabulary: int, classes: int) -> None:
        super().__init__()
        self.pieces, self.pairs = nn.Embedding(vocabulary, classes), nn.Embedding(PAIRS, classes)
        self.reset()

    def reset(self) -> None:
        """Nothing is known of any word."""
        for table in (self.pieces, self.pairs):
            nn.init.zeros_(table.weight)

    def forward(self, ids: Tensor) -> Tensor:
        """Scores (batch, words, classes) of word pieces (batch, words)."""
        scores: Tensor = self.pieces(ids)
        pairs = self.pairs((ids[:, :-1] * 1_000_003 + ids[:, 1:] * 7_919) % PAIRS)
        return scores + PAIR * F.pad(pairs, (0, 0, 1, 0))


class Experts(nn.Module):
    """A classifier for each modality, whose evidence is added to that of the fusion, and which gives the weights.

    The evidence of an expert is how far its log-probabilities are from the classes' shares of the training rows, the
    prior. The model's logits are a product of experts (Hinton, 2002):

        logits = prior + sum over fusion, image, text and words of  a[k] * (log p[k] - prior)

    Image and text are pooled and normed without a learned scale; the words are a bag of word pieces of length 1, each
    with a score for each class, and for it with the piece before it (`WordScores`; Wang and Manning, 2012): what a
    dense embedding blurs, such as the name of a brand.
    Each expert learns from its own loss. How much they count, `blend`, is fitted on rows that nobody learned from
    (`fit`): an expert that has memorised its training rows counts little.

    The image's weight is sigmoid(g . (e_image, e_text, 1)), with e the modality's evidence in nats, as its expert,
    calibrated on the same rows, gives it, expected under what both say together; g is fitted so that it is the share
    of the image in what both get right of a row beyond the prior (by calibrated confidence, as Zhang et al., QMF, 2023,
    and supervised by what each modality alone gets right). Gradients don't pass through it in training.

    Args:
        dim: Width of the tokens.
        classes: Number of classes.
        heads: Heads of the attention that pools each modality.
        dropout: On pooled vectors, in training.
        vocabulary: Number of word pieces; 0 has no expert for words.
        multi_label: Whether each class is a question of its own.
    """

    prior: Tensor
    blend: Tensor
    alone: Tensor
    gate: Tensor

    def __init__(
        self, dim: int, classes: int, *, heads: int, dropout: float, vocabulary: int, multi_label: bool = False
    ) -> None:
        super().__init__()
        self.dim, self.multi_label = dim, multi_label
        self.pool_image, self.pool_text = AttentionPool(dim, heads=heads), AttentionPool(dim, heads=heads)
        self.norm, self.dropout = nn.LayerNorm(dim, elementwise_affine=False), nn.Dropout(dropout)
        self.image, self.text = nn.Linear(dim, classes), nn.Linear(dim, classes)
        self.words = WordScores(vocabulary, classes) if vocabulary else None
        uniform = torch.zeros(classes)
        self.register_buffer("prior", uniform if multi_label else uniform.log_softmax(dim=-1))
        self.register_buffer("blend", torch.tensor(START))
        self.register_buffer("alone", torch.tensor(START[1:]))
        self.register_buffer("gate", torch.zeros(3))

    def forward(self, image: Tokens, text: Tokens) -> Opinions:
        """Opinions of region tokens (batch, regions, dim) and word tokens (batch, words, dim)."""
        image_vector = self.norm(self.pool_image(image.states, image.mask))
        text_vector = self.norm(self.pool_text(text.states, text.mask))
        image_bias, text_bias, _ = self._biases()
        scores = [
            self.image(self.dropout(image_vector)) - image_bias,
            self.text(self.dropout(text_vector)) - text_bias,
        ]
        scores.append(torch.zeros_like(scores[0]))
        if self.words is not None and text.ids is not None:
            count = (text.mask & text.present.unsqueeze(1)).to(scores[0].dtype)
            count = count / count.norm(dim=1, keepdim=True).clamp(min=1)
            scores[2] = (self.words(text.ids) * count.unsqueeze(-1)).sum(dim=1)
        return Opinions(torch.stack(scores), torch.stack([image.present, text.present], dim=1))

    def logits(self, opinions: Opinions) -> Tensor:
        """Of each expert by itself, (3, batch, classes): what its own loss is taken of."""
        return opinions.scores + self._biases()

    def weights(self, opinions: Opinions) -> Tensor:
        """Modality weights (batch, 2), image first: non-negative, of sum 1; an absent modality has exactly 0."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.training):
            gate = self.gate.float()
            image = torch.sigmoid(self._expected(opinions).float() @ gate[:2] + gate[2]).to(opinions.scores)
            weights = torch.stack([image, 1 - image], dim=1)
            both = opinions.present.all(dim=1, keepdim=True)
            return torch.where(both, weights, opinions.present.to(weights))

    def evidence(self, fused: Tensor, opinions: Opinions, weights: Tensor) -> Tensor:
        """What fusion, image, text and words add to the prior, (4, batch, classes).

        Args:
            fused: (batch, classes), logits of the fusion.
            opinions: Of the experts.
            weights: (batch, 2). They multiply what an expert's matrix reads: where both are present by
                twice the weight, at most by 1, what a modality has alone: it counts less only where the other has
                the larger weight.
        """
        both = opinions.present.all(dim=1, keepdim=True)
        scale = torch.where(both, (2 * weights).clamp(max=1), weights)  # (batch, 2)
        image, text = scale[:, :1], scale[:, 1:]
        scores = opinions.scores * torch.stack([image, text, text])
        return self._beyond_prior(torch.cat([fused.unsqueeze(0), scores + self._biases()]))

    def combine(self, evidence: Tensor) -> Tensor:
        """Logits (batch, classes) of the model from `evidence`."""
        return self.prior + (self.blend[:, None, None] * evidence).sum(dim=0)

    def set_prior(self, counts: Tensor) -> None:
        """Take the classes' shares of the training rows for the prior.

        Args:
            counts: Rows of each class, (classes,); of multi-label rows (2, classes), without and with each.
        """
        counts = counts.float() + 0.5
        prior = (counts[1] / counts[0]).log() if self.multi_label else (counts / counts.sum()).log()
        self.prior.copy_(prior)

    def resize_words(self, count: int) -> None:
        """Have scores for so many word pieces: those of new ones are 0."""
        if self.words is None or self.words.pieces.num_embeddings == count:
            return
        old = self.words.pieces.weight
        pieces = nn.Embedding(count, old.shape[1]).to(old)
        nn.init.zeros_(pieces.weight)
        with torch.no_grad():
            pieces.weight[: len(old)] = old[:count]
        self.words.pieces = pieces

    def take(self, other: Experts, classes: Mapping[int, int]) -> None:
        """Take what `other` has learned, of classes by their numbers here and there; its others are left."""
        with torch.no_grad():
            for name in ("pool_image", "pool_text"):
                getattr(self, name).load_state_dict(getattr(other, name).state_dict())
            for name in ("blend", "alone", "gate"):
                getattr(self, name).copy_(getattr(other, name))
            here, there = list(classes), list(classes.values())
            if self.multi_label == other.multi_label:
                self.prior[here] = other.prior[there]
            for layer, its in ((self.image, other.image), (self.text, other.text)):
                layer.weight[here], layer.bias[here] = its.weight[there], its.bias[there]
            if self.words is not None and other.words is not None:
                for name in ("pieces", "pairs"):
                    getattr(self.words, name).weight[:, here] = getattr(other.words, name).weight[:, there]

    def fit(
        self,
        evidence: Tensor,
        scores: Tensor,
        present: Tensor,
        labels: Tensor,
        loss: Callable[[Tensor, Tensor], Tensor],
    ) -> None:
        """Fit how much the evidence of each expert counts, and the gate, on rows that nobody learned from.

        Eight numbers, each fit convex or nearly so, and held to its start by as much as one row would; fewer than
        `ENOUGH` rows change nothing.

        Args:
            evidence: (4, rows, classes), as `evidence` gives it.
            scores: (3, rows, classes), of the `Opinions` of the same rows.
            present: (rows, 2), likewise.
            labels: (rows,), class indices; of multi-label rows (rows, classes).
            loss: Of logits (rows, classes) and labels; a scalar.
        """
        if len(labels) < ENOUGH:
            return
        prior = self.prior
        with torch.no_grad():
            own = self._beyond_prior(self.logits(Opinions(scores, present)))

        def scales(part: Tensor, rows: Tensor, start: tuple[float, ...]) -> Tensor:
            return _scales(part, prior.new_tensor(start), lambda weighed: loss(prior + weighed, labels[rows]))

        for rows, chosen in ((present[:, 0], slice(0, 1)), (present[:, 1], slice(1, 3))):
            if int(rows.sum()) >= ENOUGH:
                self.alone[chosen] = scales(own[chosen, rows], rows, START[1:][chosen])
        self.blend.copy_(scales(evidence, torch.ones_like(present[:, 0]), START))
        both = present.all(dim=1)
        if int(both.sum()) >= ENOUGH:
            self._fit_gate(own[:, both], Opinions(scores[:, both], present[both]), labels[both])

    def _fit_gate(self, own: Tensor, opinions: Opinions, labels: Tensor) -> None:
        """Fit the gate on rows that have both modalities; `own` (3, rows, classes) is what their experts say."""
        with torch.no_grad():
            expected = self._expected(opinions)
            right = torch.stack([_gained(part, self.prior, labels) for part in self._calibrated(own)])
            right = right.clamp(min=0)  # (2, rows): what each gets right of a row beyond the prior, in nats
            together = right.sum(dim=0)
            share = right[0] / together.clamp(min=1e-6)
        factors = torch.cat([expected, torch.ones_like(expected[:, :1])], dim=1)  # (rows, 3)

        def loss(gate: Tensor) -> Tensor:
            cross_entropy = F.binary_cross_entropy_with_logits(factors @ gate, share, reduction="none")
            return (together * cross_entropy).mean() + gate.square().sum() / len(share)

        self.gate.copy_(_minimise(loss, torch.zeros_like(self.gate)))

    def _biases(self) -> Tensor:
        """What the experts say of nothing, (3, 1, classes)."""
        nothing = self.prior.new_zeros(1, self.dim)  # not the layers' own biases: quantized layers have them elsewhere
        return torch.stack([self.image(nothing), self.text(nothing), self.prior.unsqueeze(0)])

    def _beyond_prior(self, logits: Tensor) -> Tensor:
        logits = logits.float()
        return (logits if self.multi_label else logits.log_softmax(dim=-1)) - self.prior

    def _calibrated(self, own: Tensor) -> tuple[Tensor, Tensor]:
        """Evidence of image and of text, (batch, classes) each, from `_beyond_prior` of the experts' own logits."""
        scaled = self.alone[:, None, None] * own
        return scaled[0], scaled[1] + scaled[2]

    def _expected(self, opinions: Opinions) -> Tensor:
        """Evidence of image and text, (batch, 2), in nats, expected under what both say together."""
        image, text = self._calibrated(self._beyond_prior(self.logits(opinions)))
        together = self.prior + image + text
        if self.multi_label:
            yes = together.sigmoid()
            gains = [
                (yes * _gain(own, self.prior) + (1 - yes) * _gain(-own, -self.prior)).sum(dim=-1)
                for own in (image, text)
            ]
        else:
            shares = together.softmax(dim=-1)
            gains = [(shares * _gain_of_one(own, self.prior)).sum(dim=-1) for own in (image, text)]
        return torch.stack(gains, dim=1)


def _gain(evidence: Tensor, prior: Tensor) -> Tensor:
    """How much likelier a yes is, in nats, of log-odds that rise by `evidence`."""
    return F.logsigmoid(prior + evidence) - F.logsigmoid(prior)


def _gain_of_one(evidence: Tensor, prior: Tensor) -> Tensor:
    """How much likelier each of all classes is, in nats."""
    return (prior + evidence).log_softmax(dim=-1) - prior.log_softmax(dim=-1)


def _scales(evidence: Tensor, start: Tensor, loss: Callable[[Tensor], Tensor]) -> Tensor:
    """What each of `evidence` (experts, rows, classes) counts, (experts,), for the least `loss` of its weighed sum."""
    rows = evidence.shape[1]

    def total(logs: Tensor) -> Tensor:
        weighed = (logs.clamp(max=MOST).exp()[:, None, None] * evidence).sum(dim=0)
        return loss(weighed) + (logs - start.log()).square().mean() / rows

    return _minimise(total, start.log()).clamp(max=MOST).exp()


def _minimise(loss: Callable[[Tensor], Tensor], start: Tensor) -> Tensor:
    """Where `loss` is least, from `start` on, by L-BFGS: a few numbers, so that it takes milliseconds."""
    with torch.enable_grad():
        found = start.clone().requires_grad_()
        optimizer = torch.optim.LBFGS([found], max_iter=50, tolerance_grad=1e-6, line_search_fn="strong_wolfe")

        def value() -> Tensor:
            optimizer.zero_grad()
            total = loss(found)
            total.backward()
            return total

        before = optimizer.step(value)
    after = loss(found.detach())
    return found.detach() if bool(after <= before) else start  # not if a step went where the loss is not a number


def _gained(evidence: Tensor, prior: Tensor, labels: Tensor) -> Tensor:
    """How much likelier each row's labels are, (rows,), in nats."""
    if labels.dim() == 2:
        truth = labels.to(evidence)
        return (truth * _gain(evidence, prior) + (1 - truth) * _gain(-evidence, -prior)).sum(dim=-1)
    return _gain_of_one(evidence, prior).gather(1, labels.unsqueeze(1)).squeeze(1)
