"""Experts: evidence beside the fusion's, fitted on rows that nobody learned from, and weights that follow it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from diptych.encoders import NullTokens, Tokens
from diptych.fusion import Experts, Opinions
from diptych.fusion.experts import PAIRS, START
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from . import FUSIONS, make_fusion, random_tokens, shake

DIM, CLASSES, WORDS = 16, 3, 11


def make_experts(*, multi_label: bool = False, seed: int = 0) -> Experts:
    torch.manual_seed(seed)
    experts = shake(Experts(DIM, CLASSES, heads=2, dropout=0.1, vocabulary=WORDS, multi_label=multi_label)).eval()
    experts.set_prior(torch.tensor([[3, 5, 1], [5, 3, 7]]) if multi_label else torch.tensor([3, 5, 1]))
    return experts


def tokens_of(present: list[tuple[bool, bool]], seed: int = 1) -> tuple[Tokens, Tokens]:
    torch.manual_seed(seed)
    images, texts = (list(side) for side in zip(*present, strict=True))
    rows = len(present)
    text = random_tokens([3] * rows, 4, DIM, present=texts)
    image = random_tokens([4] * rows, 4, DIM, present=images)
    with torch.no_grad():
        return NullTokens(DIM)(image, replace(text, ids=torch.randint(WORDS, (rows, 4))))


def opinions_of(image: Tensor, text: Tensor) -> Opinions:
    """Opinions of which the scores are these, (rows, classes) each."""
    scores = torch.stack([image, text, torch.zeros_like(text)])
    return Opinions(scores, torch.ones(len(image), 2, dtype=torch.bool))


def fitted(image: Tensor, text: Tensor, labels: Tensor) -> tuple[Experts, Opinions]:
    """Experts without biases, fitted on these scores, the fusion's evidence being 0."""
    experts = Experts(DIM, CLASSES, heads=2, dropout=0.0, vocabulary=0)
    for layer in (experts.image, experts.text):
        torch.nn.init.zeros_(layer.bias)
    opinions = opinions_of(image, text)
    with torch.no_grad():
        weights = experts.weights(opinions)
        evidence = experts.evidence(torch.zeros_like(image), opinions, weights)
    experts.fit(evidence, opinions.scores, opinions.present, labels, F.cross_entropy)
    return experts, opinions


@pytest.mark.parametrize("multi_label", [False, True])
@settings(deadline=None, max_examples=15)
@given(present=st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=5), seed=st.integers(0, 99))
def test_weights_are_a_share_and_exactly_0_for_what_is_absent(multi_label, present, seed):
    experts = make_experts(multi_label=multi_label, seed=seed)
    experts.gate.copy_(torch.randn(3) * 10)
    weights = experts.weights(experts(*tokens_of(present, seed)))
    for row, there in zip(weights.tolist(), present, strict=True):
        if all(there):
            assert min(row) >= 0
            assert sum(row) == pytest.approx(1, abs=1e-6)
        else:
            assert row == [float(half) for half in there]


def test_weights_start_equal():
    experts = Experts(DIM, CLASSES, heads=2, dropout=0.1, vocabulary=WORDS)
    assert experts.weights(experts(*tokens_of([(True, True)] * 3))).tolist() == [[0.5, 0.5]] * 3


@pytest.mark.parametrize(("weights", "shut"), [([0.0, 1.0], 0), ([1.0, 0.0], 1)])
def test_at_weight_0_an_expert_is_gone_and_no_gradient_reaches_its_tokens(weights, shut):
    experts = make_experts()
    pair, others = tokens_of([(True, True)] * 3), tokens_of([(True, True)] * 3, seed=2)
    mixed = (others[0], pair[1]) if shut == 0 else (pair[0], others[1])
    pair[shut].states.requires_grad_()
    chosen, fused = torch.tensor([weights] * 3), torch.zeros(3, CLASSES)
    logits, other = (experts.combine(experts.evidence(fused, experts(*some), chosen)) for some in (pair, mixed))
    assert torch.equal(logits, other)
    logits.square().sum().backward()
    assert not pair[shut].states.grad.any()


def test_the_words_are_a_bag_of_length_1_whatever_stands_in_the_padding():
    experts, (image, text) = make_experts(), tokens_of([(True, True)])
    found = experts(image, text).scores[2, 0]
    ids = text.ids[0, :3]
    count = torch.bincount(ids, minlength=WORDS).float()
    by_hand = (experts.words.pieces.weight * (count / 3**0.5).unsqueeze(1)).sum(dim=0)  # each counts 1 / sqrt(3)
    first, second = ((a * 1_000_003 + b * 7_919) % PAIRS for a, b in ((ids[0], ids[1]), (ids[1], ids[2])))
    by_hand = by_hand + 0.5 * experts.words.pairs.weight[torch.stack([first, second])].sum(0) / 3**0.5
    torch.testing.assert_close(found, by_hand)
    text.ids[0, 3] = (text.ids[0, 3] + 1) % WORDS
    torch.testing.assert_close(experts(image, text).scores[2, 0], found)


