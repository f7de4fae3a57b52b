"""Packing leaves padding out and nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from diptych.fusion import packing
from diptych.fusion.packing import Packing
from hypothesis import given, settings
from hypothesis import strategies as st

from . import make_fusion, random_tokens

DIM = 16
LENGTHS = st.lists(st.integers(1, 6), min_size=1, max_size=5)


@settings(deadline=None, max_examples=30)
@given(lengths=LENGTHS)
def test_real_tokens_come_out_where_they_went_in_and_0_elsewhere(lengths):
    tokens = random_tokens(lengths, 6, DIM)
    found = Packing(tokens.mask)
    packed = found.pack(tokens.states)
    assert torch.equal(found.pad(packed), tokens.states * tokens.mask.unsqueeze(-1))
    if sum(lengths) < tokens.mask.numel():
        assert torch.equal(packed, tokens.states[tokens.mask])
    else:
        assert packed is tokens.states


@settings(deadline=None, max_examples=10)
@given(images=LENGTHS, seed=st.integers(0, 1000))
def test_a_fusion_gives_the_same_with_and_without(images, seed):
    """Features, maps and gradients; some images are absent halves: one token, and padding."""
    torch.manual_seed(seed)
    fusion = make_fusion("cross-modal", DIM, layers=2).double()
    image = random_tokens(images, 6, DIM)
    text = random_tokens(images[::-1], 6, DIM)
    results = []
    for moves in (True, False):
        states = [tokens.states.double().requires_grad_() for tokens in (image, text)]
        with pytest.MonkeyPatch.context() as patch:
            if not moves:
                patch.setattr(packing.torch.compiler, "is_compiling", lambda: True)
            fused = fusion(replace(image, states=states[0]), replace(text, states=states[1]), return_attentions=True)
        gradients = torch.autograd.grad(
            fused.features.square().sum(), [*states, *fusion.parameters()], allow_unused=True
        )
        maps = [m * image.mask[:, None, None, :, None] for m in [fused.attentions["image_to_text"]]]
        maps += [m * text.mask[:, None, None, :, None] for m in [fused.attentions["text_to_image"]]]
        results.append([fused.features, *maps, *(g for g in gradients if g is not None)])
    for one, two in zip(*results, strict=True):
        torch.testing.assert_close(one, two)
