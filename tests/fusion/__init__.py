"""What the tests of the fusions share: every fusion, and random tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeVar

import torch
from diptych.encoders import NullTokens, Tokens
from diptych.fusion import BilinearFusion, ConcatFusion, CrossModalFusion, MLPFusion, SelfAttentionFusion
from torch import Tensor, nn

Module = TypeVar("Module", bound=nn.Module)

BLOCKS: dict[str, Any] = {"layers": 2, "heads": 2, "hidden": 12, "dropout": 0.1}
PATTERNS: dict[str, dict[str, Any]] = {
    "dense": {},
    "sliding-window": {"window": 5},
    "global": {"global_tokens": (0, 2)},
    "sliding-window+global": {"window": 1, "global_tokens": (0, 2)},
}
FUSIONS: dict[str, tuple[type[nn.Module], dict[str, Any]]] = {
    "cross-modal": (CrossModalFusion, BLOCKS),
    "bilinear": (BilinearFusion, {"glimpses": 2, "rank": 6, "heads": 2, "hidden": 12, "dropout": 0.1}),
    "concat": (ConcatFusion, {}),
    "mlp": (MLPFusion, {"dropout": 0.1}),
} | {
    f"self-attention {pattern}": (SelfAttentionFusion, BLOCKS | {"pattern": pattern} | own)
    for pattern, own in PATTERNS.items()
}


def make_fusion(kind: str, dim: int, *, seed: int = 0, **options: Any) -> Any:
    """One of `FUSIONS`, in evaluation, with random weights none of which is at its start; gated if not said."""
    torch.manual_seed(seed)
    fusion, usual = FUSIONS[kind]
    return shake(fusion(dim, **(usual | {"gated": True} | options))).eval()


def random_tokens(lengths: list[int], tokens: int, dim: int, *, present: list[bool] | None = None) -> Tokens:
    """Random states of which the first `lengths[row]` of a row are real; padding is random too."""
    mask = torch.arange(tokens) < torch.tensor(lengths).unsqueeze(1)
    there = torch.ones(len(lengths), dtype=torch.bool) if present is None else torch.tensor(present)
    return Tokens(torch.randn(len(lengths), tokens, dim), mask, there)


UNEVEN_WEIGHTS = torch.tensor([[0.2, 0.8], [0.9, 0.1], [0.0, 1.0], [0.0, 1.0], [1.0, 0.0]])
"""Modality weights for `uneven_halves`; the third row shuts out an image that is there."""


def uneven_halves(dim: int, seed: int = 1) -> tuple[Tokens, Tokens]:
    """Five rows of up to 3 regions and 4 words: two are padded, the last two lack one half, which holds its null."""
    torch.manual_seed(seed)
    image = random_tokens([3, 2, 3, 3, 3], 3, dim, present=[True, True, True, False, True])
    text = random_tokens([4, 1, 2, 3, 4], 4, dim, present=[True, True, True, True, False])
    with torch.no_grad():
        return shake(NullTokens(dim))(image, text)


def rows_of(tokens: Tokens, order: Sequence[int]) -> Tokens:
    """These rows, in this order."""
    chosen = list(order)
    return Tokens(tokens.states[chosen], tokens.mask[chosen], tokens.present[chosen])


def refill(tokens: Tokens, what: float) -> Tokens:
    """Other numbers in the padded places."""
    return replace(tokens, states=torch.where(tokens.mask.unsqueeze(-1), tokens.states, what))


def lengthen(tokens: Tokens, more: int, what: float) -> Tokens:
    """More padding, that holds `what`."""
    states = nn.functional.pad(tokens.states, (0, 0, 0, more), value=what)
    return replace(tokens, states=states, mask=nn.functional.pad(tokens.mask, (0, more)))


def doubled(tokens: Tokens) -> Tokens:
    """The same in float64."""
    return replace(tokens, states=tokens.states.double())


def forced(image: float, text: float, batch: int = 3) -> Tensor:
    """The same modality weights for each row."""
    return torch.tensor([[image, text]] * batch)


def shake(module: Module) -> Module:
    """Move every parameter off its starting value: no norm is the identity, no bias and no score is 0."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return module
