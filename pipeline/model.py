"""The model: encoders, fusion, logits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModel, PreTrainedModel, initialization
from transformers.utils import ModelOutput

from ..encoders import BertEncoder, NullTokens, ResNetEncoder
from ..encoders.trainable import Part, check_partition
from ..fusion import ConcatFusion, CrossModalFusion, Fused, MLPFusion, balance_loss, unimodal_loss
from .config import GATED, DiptychConfig


@dataclass
class DiptychOutput(ModelOutput):
    """What a forward pass gives.

    Attributes:
        loss: If labels were given: mean cross-entropy over the rows; in training with the terms that
            teach the modality weights.
        logits: (batch, classes), raw.
        modality_weights: (batch, 2), image first; None if the fusion has none.
        attentions: By name, (batch, layers, heads, queries, keys); None unless asked for.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    modality_weights: Tensor | None = None
    attentions: dict[str, Tensor] | None = None


class DiptychModel(PreTrainedModel):
    """ResNet regions and BERT words, fused and classified.

    `DiptychModel(config)` has random weights and needs no network; `diptych.build_model` starts from
    pretrained encoders; `from_pretrained` loads a saved model.

    Args:
        config: The architecture.
    """

    config_class = DiptychConfig
    base_model_prefix = "diptych"
    main_input_name = "pixel_values"
    supports_gradient_checkpointing = False
    _supports_sdpa = True

    def __init__(self, config: DiptychConfig) -> None:
        super().__init__(config)
        self.image_encoder = ResNetEncoder(config.image_encoder, dim=config.hidden_size)
        self.text_encoder = BertEncoder(config.text_config, dim=config.hidden_size)
        self.null_tokens = NullTokens(config.hidden_size, dropout=config.modality_dropout)
        self.fusion = build_fusion(config)
        self.head = nn.Linear(self.fusion.out_dim, config.num_labels)
        if config.fusion in GATED:  # what each half says alone: only training asks, to teach the gate
            self.half_heads = nn.ModuleList(nn.Linear(config.hidden_size, config.num_labels) for _ in range(2))
        self.post_init()

    def forward(
        self,
        pixel_values: Tensor,
        input_ids: Tensor,
        attention_mask: Tensor,
        image_present: Tensor | None = None,
        text_present: Tensor | None = None,
        labels: Tensor | None = None,
        *,
        modality_weights: Tensor | None = None,
        output_attentions: bool = False,
        return_dict: bool = True,
    ) -> DiptychOutput | tuple[Any, ...]:
        """Logits of each row.

        Args:
            pixel_values: (batch, 3, height, width), normalised; absent rows may hold anything.
            input_ids: (batch, words), real words first.
            attention_mask: (batch, words), 1 = a real word.
            image_present: (batch,), False in rows without an image; all are there if not given.
            text_present: (batch,), likewise.
            labels: (batch,), class indices, for a loss.
            modality_weights: (batch, 2), to be used in place of the gate's own.
            output_attentions: Whether to give the fusion's attention maps.
            return_dict: False gives a tuple without what is None.
        """
        image = self.image_encoder(pixel_values, image_present)  # Tokens (batch, regions, dim)
        text = self.text_encoder(input_ids, attention_mask, text_present)  # Tokens (batch, words, dim)
        image, text = self.null_tokens(image, text)
        fused = self.fusion(image, text, modality_weights=modality_weights, return_attentions=output_attentions)
        logits = self.head(fused.features)  # (batch, classes)
        loss = None
        if labels is not None:
            loss = self.training_loss(logits, fused, labels, torch.stack([image.present, text.present], dim=1))
        output = DiptychOutput(loss, logits, fused.modality_weights, fused.attentions or None)
        return output if return_dict else output.to_tuple()

    def training_loss(self, logits: Tensor, fused: Fused, labels: Tensor, present: Tensor) -> Tensor:
        """Mean cross-entropy; in training with the terms that teach the modality weights, if there are any.

        Args:
            logits: (batch, classes).
            fused: What the fusion gave for the same rows.
            labels: (batch,), class indices.
            present: (batch, 2), True where the row has an image, a text.
        """
        loss = F.cross_entropy(logits.float(), labels)
        if self.training and fused.modality_weights is not None and fused.summaries is not None:
            loss = loss + self.config.balance * balance_loss(fused.modality_weights, present)
            # detached: where a half alone says nothing, what it would learn from its own loss is noise
            summaries = fused.summaries.detach()
            half_logits = torch.stack([head(summaries[:, i]) for i, head in enumerate(self.half_heads)], dim=1)
            loss = loss + self.config.unimodal * unimodal_loss(half_logits, fused.modality_weights, labels, present)
        return loss

    def heads(self) -> list[nn.Linear]:
        """The layers whose width is the number of classes."""
        return [self.head, *getattr(self, "half_heads", [])]

    def parts(self) -> list[Part]:
        """Every parameter once, ordered from the input up: the trunks' parts, then what always trains."""
        parts: list[Part] = [(f"image.{name}", modules) for name, modules in self.image_encoder.parts()]
        parts += [(f"text.{name}", modules) for name, modules in self.text_encoder.parts()]
        parts.append(("projections", [self.image_encoder.projection, self.text_encoder.projection]))
        parts += [("fusion", [self.null_tokens, self.fusion]), ("head", list(self.heads()))]
        check_partition(self, parts)
        return parts

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """Load a saved model: arguments as for any transformers model. Its trunks count as pretrained."""
        kwargs.setdefault("dtype", torch.float32)
        loaded = super().from_pretrained(*args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        model.image_encoder.pretrained = model.text_encoder.pretrained = True
        return loaded

    def _init_weights(self, module: nn.Module) -> None:
        """Modules initialise themselves; only new heads may come here with no weights at all."""
        if any(module is head for head in self.heads()):
            initialization.normal_(module.weight, std=0.02)
            initialization.zeros_(module.bias)


def build_fusion(config: DiptychConfig) -> CrossModalFusion | ConcatFusion | MLPFusion:
    """The fusion that `config` names."""
    dim, heads, dropout = config.hidden_size, config.fusion_heads, config.dropout
    if config.fusion == "concat":
        return ConcatFusion(dim, heads=heads, dropout=dropout)
    if config.fusion == "mlp":
        return MLPFusion(dim, dropout=dropout)
    return CrossModalFusion(
        dim, layers=config.fusion_layers, heads=heads, hidden=config.fusion_hidden_size, dropout=dropout
    )


AutoModel.register(DiptychConfig, DiptychModel)
