"""`DiptychConfig`: what the weights of a model need in order to be built again."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from ..runtime.choices import FUSIONS, require_choice

FORMAT_VERSION = 4
"""Version of the saved folder. A model of a later version is refused, an earlier one is read."""

MULTI_LABEL = "multi_label_classification"
"""The `problem_type` of a model whose rows have any number of labels, as transformers names it."""

DEFAULT_THRESHOLD = 0.5
"""Score from which a multi-label class is there, where none was chosen."""


class DiptychConfig(PreTrainedConfig):
    """The architecture and the labels of a model. Saved as `config.json` beside the weights.

    Attributes:
        image_encoder: One of `diptych.encoders.IMAGE_ENCODERS`, or what people call the trunk of `image_config`.
        image_config: Configuration of an image trunk that is none of those, as a dict or a transformers config.
        text_config: Configuration of the BERT-family trunk, as a dict or a transformers config.
        region_grid: Regions of an image to a side at most; 0 is the trunk's own grid. By default 4, and 1 for
            `concat` and `mlp`, which read no more than a mean; models of formats 1 and 2 have their trunk's own.
        pool_words: Whether the words of a text are averaged before the projection. By default only for `concat`
            and `mlp`; models of formats 1 and 2 average them after it.
        hidden_size: Width of the tokens that both encoders give.
        fusion: One of `FUSIONS`.
        fusion_layers: Blocks of the cross-modal and the self-attention fusion. By default 1 for `cross-modal`, else 2,
            as models of formats 1 to 3 have.
        fusion_heads: Attention heads.
        fusion_hidden_size: Width of the fusion's feed-forward layers, and of the bilinear products. By default 512
            for `cross-modal`, else 1024, as models of formats 1 and 2 have.
        glimpses: Maps of the bilinear fusion.
        pattern: Which tokens see each other in the self-attention fusion, one of `fusion.PATTERNS`.
        window: Real tokens to each side that a sliding window shows.
        global_tokens: Positions of the global tokens in the joint sequence; 0 is the summary token.
        modality_gate: Whether the model learns weights of the modalities; by default it does, but for
            `concat`, which stays as it was written.
        dropout: In the fusion, in training.
        modality_dropout: Probability that a row loses one modality in training, so that the model
            learns to do with the other.
        experts: Whether each modality has a classifier of its own, which gives the weights and adds to the logits
            (`fusion.Experts`), and what weights multiply has a fixed norm. By default, but for a `concat` without
            modality weights; models of formats 1 to 3 have none, and a gate that learned from the fusion's loss.
        alignment_weight: Weight in the training loss of contrastive alignment (`fusion.Alignment`);
            at 0 the model has none, and cannot rank.
        columns: Of the data that it was trained on, by `image`, `text` and `label`: used again where data has them.
        thresholds: Of a multi-label model (`problem_type` is `multi_label_classification`): the score of each
            class from which it is there, chosen on validation; None is 0.5 for all.
        calibration: By which modalities a row has (`both`, `text`, `image`), its temperature and what thresholds and
            sets are chosen by, as `evaluation.calibration.calibrate` gives it; None where a model is not calibrated.
        format_version: Version of the saved folder.
        id2label: From class index to label name.

    Raises:
        ValueError: A field is out of its range; the message names it and what is allowed.
    """

    model_type = "diptych"
    keys_to_ignore_at_inference = ["modality_weights", "attentions"]  # noqa: RUF012  Trainer predicts the logits alone
    image_encoder: str = "resnet50"
    image_config: Any = None
    text_config: Any = None
    region_grid: int | None = None
    pool_words: bool | None = None
    hidden_size: int = 512
    fusion: str = "cross-modal"
    fusion_layers: int | None = None
    fusion_heads: int = 8
    fusion_hidden_size: int | None = None
    glimpses: int = 4
    pattern: str = "dense"
    window: int = 128
    global_tokens: Any = (0,)
    modality_gate: bool | None = None
    dropout: float = 0.1
    modality_dropout: float = 0.3
    experts: bool | None = None
    alignment_weight: float = 0.0
    thresholds: Any = None
    columns: Any = None
    calibration: Any = None
    format_version: int = FORMAT_VERSION

    def __post_init__(self, **kwargs: Any) -> None:
        """Fill in the text configuration and check every field."""
        text = {"model_type": "bert"} if self.text_config is None else self.text_config
        if isinstance(text, dict):
            text = AutoConfig.for_model(**text)
        self.text_config = text
        if isinstance(self.image_config, dict):
            from ...encoders.vision import image_config_of  # here, for it needs torch

            self.image_config = image_config_of(self.image_config)
        for gone in ("unimodal", "balance"):  # terms of the loss that earlier models trained with
            kwargs.pop(gone, None)
        self.global_tokens = list(self.global_tokens)
        super().__post_init__(**kwargs)
        if self.format_version > FORMAT_VERSION:
            raise ValueError(
                f"format_version is {self.format_version}: this model was saved by a later Diptych, and this one reads "
                f"up to version {FORMAT_VERSION}; upgrade diptych"
            )
        self._check_labels()
        require_choice("fusion", self.fusion, FUSIONS)
        if self.modality_gate is None:  # `mlp` had none in format 1
            self.modality_gate = self.fusion != "concat" and (self.fusion, self.format_version) != ("mlp", 1)
        pooled = self.fusion in ("concat", "mlp")  # they read the mean of an image's regions, and of a text's words
        if self.experts is None:
            self.experts = self.format_version > 3 and (self.fusion != "concat" or bool(self.modality_gate))
        if self.region_grid is None:
            self.region_grid = (1 if pooled else 4) if self.format_version > 2 else 0
        if self.pool_words is None:
            self.pool_words = pooled and self.format_version > 2
        if self.fusion_layers is None:
            self.fusion_layers = 1 if self.fusion == "cross-modal" and self.format_version > 3 else 2
        if self.fusion_hidden_size is None:
            self.fusion_hidden_size = 512 if self.fusion == "cross-modal" and self.format_version > 2 else 1024
        self.format_version = FORMAT_VERSION
        from ...fusion import check_pattern  # with the encoders, which ask transformers for its models

        check_pattern(self.pattern, self.window, tuple(self.global_tokens))
        if self.pattern != "dense" and self.fusion != "self-attention":
            raise ValueError(
                f"pattern is {self.pattern!r}, which the {self.fusion} fusion doesn't have; it goes with self-attention"
            )
        for name in ("hidden_size", "fusion_layers", "fusion_heads", "fusion_hidden_size", "glimpses"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.region_grid < 0:
            raise ValueError(
                f"region_grid is {self.region_grid}; it must be at least 1, or 0 for the image trunk's own grid"
            )
        if self.hidden_size % self.fusion_heads or self.hidden_size % 4:
            raise ValueError(
                f"hidden_size is {self.hidden_size}; "
                f"it must be a multiple of 4 and of fusion_heads ({self.fusion_heads})"
            )
        if self.problem_type == "regression":
            raise ValueError(f"problem_type is 'regression', which Diptych does not do; choose {MULTI_LABEL} or None")
        if self.thresholds is not None:
            self.set_thresholds(self.thresholds)
        if not self.alignment_weight >= 0:
            raise ValueError(f"alignment_weight is {self.alignment_weight}; it must be at least 0")
        for name in ("dropout", "modality_dropout"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 0 and below 1")

    @property
    def multi_label(self) -> bool:
        """Whether a row has any number of labels, none among them."""
        return self.problem_type == MULTI_LABEL

    def set_labels(self, labels: Sequence[str], *, multi_label: bool) -> None:
        """Choose the classes; the thresholds and the calibration of others are gone.

        Raises:
            ValueError: A label stands twice, or it is one text.
        """
        if isinstance(labels, str):
            raise ValueError(f"labels is {labels!r}, one text: give a list of names")
        self.id2label = dict(enumerate(labels))
        self.label2id = {name: index for index, name in enumerate(labels)}
        self.problem_type = MULTI_LABEL if multi_label else None
        self.thresholds = self.calibration = None
        self._check_labels()

    def _check_labels(self) -> None:
        ids, names = sorted(self.id2label), list(self.id2label.values())
        if ids != list(range(len(ids))):
            raise ValueError(f"the labels have the ids {', '.join(map(str, ids[:9]))}; they must count from 0, no gaps")
        if repeated := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"the label {repeated[0]!r} stands twice: each class needs a name of its own")

    def set_thresholds(self, thresholds: Any) -> None:
        """Choose the score of each class from which it is there.

        Raises:
            ValueError: The model is not multi-label, or they are not one number between 0 and 1 for each class.
        """
        thresholds = list(thresholds)
        if not self.multi_label:
            raise ValueError(f"thresholds go with problem_type {MULTI_LABEL}; problem_type is {self.problem_type!r}")
        if len(thresholds) != self.num_labels or not all(0 <= t <= 1 for t in thresholds):
            raise ValueError(f"thresholds is {thresholds}; give one from 0 to 1 for each of {self.num_labels} labels")
        self.thresholds = thresholds

    @property
    def left_out(self) -> set[str]:
        """The modality, `image` or `text`, that the model was trained without: its side has learned nothing."""
        known = self.columns or {}
        return {name for name in ("image", "text") if known.get(name, "") is None}

    @property
    def labels(self) -> list[str]:
        """Label names, in the order of the logits."""
        return [self.id2label[index] for index in range(self.num_labels)]


AutoConfig.register("diptych", DiptychConfig)


def warn_of_left_out(name: str) -> None:
    """Warn that a modality is left out of a pair because the model was trained without it."""
    warnings.warn(f"the model was trained without {name}s: the {name} is left out", stacklevel=3)