def test_a_pair_of_words_says_more_than_its_words():
    experts, ids = make_experts(), torch.tensor([[1, 2, 3], [2, 1, 3]])
    one, other = experts.words(ids)
    assert not torch.allclose(one.sum(0), other.sum(0))
    torch.nn.init.zeros_(experts.words.pairs.weight)
    torch.testing.assert_close(*experts.words(ids).sum(1))
    assert torch.equal(one[0], experts.words.pieces.weight[1])  # the first has none before it


def test_logits_are_the_prior_and_weighed_evidence_by_hand():
    experts = make_experts()
    image, text = tokens_of([(True, True), (False, True)])
    opinions, weights = experts(image, text), torch.tensor([[0.3, 0.7], [0.0, 1.0]])
    fused = torch.randn(2, CLASSES)
    logits = experts.combine(experts.evidence(fused, opinions, weights))
    for row, scale in ((0, (0.6, 1.0)), (1, (0.0, 1.0))):
        parts = [fused[row], scale[0] * opinions.scores[0, row] + experts.image.bias]
        parts += [
            scale[1] * opinions.scores[1, row] + experts.text.bias,
            scale[1] * opinions.scores[2, row] + experts.prior,
        ]
        expected = experts.prior.clone()
        for count, part in zip(START, parts, strict=True):
            expected += count * (part.log_softmax(dim=-1) - experts.prior)
        torch.testing.assert_close(logits[row], expected)


def test_an_expert_that_knows_nothing_new_counts_little_and_one_that_knows_counts():
    torch.manual_seed(0)
    labels = torch.randint(CLASSES, (300,))
    said = torch.where(torch.rand(300) < 0.8, labels, torch.randint(CLASSES, (300,)))
    knows, guesses = 3.0 * F.one_hot(said, CLASSES), 3.0 * F.one_hot(torch.randint(CLASSES, (300,)), CLASSES)
    experts, opinions = fitted(guesses.float(), knows.float(), labels)
    assert experts.blend[1] < 0.1 < 0.7 < experts.blend[2]
    weights = experts.weights(opinions)
    assert weights[:, 0].mean() < 0.1  # the image says nothing of the labels
    assert (weights[:, 0] > 0.5).float().mean() < 0.02


def test_the_larger_weight_is_on_the_modality_that_knows_the_row():
    torch.manual_seed(0)
    labels = torch.randint(CLASSES, (400,))
    of_image = torch.arange(400) % 2 == 0
    truth = 4.0 * F.one_hot(labels, CLASSES)
    experts, opinions = fitted(truth * of_image.unsqueeze(1), truth * ~of_image.unsqueeze(1), labels)
    weights = experts.weights(opinions)
    assert ((weights[:, 0] > weights[:, 1]) == of_image).float().mean() > 0.99


def test_few_rows_change_nothing():
    experts, _ = fitted(torch.randn(5, CLASSES), torch.randn(5, CLASSES), torch.randint(CLASSES, (5,)))
    assert experts.blend.tolist() == pytest.approx(START)
    assert not experts.gate.any()


@pytest.mark.parametrize("kind", [kind for kind in FUSIONS if not kind.startswith("self-attention")])
@settings(deadline=None, max_examples=5)
@given(factor=st.sampled_from([0.1, 10.0, 1000.0]), seed=st.integers(0, 9))
def test_no_parameter_before_the_multiplication_changes_the_norm_of_what_is_multiplied(kind, factor, seed):
    fusion = make_fusion(kind, DIM, gated=False, fixed_norm=True, seed=seed)
    names = ["norm_image", "norm_text"] if hasattr(fusion, "norm_image") else ["image.1", "text.1"]
    for name in names:
        norm = fusion.get_submodule(name)
        assert not list(norm.parameters())
        seen: list[Tensor] = []
        norm.register_forward_hook(lambda _, __, out, seen=seen: seen.append(out.detach().norm(dim=-1)))
        image, text = tokens_of([(True, True)] * 3, seed)
        fusion(image, text)
        with torch.no_grad():
            for parameter in fusion.parameters():
                parameter.mul_(factor)
        fusion(image, text)
        with torch.no_grad():
            for parameter in fusion.parameters():
                parameter.div_(factor)
        assert float(seen[0].max()) <= DIM**0.5 + 1e-3
        torch.testing.assert_close(seen[0], seen[1], atol=0.05, rtol=0.02)
