"""`DiptychConfig`: what the weights of a model need in order to be built again."""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig, PreTrainedConfig

FORMAT_VERSION = 1
"""Version of the saved folder. A model of a later version is refused, an earlier one is read."""

FUSIONS = ("cross-modal", "concat", "mlp")
GATED = ("cross-modal",)
"""Those of them that weigh the modalities."""


class DiptychConfig(PreTrainedConfig):
    """The architecture and the labels of a model. Saved as `config.json` beside the weights.

    Attributes:
        image_encoder: One of `diptych.encoders.IMAGE_ENCODERS`.
        text_config: Configuration of the BERT-family trunk, as a dict or a transformers config.
        hidden_size: Width of the tokens that both encoders give.
        fusion: One of `FUSIONS`.
        fusion_layers: Blocks of the cross-modal fusion.
        fusion_heads: Attention heads.
        fusion_hidden_size: Width of the fusion's feed-forward layers.
        dropout: In the fusion, in training.
        modality_dropout: Probability that a row loses one half in training, so that the model
            learns to do with the other.
        balance: Weight in the training loss of the term that keeps one modality from shutting out
            the other (`fusion.balance_loss`); 0 switches it off.
        unimodal: Weight in the training loss of what each half says alone, from which the modality
            weights learn (`fusion.unimodal_loss`); 0 switches it off.
        format_version: Version of the saved folder.
        id2label: From class index to label name.

    Raises:
        ValueError: A field is out of its range; the message names it and what is allowed.
    """

    model_type = "diptych"
    image_encoder: str = "resnet50"
    text_config: Any = None
    hidden_size: int = 512
    fusion: str = "cross-modal"
    fusion_layers: int = 2
    fusion_heads: int = 8
    fusion_hidden_size: int = 1024
    dropout: float = 0.1
    modality_dropout: float = 0.1
    balance: float = 0.5
    unimodal: float = 0.3
    format_version: int = FORMAT_VERSION

    def __post_init__(self, **kwargs: Any) -> None:
        """Fill in the text configuration and check every field."""
        text = {"model_type": "bert"} if self.text_config is None else self.text_config
        if isinstance(text, dict):
            text = AutoConfig.for_model(**text)
        self.text_config = text
        super().__post_init__(**kwargs)
        if self.format_version > FORMAT_VERSION:
            raise ValueError(
                f"format_version is {self.format_version}: this model was saved by a later Diptych, and this one reads "
                f"up to version {FORMAT_VERSION}; upgrade diptych"
            )
        if self.fusion not in FUSIONS:
            raise ValueError(f"unknown fusion {self.fusion!r}; choose one of {', '.join(FUSIONS)}")
        for name in ("hidden_size", "fusion_layers", "fusion_heads", "fusion_hidden_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.hidden_size % self.fusion_heads or self.hidden_size % 4:
            raise ValueError(
                f"hidden_size is {self.hidden_size}; "
                f"it must be a multiple of 4 and of fusion_heads ({self.fusion_heads})"
            )
        for name in ("balance", "unimodal"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 0")
        for name in ("dropout", "modality_dropout"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 0 and below 1")

    @property
    def labels(self) -> list[str]:
        """Label names, in the order of the logits."""
        return [self.id2label[index] for index in range(self.num_labels)]


AutoConfig.register("diptych", DiptychConfig)
