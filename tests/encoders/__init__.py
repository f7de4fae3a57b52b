"""What the tests of the encoders share: tiny trunks of every family."""

from __future__ import annotations

from transformers import AlbertConfig, BertConfig, DistilBertConfig, ElectraConfig, PreTrainedConfig, RobertaConfig

VOCABULARY = 40
_SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 24,
}

TEXT_FAMILIES = ("bert", "distilbert", "roberta", "albert", "electra")


def tiny_config(family: str) -> PreTrainedConfig:
    """Three layers, 16 wide; ALBERT and ELECTRA with their narrower embeddings."""
    if family == "distilbert":
        return DistilBertConfig(
            vocab_size=VOCABULARY, dim=16, n_layers=3, n_heads=2, hidden_dim=32, max_position_embeddings=24
        )
    if family == "albert":  # whose own default is no dropout
        dropout = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}
        return AlbertConfig(**_SIZES, embedding_size=8, **dropout)
    if family == "electra":
        return ElectraConfig(**_SIZES, embedding_size=8)
    return {"bert": BertConfig, "roberta": RobertaConfig}[family](**_SIZES)
