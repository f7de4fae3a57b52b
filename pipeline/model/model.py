"""The model: encoders, fusion, logits."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedModel, initialization
from transformers.utils import ModelOutput

from ...encoders import BertEncoder, ImageEncoder, NullTokens, ResNetEncoder, VisionEncoder
from ...encoders.tokens import Tokens
from ...encoders.trainable import Part, check_partition
from ...fusion import Alignment, Experts, Opinions, WordScores
from .checks import check_weights
from .config import DiptychConfig
from .heads import build_experts, build_fusion
from .losses import ClassLoss

_FORMAT_3 = {r"^alignment\.log_scale$": "alignment.logit_scale"}
"""Weights that formats 1 to 3 have by other names."""


@dataclass
class DiptychOutput(ModelOutput):
    """What a forward pass gives.

    Attributes:
        loss: If labels were given: what `class_loss` makes of them, by default mean cross-entropy over the
            rows. In training the sum of those of the fusion and of each expert by itself, and alignment's. Without
            classes: alignment's alone. Where processes share a batch in training, the mean over them is the
            loss of the one batch.
        logits: (batch, classes), raw; None if the model has no classes.
        modality_weights: (batch, 2), image first; None if the model learns none.
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

    transformers' `Trainer` trains and measures it; its predictions are the logits alone:

        def compute_metrics(evaluated):
            return {"accuracy": (evaluated.predictions.argmax(-1) == evaluated.label_ids).mean()}

    Attributes:
        class_loss: Of the classes. How a run weighs them belongs to the run: it is not saved, and plain after loading.
        training_ids: Ids of the rows it was trained on, as `model.folder` saves them; None where they are not known.

    Args:
        config: The architecture.
    """

    config_class = DiptychConfig
    base_model_prefix = "diptych"
    main_input_name = "pixel_values"
    _keys_to_ignore_on_load_unexpected = [r"^half_heads\."]  # noqa: RUF012  of format 1
    _supports_sdpa = True
    training_ids: Tensor | None = None

    def __init__(self, config: DiptychConfig) -> None:
        super().__init__(config)
        sizes: Any = {"dim": config.hidden_size, "region_grid": config.region_grid or 0}
        self.image_encoder: ImageEncoder = (
            ResNetEncoder(config.image_encoder, **sizes)
            if config.image_config is None
            else VisionEncoder(config.image_config, **sizes)
        )
        self.text_encoder = BertEncoder(
            config.text_config, dim=config.hidden_size, pool=bool(config.pool_words), keep_ids=bool(config.experts)
        )
        self.null_tokens = NullTokens(config.hidden_size, dropout=config.modality_dropout)
        self.fusion = build_fusion(config)
        self.head = nn.Linear(self.fusion.out_dim, config.num_labels) if config.num_labels else None
        self.experts: Experts | None = build_experts(config) if config.experts and config.num_labels else None
        self.alignment = Alignment(config.hidden_size) if config.alignment_weight else None
        self.class_loss = ClassLoss(multi_label=config.multi_label)
        self.post_init()

    def forward(
        self,
        pixel_values: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        image_present: Tensor | None = None,
        text_present: Tensor | None = None,
        labels: Tensor | None = None,
        image_ids: Tensor | None = None,
        text_ids: Tensor | None = None,
        *,
        image_features: Tensor | None = None,
        text_features: Tensor | None = None,
        modality_weights: Tensor | None = None,
        output_attentions: bool = False,
        average_heads: bool = False,
        return_dict: bool = True,
    ) -> DiptychOutput | tuple[Any, ...]:
        """Logits of each row.

        Args:
            pixel_values: (batch, 3, height, width), normalised; absent rows may hold anything. Without them, or their
                features, no row has an image.
            input_ids: (batch, words), padded on either side. Without them, or their features, no row has a text.
            attention_mask: (batch, words), 1 = a real word; if not given, what is not padding. A row without a
                real word has no text.
            image_present: (batch,), False in rows without an image; all are there if not given.
            text_present: (batch,), False in rows without a text; all are there if not given.
            labels: (batch,), class indices, for a loss; (batch, classes), 1 or 0, if the model is multi-label.
            image_ids: (batch,), equal where images are: such rows are no contrast to each other.
            text_ids: (batch,), equal where texts are.
            image_features: What the image encoder's `encode` gives, in place of `pixel_values`.
            text_features: What the text encoder's `encode` gives, in place of `input_ids`.
            modality_weights: (batch, 2), to be used in place of the gate's own.
            output_attentions: Whether to give the fusion's attention maps.
            average_heads: Whether to give their mean over the heads, as one head.
            return_dict: False gives a tuple without what is None.
        """
        # Tokens (batch, regions, dim) and (batch, words, dim)
        image, text = self.encode(
            {
                "pixel_values": pixel_values,
                "image_features": image_features,
                "image_present": image_present,
                "input_ids": input_ids,
                "text_features": text_features,
                "attention_mask": attention_mask,
                "text_present": text_present,
            }
        )
        output = self.fuse(
            image,
            text,
            labels=labels,
            image_ids=image_ids,
            text_ids=text_ids,
            modality_weights=modality_weights,
            output_attentions=output_attentions,
            average_heads=average_heads,
        )
        return output if return_dict else output.to_tuple()

    def encode(self, batch: Mapping[str, Any]) -> tuple[Tokens, Tokens]:
        """Tokens (batch, regions, dim) and (batch, words, dim) of a batch as `Collate` gives it.

        Args:
            batch: Of the tensors that `forward` takes by name, those of both modalities; a modality of which there
                are none is absent in all rows.

        Raises:
            ValueError: There are tensors of neither, or not the rows that are said to be present.
        """
        pixels, image_features = batch.get("pixel_values"), batch.get("image_features")
        ids, text_features = batch.get("input_ids"), batch.get("text_features")
        given = [tensor for tensor in (pixels, image_features, ids, text_features) if tensor is not None]
        if not given:
            raise ValueError("there is neither an image nor a text: give pixel_values, input_ids or both")
        none = torch.zeros(len(given[0]), dtype=torch.bool, device=given[0].device)
        image_present, text_present = batch.get("image_present"), batch.get("text_present")
        if image_present is None and pixels is None and image_features is None:
            image_present = none
        if text_present is None and ids is None and text_features is None:
            text_present = none
        image = self.image_encoder(pixels, image_present, features=image_features)
        text = self.text_encoder(ids, batch.get("attention_mask"), text_present, features=text_features)
        return image, text

    def fuse(
        self,
        image: Tokens,
        text: Tokens,
        *,
        labels: Tensor | None = None,
        image_ids: Tensor | None = None,
        text_ids: Tensor | None = None,
        modality_weights: Tensor | None = None,
        output_attentions: bool = False,
        average_heads: bool = False,
    ) -> DiptychOutput:
        """What `forward` does after the encoders, for tokens that are at hand.

        Args: `image` (batch, regions, dim) and `text` (batch, words, dim) of the encoders; the others as for `forward`.
        """
        loss = None
        if self.alignment is not None and self.training:
            loss = self.config.alignment_weight * self.alignment(image, text, image_ids=image_ids, text_ids=text_ids)
        if self.head is None:
            return DiptychOutput(loss)
        image, text = self.null_tokens(image, text)
        opinions = None if self.experts is None else self.experts(image, text)
        weights = self._weights(opinions) if modality_weights is None else modality_weights
        fused = self.fusion(image, text, modality_weights=weights, return_attentions=output_attentions)
        logits = self.head(fused.features)  # (batch, classes)
        views = [logits]
        if self.experts is not None and opinions is not None:
            views += self.experts.logits(opinions).unbind() if self.training else []
            combined = self.experts.combine(self.experts.evidence(logits, opinions, fused.modality_weights))
            logits = combined.to(image.states.dtype)  # 16 bits of a model in 16 bits
        if labels is not None:
            for view in views if self.training else [logits]:
                classified = self.class_loss(view, labels, shared=self.training)
                loss = classified if loss is None else loss + classified
        weights = fused.modality_weights if self.config.modality_gate else None
        maps = {key: m.mean(2, keepdim=True) if average_heads else m for key, m in fused.attentions.items()}
        return DiptychOutput(loss if labels is not None else None, logits, weights, maps or None)

    def evidence(self, image: Tokens, text: Tokens) -> tuple[Tensor, Opinions]:
        """What `Experts.fit` is fitted on, of tokens (batch, regions, dim) and (batch, words, dim): see there."""
        if self.experts is None or self.head is None:
            raise ValueError("this model has no experts")
        image, text = self.null_tokens(image, text)
        opinions: Opinions = self.experts(image, text)
        fused = self.fusion(image, text, modality_weights=self._weights(opinions))
        return self.experts.evidence(self.head(fused.features), opinions, fused.modality_weights), opinions

    def _weights(self, opinions: Opinions | None) -> Tensor | None:
        """Modality weights (batch, 2) as the experts give them; None leaves them to the fusion."""
        if self.experts is None or opinions is None or not self.config.modality_gate:
            return None
        return self.experts.weights(opinions)

    def set_alignment(self, weight: float) -> None:
        """Change the weight of contrastive alignment; its layers are new if there were none, gone at 0.

        Raises:
            ValueError: The weight is below 0.
        """
        if not weight >= 0:
            raise ValueError(f"alignment_weight is {weight}; it must be at least 0")
        self.config.alignment_weight = weight
        if not weight:
            self.alignment = None
        elif self.alignment is None:
            self.alignment = Alignment(self.config.hidden_size).to(self.device, self.dtype)

    def get_image_features(self, pixel_values: Tensor, image_present: Tensor | None = None) -> Tensor:
        """Images in the space where each lies close to its text, (batch, dim), of length 1.

        Args:
            pixel_values: (batch, 3, height, width), normalised.
            image_present: (batch,), False in rows without an image, whose embeddings mean nothing.

        Raises:
            ValueError: The model was not trained with alignment.
        """
        return self.require_alignment().embed_image(self.image_encoder(pixel_values, image_present))

    def get_text_features(
        self, input_ids: Tensor, attention_mask: Tensor, text_present: Tensor | None = None
    ) -> Tensor:
        """Texts in the same space, (batch, dim), of length 1.

        Args:
            input_ids: (batch, words).
            attention_mask: (batch, words), 1 = a real word.
            text_present: (batch,), False in rows without a text, whose embeddings mean nothing.

        Raises:
            ValueError: The model was not trained with alignment.
        """
        return self.require_alignment().embed_text(self.text_encoder(input_ids, attention_mask, text_present))

    def embed_images(self, *args: Any, **kwargs: Any) -> Tensor:
        """`get_image_features` by its name in 0.3."""
        return _renamed(self.get_image_features, "embed_images")(*args, **kwargs)

    def embed_texts(self, *args: Any, **kwargs: Any) -> Tensor:
        """`get_text_features` by its name in 0.3."""
        return _renamed(self.get_text_features, "embed_texts")(*args, **kwargs)

    def require_alignment(self) -> Alignment:
        """What brings images and texts into one space.

        Raises:
            ValueError: The model was not trained with alignment.
        """
        if self.alignment is None:
            raise ValueError(
                "this model cannot rank: it was trained without alignment; train one with --objective align, "
                "or with --alignment-weight above 0"
            )
        return self.alignment

    @property
    def supports_gradient_checkpointing(self) -> bool:
        """Whether the text trunk does; MPNet's and ALBERT's do not."""
        return bool(self.text_encoder.trunk.supports_gradient_checkpointing)

    def get_input_embeddings(self) -> nn.Module:
        """The text trunk's embeddings of word pieces."""
        return self.text_encoder.trunk.get_input_embeddings()

    def set_input_embeddings(self, value: Any) -> None:
        """Replace the text trunk's embeddings of word pieces."""
        self.text_encoder.trunk.set_input_embeddings(value)
        if self.experts is not None:
            self.experts.resize_words(value.num_embeddings)

    def parts(self) -> list[Part]:
        """Every parameter once, ordered from the input up: the trunks' parts, then what always trains."""
        parts: list[Part] = [(f"image.{name}", modules) for name, modules in self.image_encoder.parts()]
        parts += [(f"text.{name}", modules) for name, modules in self.text_encoder.parts()]
        parts.append(("projections", [self.image_encoder.projection, self.text_encoder.projection]))
        words = None if self.experts is None else self.experts.words
        experts = [] if self.experts is None else [m for m in self.experts.children() if m is not words]
        parts.append(("fusion", [self.null_tokens, self.fusion, *experts]))
        if words is not None:
            parts.append(("words", [words]))
        parts.append(("head", [module for module in (self.head, self.alignment) if module is not None]))
        check_partition(self, parts)
        return parts

    def set_labels(self, labels: Sequence[str], *, multi_label: bool = False) -> None:
        """Give the model a head for these classes: those that it knows by name keep their weights, others are new.

        Args:
            labels: In the order of the logits; none for a model without classes.
            multi_label: Whether a row may have any number of them.

        Raises:
            ValueError: A label stands twice.
        """
        known = {} if self.head is None else {name: index for index, name in enumerate(self.config.labels)}
        before, experts = self.head, self.experts
        self.config.set_labels(labels, multi_label=multi_label)
        self.class_loss = ClassLoss(multi_label=multi_label)
        self.head = nn.Linear(self.fusion.out_dim, len(labels)).to(self.device) if labels else None
        self.experts = build_experts(self.config).to(self.device) if labels and self.config.experts else None
        kept = {index: known[name] for index, name in enumerate(labels) if name in known}
        if self.experts is not None and experts is not None:
            self.experts.take(experts, kept)
        if self.head is None:
            return
        self._init_weights(self.head)
        if before is not None:
            with torch.no_grad():
                here, there = list(kept), list(kept.values())
                self.head.weight[here], self.head.bias[here] = before.weight[there], before.bias[there]

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """Load a saved model: arguments as for any transformers model. Its trunks count as pretrained.

        Raises:
            ValueError: Weights are missing, left over, of another shape, or not finite.
        """
        kwargs = {"dtype": torch.float32, "use_safetensors": True, "key_mapping": _FORMAT_3} | kwargs
        with_info = kwargs.pop("output_loading_info", False)
        ours = kwargs.pop("ignore_mismatched_sizes", None)
        model, info = super().from_pretrained(*args, **kwargs, output_loading_info=True, ignore_mismatched_sizes=True)
        check_weights(model, info | ({"mismatched_keys": (), "missing_keys": ()} if ours else {}))
        model.image_encoder.pretrained = model.text_encoder.pretrained = True
        return (model, info) if with_info else model

    def save_pretrained(self, *args: Any, **kwargs: Any) -> None:
        """Save the model: arguments as for any transformers model. Weights have the names that they have in it."""
        kwargs.setdefault("save_original_format", False)
        super().save_pretrained(*args, **kwargs)

    def _init_weights(self, module: nn.Module) -> None:
        """Modules initialise themselves; only new heads may come here with no weights at all."""
        own = () if self.experts is None else (self.experts.image, self.experts.text)
        if module is self.head or module in own:
            initialization.normal_(module.weight, std=0.02)
            initialization.zeros_(module.bias)
        elif isinstance(module, WordScores):
            module.reset()


def require_classes(model: DiptychModel) -> None:
    """See that a model can classify.

    Raises:
        ValueError: It was trained to align, without labels.
    """
    if model.head is None:
        raise ValueError(
            "this model has no classes: it was trained to align images and texts. Rank with it (diptych rank), "
            "or train from it with labels (diptych train DATA --model MODEL --out DIR)"
        )


def _renamed(method: Callable[..., Tensor], name: str) -> Callable[..., Tensor]:
    warnings.warn(f"{name} is {method.__name__} now; the old name goes with 0.5", FutureWarning, stacklevel=3)
    return method


AutoModel.register(DiptychConfig, DiptychModel)
