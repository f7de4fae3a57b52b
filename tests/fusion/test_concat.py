"""The two late fusions: the article's model, against a transcription of it, and the small MLP."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
from diptych.encoders import Tokens
from diptych.fusion import ConcatFusion, MLPFusion
from torch import Tensor, nn

from . import forced, random_tokens, shake

DIM = 16


class Article(nn.Module):
    """The article's model as it stands there: two pooled 512-d vectors in, two logits out."""

    def __init__(self) -> None:
        super().__init__()
        self.image_linear = nn.Linear(512, 512)
        self.image_norm = nn.LayerNorm(512)
        self.text_linear = nn.Linear(512, 512)
        self.text_norm = nn.LayerNorm(512)
        self.dropout = nn.Dropout(0.1)
        self.attention = nn.MultiheadAttention(1024, num_heads=8, dropout=0.1, batch_first=True)
        self.classifier = nn.Linear(1024, 2)

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        image = self.dropout(self.image_norm(self.image_linear(image)))
        text = self.dropout(self.text_norm(self.text_linear(text)))
        combined = torch.cat([image, text], dim=1)
        sequence = combined.unsqueeze(1)
        attended, _ = self.attention(sequence, sequence, sequence)
        return self.classifier(combined + attended.squeeze(1))


@pytest.fixture(scope="module")
def models() -> tuple[ConcatFusion, nn.Linear, Article]:
    """Ours and the article's, with the same weights."""
    torch.manual_seed(0)
    ours, head, article = shake(ConcatFusion(512)), shake(nn.Linear(2 * 512, 2)), Article()
    for mine, its in (
        (ours.image[0], article.image_linear),
        (ours.image[1], article.image_norm),
        (ours.text[0], article.text_linear),
        (ours.text[1], article.text_norm),
        (ours.attention, article.attention),
        (head, article.classifier),
    ):
        its.load_state_dict(mine.state_dict())
    return ours, head, article


def one_token(vectors: Tensor) -> Tokens:
    """Tokens of which `vectors` (batch, dim) are the means."""
    rows = len(vectors)
    return Tokens(vectors.unsqueeze(1), torch.ones(rows, 1, dtype=torch.bool), torch.ones(rows, dtype=torch.bool))


def test_concat_has_the_articles_parameters(models):
    ours, head, article = models
    mine = [tuple(p.shape) for p in (*ours.parameters(), *head.parameters())]
    assert sorted(mine) == sorted(tuple(p.shape) for p in article.parameters())
    assert len(mine) == 14
    # three projections and an output of 1,024, two of 512, two norms, a classifier; all with biases
    expected = 4 * (1024 * 1024 + 1024) + 2 * (512 * 512 + 512) + 2 * 2 * 512 + (1024 * 2 + 2)
    assert sum(p.numel() for module in (ours, head) for p in module.parameters()) == expected


def test_concat_gives_the_articles_logits(models):
    ours, head, article = (module.eval() for module in models)
    torch.manual_seed(1)
    image, text = torch.randn(2, 512), torch.randn(2, 512)
    logits = head(ours(one_token(image), one_token(text)).features)
    assert logits.shape == torch.Size([2, 2])
    torch.testing.assert_close(logits, article(image, text), atol=1e-5, rtol=1e-5)


