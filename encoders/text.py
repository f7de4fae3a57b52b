"""BERT: a sentence becomes word tokens, one for each word piece."""

from __future__ import annotations

import contextlib
import functools
import inspect
import logging
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from .tokens import Tokens, all_present, encode_present
from .trainable import Encoder, EncoderNotFound, Part

_ID_DIGITS = 3
"""Numbers below 256 that a word piece's id is written as: enough for 16 million."""


class BertEncoder(Encoder):
    """An encoder of the BERT family (Devlin et al., BERT, 2019), and a projection.

    Args:
        config: What builds the trunk: BERT, RoBERTa, DistilBERT, ALBERT, ELECTRA, MiniLM, MPNet and
            their kin. Weights are random; `from_pretrained` loads learned ones.
        dim: Width of the tokens.
        pool: Whether a text is one token, of the mean over its words: for fusions that read no more of it.
        keep_ids: Whether features and tokens carry the word pieces' ids, for who reads words as such; not with `pool`.

    Raises:
        ValueError: `config` is of no such model.
    """

    def __init__(self, config: PreTrainedConfig, *, dim: int = 512, pool: bool = False, keep_ids: bool = False) -> None:
        _require_bert_family(config)
        # or a checkpoint of half precision would be built in half precision
        super().__init__(
            AutoModel.from_config(config, **_without_pooler(config)).to(torch.get_default_dtype()), pretrained=False
        )
        self.trunk: PreTrainedModel
        self.pool, self.keep_ids = pool, keep_ids and not pool
        self.width: int = config.hidden_size
        self.feature_width = self.width + (_ID_DIGITS if self.keep_ids else 0)
        self.projection = nn.Sequential(nn.Linear(self.width, dim), nn.LayerNorm(dim))

    @classmethod
    def from_pretrained(cls, name_or_folder: str | Path, *, dim: int = 512) -> BertEncoder:
        """Load a trunk from the Hub or a local folder, frozen; the projection is random.

        Raises:
            ValueError: There is no such model, or it is none of the BERT family.
        """
        config = load_text_config(name_or_folder)
        encoder = cls(config, dim=dim)
        names = encoder.trunk.state_dict().keys()
        trunk = load_trunk(name_or_folder, config, "text", names, **_without_pooler(config))
        encoder.trunk = trunk.train()
        encoder.pretrained = True
        encoder.unfreeze(0)
        return encoder

    def parts(self) -> list[Part]:
        """Embeddings, then the layers; what stands behind the last layer belongs to it."""
        children = dict(self.trunk.named_modules())
        prefix, layers = max(
            ((name, module) for name, module in children.items() if isinstance(module, nn.ModuleList)),
            key=lambda item: len(item[1]),
        )
        parts: list[tuple[str, list[nn.Module]]] = [
            ("embeddings", []),
            *((f"layer{i}", [m]) for i, m in enumerate(layers)),
        ]
        behind = False
        for name, module in self.trunk.named_modules():
            behind |= name == prefix
            if next(module.parameters(recurse=False), None) is not None and not name.startswith(f"{prefix}."):
                parts[-1 if behind else 0][1].append(module)
        return list(parts)

    @functools.cached_property
    def longest(self) -> int | None:
        """Word pieces of the longest text that the trunk has positions for; None if it has no end."""
        positions = self._positions()
        if positions is None:
            return getattr(self.trunk.config, "max_position_embeddings", None)
        return positions.num_embeddings - (0 if positions.padding_idx is None else positions.padding_idx + 1)

    @property
    def padding_id(self) -> int | None:
        """The id behind which RoBERTa and its kin begin to number positions, and skip it; None in other trunks."""
        positions = self._positions()
        return None if positions is None else positions.padding_idx

    def _positions(self) -> nn.Embedding | None:
        for name, module in self.trunk.named_modules():
            if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
                return module
        return None

    def encode(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Last hidden states, (batch, words, width), from (batch, words) ids and a mask with 1 for real words.

        Real words come first, wherever padding stood. With `pool` their mean over the real words, (batch, 1, width).
        With `keep_ids` the ids follow the states as numbers below 256, which half precision holds exactly: (batch,
        words, feature_width).

        Raises:
            ValueError: A text has more words than the trunk has positions for.
        """
        order = attention_mask.argsort(dim=1, descending=True, stable=True)
        input_ids, attention_mask = input_ids.gather(1, order), attention_mask.gather(1, order)
        if self.longest is not None and input_ids.shape[1] > self.longest:
            if bool(attention_mask[:, self.longest :].any()):
                raise ValueError(
                    f"a text has {int(attention_mask.sum(dim=1).max())} word pieces, and the text encoder has "
                    f"positions for {self.longest}: cut it"
                )
            input_ids, attention_mask = input_ids[:, : self.longest], attention_mask[:, : self.longest]
        states: Tensor = self.trunk(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        if self.pool:  # before the projection, which then passes over one vector, and one is kept of a text
            real = attention_mask.unsqueeze(-1).to(states.dtype)
            states = (states * real).sum(dim=1, keepdim=True) / real.sum(dim=1, keepdim=True).clamp(min=1)
        if self.keep_ids:
            digits = [(input_ids // 256**place % 256).to(states.dtype) for place in range(_ID_DIGITS)]
            states = torch.cat([states, torch.stack(digits, dim=-1)], dim=-1)
        return states

    def project(self, features: Tensor, attention_mask: Tensor, present: Tensor) -> Tokens:
        """Tokens (batch, words, dim) from what `encode` gives, (batch, words, width); one word where it pools."""
        mask = attention_mask.bool().sort(dim=1, descending=True).values[:, : features.shape[1]]
        ids = None
        if self.keep_ids:
            digits = features[..., self.width :].long()
            ids = sum(digits[..., place] * 256**place for place in range(_ID_DIGITS))
            features = features[..., : self.width]
        features = features.to(next(self.projection.parameters()).dtype)  # kept features are of half precision
        return Tokens(self.projection(features), mask, present, ids=ids)

    def forward(
        self,
        input_ids: Tensor | None,
        attention_mask: Tensor | None,
        present: Tensor | None = None,
        *,
        features: Tensor | None = None,
    ) -> Tokens:
        """Word tokens (batch, words, dim) from (batch, words) ids; (batch, 1, dim) with `pool`.

        Args:
            input_ids: Padding may stand on either side. Not read if `features` are given.
            attention_mask: 1 where a word is real; the ids elsewhere don't matter. If not given, real is what is not
                the trunk's id of padding. A row without a real word is absent.
            present: (batch,), False in rows without a text; all are there if not given.
            features: What `encode` gives for the rows, if that is known.
        """
        present = all_present(present, like=input_ids if features is None else features)
        if attention_mask is None:
            if features is not None:
                raise ValueError("there is no attention_mask: give one beside text features")
            padding = self.trunk.config.pad_token_id
            attention_mask = (
                present.long().unsqueeze(1)
                if input_ids is None
                else torch.ones_like(input_ids)
                if padding is None
                else (input_ids != padding).long()
            )
        present = present & attention_mask.bool().any(dim=1)
        if features is None:
            features = encode_present(self.encode, present, (1, self.feature_width), input_ids, attention_mask)
        return self.project(features, attention_mask, present)


def load_text_config(name_or_folder: str | Path) -> PreTrainedConfig:
    """Read the configuration of a BERT-family encoder, from the Hub or a local folder.

    Raises:
        ValueError: There is no such model, or it is none of the BERT family.
    """
    config = read_config(
        name_or_folder,
        f"there is no text encoder at {str(name_or_folder)!r}: give a folder that holds one, or a Hub id, which must "
        "be in the cache or the network open",
    )
    _require_bert_family(config)
    return config


def read_config(name_or_folder: str | Path, refusal: str) -> PreTrainedConfig:
    """Read any model's configuration, from the Hub or a local folder.

    Raises:
        EncoderNotFound: There is none that can be read: `refusal`, and the reason.
    """
    try:
        with quiet_transformers():
            return AutoConfig.from_pretrained(name_or_folder, trust_remote_code=False)
    except Exception as error:  # of the hub, of the file system, of a file that is no configuration
        raise EncoderNotFound(f"{refusal} ({first_line(error)})") from error


def load_trunk(
    name_or_folder: str | Path, config: PreTrainedConfig, kind: str, names: Collection[str], **options: Any
) -> PreTrainedModel:
    """A model of `config` with the weights that are at `name_or_folder`, in 32 bits.

    Args:
        name_or_folder: On the Hub, or a local folder.
        config: What builds the model.
        kind: `image` or `text`.
        names: Of the weights that must be there.
        **options: Of the model's class.

    Raises:
        EncoderNotFound: They cannot be loaded.
        ValueError: Some of `names` are missing.
    """
    try:
        with quiet_transformers():
            trunk, report = AutoModel.from_pretrained(
                name_or_folder, config=config, trust_remote_code=False, output_loading_info=True, **options
            )
    except Exception as error:  # of the hub, of safetensors, of a pickle that is refused
        raise EncoderNotFound(
            f"the weights of the {kind} encoder {name_or_folder} cannot be loaded: {first_line(error)}"
        ) from error
    if missing := sorted({*names} & {*report["missing_keys"]}):
        raise ValueError(
            f"the weights at {name_or_folder} are not those of its configuration: {len(missing)} are missing, "
            f"{missing[0]} first"
        )
    return trunk.float()


def _require_bert_family(config: PreTrainedConfig) -> None:
    name = config.name_or_path or config.model_type
    builds = model_class(config)
    is_decoder = getattr(config, "is_decoder", False) or getattr(config, "is_encoder_decoder", False)
    if builds is not None and not is_decoder and getattr(config, "vocab_size", None):
        with torch.device("meta"):
            skeleton = builds(config)
        embeddings = getattr(skeleton, "embeddings", None)
        # a model that also sees pixels has words and pictures in one sequence: no text encoder
        inside = embeddings.modules() if isinstance(embeddings, nn.Module) else ()
        if not hasattr(config, "patch_size") and any(isinstance(module, nn.Embedding) for module in inside):
            return
    raise ValueError(
        f"{name} is a {config.model_type!r} model, not a text encoder of the BERT family "
        "(bert, roberta, distilbert, albert, electra, mpnet, ...): choose another --text-encoder"
    )


def first_line(error: BaseException) -> str:
    """What an error says, without the lines that follow; its name if it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def model_class(config: PreTrainedConfig) -> Any:
    """The class that AutoModel builds from `config`, or None."""
    try:
        classes = AutoModel._model_mapping[type(config)]
    except KeyError:
        return None
    return classes[0] if isinstance(classes, (list, tuple)) else classes


def _without_pooler(config: PreTrainedConfig) -> dict[str, bool]:
    """Leave BERT's pooler out, whose output nobody reads; DistilBERT and some others have none to leave."""
    takes = inspect.signature(model_class(config).__init__).parameters
    return {"add_pooling_layer": False} if "add_pooling_layer" in takes else {}


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep load reports, retries and progress bars from the user's eyes, and restore them after."""
    hub = logging.getLogger("huggingface_hub")
    level = hub.level
    hub.setLevel(logging.ERROR)
    verbosity = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        hub.setLevel(level)
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()
