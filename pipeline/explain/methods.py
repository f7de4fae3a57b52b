"""Attribution methods behind one interface: how much each place and each word piece speaks for a class."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from ...fusion.attention import Attention
from ..model.model import DiptychModel
from .integrated_gradients import integrated_gradients
from .removal import CELLS, Attribution, Pair, Target, logits_of, variants


def attention_gradient(model: DiptychModel, pair: Pair, target: Target) -> Attribution:
    """Attention times its gradient, through all layers (Chefer et al., Generic Attention Explainability, 2021).

    It knows only what speaks for the class. The pooling after the last layer is taken as a mean.

    Raises:
        ValueError: The fusion has no attention between tokens.
    """
    with torch.no_grad():
        image, text = model.encode(pair.batch)
    # states that ask for gradients: else those of a frozen model's maps would be none
    image, text = (replace(tokens, states=tokens.states.detach().requires_grad_()) for tokens in (image, text))
    maps: list[tuple[str, Tensor]] = []
    layers = {name: layer for name, layer in model.fusion.named_modules() if isinstance(layer, Attention)}
    hooks = [
        layer.register_forward_hook(lambda *call, name=name: maps.append((name.rpartition(".")[2], call[2][1])))
        for name, layer in layers.items()
    ]
    try:
        logits = logits_of(model, image, text, maps=True)
    finally:
        for hook in hooks:
            hook.remove()
    maps = [(name, weights) for name, weights in maps if weights is not None]
    if not maps:
        raise ValueError(
            f"the {model.config.fusion} fusion has no attention from token to token to explain by: choose "
            "integrated-gradients or occlusion"
        )
    slopes = torch.autograd.grad(target(logits).sum(), [weights for _, weights in maps])
    relevant: dict[str, list[Tensor]] = {}
    for (name, weights), slope in zip(maps, slopes, strict=True):  # (1, heads, queries, keys)
        relevant.setdefault(name, []).append((weights * slope)[0].clamp(min=0).mean(dim=0).detach())
    regions, pieces = _relevance(relevant, image.states.shape[1], text.states.shape[1])
    heat = _as_map(regions, image.grid or (1, len(regions)), pair) if pair.has_image else None
    words = None
    if pair.has_text:
        words = pieces[pair.words] if len(pieces) > 1 else pieces.expand(len(pair.words)) / len(pair.words)
    return Attribution(heat, words)


def occlusion(model: DiptychModel, pair: Pair, target: Target) -> Attribution:
    """What the score loses when a cell of the picture is greyed, or a word piece masked (Zeiler and Fergus, 2014)."""
    heat = words = None
    whole = target(variants(model, pair, None, torch.zeros(1, len(pair.words), dtype=torch.bool)))
    if pair.has_image:
        cells = torch.eye(CELLS * CELLS, dtype=torch.bool).view(-1, CELLS, CELLS)
        lost = torch.cat([whole - target(variants(model, pair, some, None)) for some in cells.split(64)])
        heat = _as_map(lost, (CELLS, CELLS), pair)
    if pair.has_text:
        words = whole - target(variants(model, pair, None, torch.eye(len(pair.words), dtype=torch.bool)))
    return Attribution(heat, words)


def _relevance(maps: dict[str, list[Tensor]], regions: int, words: int) -> tuple[Tensor, Tensor]:
    """Relevance of regions (regions,) and of words (words,) by what speaks for the class in the maps of each layer."""
    if "text_to_image" not in maps:  # one sequence of a summary, regions, words
        (layers,) = maps.values()
        rolled = torch.eye(1 + regions + words)
        for layer in layers:
            rolled = rolled + layer @ rolled
        return rolled[0, 1 : 1 + regions], rolled[0, 1 + regions :]
    of_regions, of_words = torch.eye(regions), torch.eye(words)  # to themselves
    in_regions, in_words = torch.zeros(regions, words), torch.zeros(words, regions)  # of the other modality
    for to_words, to_regions in zip(maps["image_to_text"], maps["text_to_image"], strict=True):
        new_regions = in_regions + of_regions.T @ to_words @ of_words
        new_words = in_words + of_words.T @ to_regions @ of_regions
        of_regions, of_words = of_regions + to_words @ in_words, of_words + to_regions @ in_regions
        in_regions, in_words = new_regions, new_words
    return (
        in_words.mean(dim=0) + of_regions.mean(dim=0) - 1 / regions,
        in_regions.mean(dim=0) + of_words.mean(dim=0) - 1 / words,
    )


def _as_map(values: Tensor, grid: tuple[int, int], pair: Pair) -> Tensor:
    """Values of the cells of a grid (cells,) as a map (height, width) of the pixels, with the same sum."""
    size = pair.batch["pixel_values"].shape[-2:]
    heat = F.interpolate(values.detach().view(1, 1, *grid), size=size, mode="bicubic", align_corners=False)[0, 0]
    return heat * (len(values) / heat.numel())


METHODS: dict[str, Callable[[DiptychModel, Pair, Target], Attribution]] = {
    "integrated-gradients": integrated_gradients,
    "attention": attention_gradient,
    "occlusion": occlusion,
}
"""The first is the default: it was measured more faithful (`diptych explain MODEL --faithfulness DATA`)."""