def test_concat_drops_what_the_article_drops_in_training(models):
    """The same seed gives the same logits: three dropouts, of 0.1, in the same order."""
    ours, head, article = (module.train() for module in models)
    torch.manual_seed(1)
    image, text = torch.randn(2, 512), torch.randn(2, 512)
    torch.manual_seed(2)
    logits = head(ours(one_token(image), one_token(text), return_attentions=True).features)
    torch.manual_seed(2)
    torch.testing.assert_close(logits, article(image, text), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(logits, head(ours.eval()(one_token(image), one_token(text)).features))


def test_concat_pools_real_tokens_by_their_mean(models):
    ours, head, article = (module.eval() for module in models)
    torch.manual_seed(1)
    image, text = random_tokens([4, 4], 4, 512), random_tokens([2, 3], 3, 512)
    pooled_image = image.states.mean(dim=1)
    pooled_text = torch.stack([text.states[0, :2].mean(dim=0), text.states[1].mean(dim=0)])
    logits = head(ours(image, text).features)
    torch.testing.assert_close(logits, article(pooled_image, pooled_text), atol=1e-5, rtol=1e-5)


def test_in_eval_concats_attention_weights_are_all_exactly_one():
    torch.manual_seed(0)
    fusion = shake(ConcatFusion(DIM)).eval()
    fused = fusion(random_tokens([4] * 3, 4, DIM), random_tokens([5] * 3, 5, DIM), return_attentions=True)
    assert torch.equal(fused.attentions["joint"], torch.ones(3, 1, 8, 1, 1))
    assert fused.modality_weights.tolist() == [[0.5, 0.5]] * 3


def test_concats_attention_is_a_linear_layer():
    """A weighing over one key weighs nothing: what is added is an affine map of the concatenation."""
    torch.manual_seed(0)
    fusion = shake(ConcatFusion(DIM)).eval()
    image, text = random_tokens([4] * 3, 4, DIM), random_tokens([5] * 3, 5, DIM)
    both = torch.cat([fusion.image(image.mean()), fusion.text(text.mean())], dim=1)
    attention = fusion.attention
    value = both @ attention.in_proj_weight[4 * DIM :].T + attention.in_proj_bias[4 * DIM :]
    expected = both + attention.out_proj(value)
    torch.testing.assert_close(fusion(image, text).features, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("return_attentions", [False, True])
def test_mlp_sees_one_vector_per_half_and_no_order(return_attentions):
    torch.manual_seed(0)
    fusion = shake(MLPFusion(DIM, dropout=0.1)).eval()
    image, text = random_tokens([4, 4], 4, DIM), random_tokens([2, 5], 5, DIM)
    fused = fusion(image, text, return_attentions=return_attentions)
    shuffled = replace(image, states=image.states[:, [2, 0, 3, 1]])
    torch.testing.assert_close(fusion(shuffled, text).features, fused.features, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(fusion(one_token(image.mean()), one_token(text.mean())).features, fused.features)
    assert fused.features.shape == (2, fusion.out_dim) == (2, DIM)
    assert fused.attentions == {}


def test_mlp_depends_on_both_halves():
    torch.manual_seed(0)
    fusion = shake(MLPFusion(DIM, dropout=0.1)).eval()
    image, text = random_tokens([4, 4], 4, DIM), random_tokens([2, 5], 5, DIM)
    other_image, other_text = random_tokens([4, 4], 4, DIM), random_tokens([2, 5], 5, DIM)
    features = fusion(image, text).features
    assert (fusion(other_image, text).features - features).abs().amax(dim=1).min() > 1e-3
    assert (fusion(image, other_text).features - features).abs().amax(dim=1).min() > 1e-3
    assert (fusion(text, image).features - features).abs().max() > 1e-3  # and on which is which


LATE = pytest.mark.parametrize("kind", [ConcatFusion, partial(MLPFusion, dropout=0.1)], ids=["concat", "mlp"])


def test_only_mlp_learns_modality_weights_unless_it_is_said():
    assert not list(ConcatFusion(DIM).gate.parameters())
    assert list(MLPFusion(DIM, dropout=0.1).gate.parameters())


@LATE
def test_weights_multiply_the_halves_and_equal_ones_change_nothing(kind):
    """Twice its weight: a half of weight 0.5 comes in as it is."""
    torch.manual_seed(0)
    fusion = shake(kind(DIM)).eval()
    image, text = random_tokens([4] * 3, 4, DIM), random_tokens([5] * 3, 5, DIM)
    entries = []
    into = fusion.attention if isinstance(fusion, ConcatFusion) else fusion.network
    into.register_forward_pre_hook(lambda module, args: entries.append(args[0].reshape(3, 2, DIM)))
    for weights in (forced(0.5, 0.5), forced(0.1, 0.9), forced(1.0, 0.0)):
        fusion(image, text, modality_weights=weights)
        torch.testing.assert_close(entries[-1], entries[0] * 2 * weights.unsqueeze(-1))
    assert entries[0].abs().amax(dim=-1).min() > 0


@LATE
def test_in_a_row_that_lacks_a_half_nothing_is_weighed(kind):
    torch.manual_seed(0)
    fusion = shake(kind(DIM)).eval()
    image, text = random_tokens([4] * 2, 4, DIM), random_tokens([5] * 2, 5, DIM)
    lacking = replace(image, present=torch.tensor([False, True]))
    features = fusion(lacking, text, modality_weights=torch.tensor([[0.0, 1.0], [0.2, 0.8]])).features
    equal = fusion(image, text, modality_weights=forced(0.5, 0.5, 2)).features
    torch.testing.assert_close(features[0], equal[0])
    assert (features[1] - equal[1]).abs().max() > 1e-3


@pytest.mark.parametrize("heads", [0, 3])
def test_heads_that_do_not_divide_the_concatenation_are_refused(heads):
    with pytest.raises(ValueError, match=f"heads is {heads}; .* twice the hidden size, 32"):
        ConcatFusion(DIM, heads=heads)
