"""What holds for every family of text encoders, in the whole model: tiny random trunks, tokenizers trained here."""

from __future__ import annotations

import itertools
from functools import cache

import pytest
import torch
from diptych import ImageTextClassifier, load_model
from diptych.pipeline.model.folder import save_model
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast

from ...conftest import build_tiny, picture

CORPUS = ["a red shirt, left of [it] <s> mask sep cls pad unk", "A blue shoe: right", "rot & blau/grün (süß)"] * 9
BERT_TOKENS = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
ROBERTA_TOKENS = {"cls": "<s>", "pad": "<pad>", "sep": "</s>", "unk": "<unk>", "mask": "<mask>"}
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
FAMILIES = {  # its tokenizer, its special tokens, what its configuration needs, its longest text
    "bert": ("wordpiece", BERT_TOKENS, SIZES, 24),
    "distilbert": ("wordpiece", BERT_TOKENS, {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32}, 24),
    "electra": ("wordpiece", BERT_TOKENS, SIZES | {"embedding_size": 8}, 24),
    "mpnet": ("wordpiece", ROBERTA_TOKENS, SIZES, 22),
    "roberta": ("bpe", ROBERTA_TOKENS, SIZES, 22),
    "deberta": ("bpe", BERT_TOKENS, SIZES, 24),
    "modernbert": ("bpe", BERT_TOKENS, SIZES | {"global_attn_every_n_layers": 2, "local_attention": 8}, 24),
    "xlm-roberta": ("unigram", ROBERTA_TOKENS, SIZES, 22),
    "albert": ("unigram", BERT_TOKENS, SIZES | {"embedding_size": 8}, 24),
}


@cache
def trained(kind: str, tokens: tuple[tuple[str, str], ...]) -> PreTrainedTokenizerFast:
    """A tokenizer of this kind with these special tokens, which knows the corpus."""
    named, special = dict(tokens), [token for _, token in tokens]
    if kind == "wordpiece":
        made, trainer = Tokenizer(models.WordPiece(unk_token=named["unk"])), trainers.WordPieceTrainer
        made.normalizer, made.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
        options = {"vocab_size": 120}
    elif kind == "bpe":
        made, trainer = Tokenizer(models.BPE(unk_token=named["unk"])), trainers.BpeTrainer
        made.pre_tokenizer = pre_tokenizers.ByteLevel()
        options = {"vocab_size": 330, "initial_alphabet": pre_tokenizers.ByteLevel.alphabet()}
    else:
        made, trainer = Tokenizer(models.Unigram()), trainers.UnigramTrainer
        made.normalizer, made.pre_tokenizer = normalizers.NFKC(), pre_tokenizers.Metaspace()
        options = {"vocab_size": 90, "unk_token": named["unk"]}
    made.train_from_iterator(CORPUS, trainer(special_tokens=special, show_progress=False, **options))
    ends = [(named[end], made.token_to_id(named[end])) for end in ("cls", "sep")]
    made.post_processor = processors.TemplateProcessing(f"{named['cls']} $A {named['sep']}", None, ends)
    return PreTrainedTokenizerFast(
        tokenizer_object=made, model_max_length=512, **{f"{name}_token": token for name, token in tokens}
    )


@pytest.fixture(scope="module", params=FAMILIES)
def family(request, tmp_path_factory):
    """Its name, and a model and its processor built from a folder as transformers saves it."""
    kind, tokens, sizes, _ = FAMILIES[request.param]
    tokenizer = trained(kind, tuple(tokens.items()))
    ids = {"pad_token_id": tokenizer.pad_token_id, "vocab_size": len(tokenizer), "max_position_embeddings": 24}
    ends = {"cls_token_id": tokenizer.cls_token_id, "sep_token_id": tokenizer.sep_token_id}
    ends |= {"bos_token_id": tokenizer.cls_token_id, "eos_token_id": tokenizer.sep_token_id}
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp(request.param)
    AutoModel.from_config(AutoConfig.for_model(request.param, **sizes, **ids, **ends)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    model, processor = build_tiny(str(folder))
    return request.param, model.eval(), processor


PICTURES = [picture("red"), picture("blue"), None]
TEXTS = ["a red shirt", "A blue shoe: right, left of it", "rot"]


def logits(model, processor, images=PICTURES, texts=TEXTS, **changes):
    with torch.no_grad():
        return model(**processor(images, texts) | changes).logits


def test_the_longest_text_is_as_long_as_there_are_positions(family):
    name, model, processor = family
    assert processor.max_length == model.text_encoder.longest == FAMILIES[name][3]
    found = ImageTextClassifier(model, processor, device="cpu")({"text": "red shirt " * 90})
    assert f"of which the first {processor.max_length} are read" in found["reason"]
    (ids,) = processor(text=["red shirt " * 90])["input_ids"].tolist()
    assert len(ids) == processor.max_length
    processor.max_length += 1  # one more has no position
    try:
        with pytest.raises(ValueError, match=r"a text has \d+ word pieces, and the text encoder has positions for \d+"):
            logits(model, processor, [None], ["red shirt " * 90])
    finally:
        processor.max_length -= 1


def test_padding_on_either_side_changes_nothing(family):
    _, model, processor = family
    batch = processor(PICTURES, TEXTS)
    ids, mask = batch["input_ids"], batch["attention_mask"]
    expected = logits(model, processor)
    lengths = mask.sum(dim=1).tolist()
    for side in ("left", "right", "both"):
        shift = {"left": 3, "right": 0, "both": 1}[side]
        padded = torch.full((3, ids.shape[1] + 3), processor.tokenizer.pad_token_id)
        real = torch.zeros_like(padded)
        for row, length in enumerate(lengths):
            start = padded.shape[1] - length if side == "left" else shift
            padded[row, start : start + length], real[row, start : start + length] = ids[row, :length], 1
        changed = {"input_ids": padded, "attention_mask": real}
        torch.testing.assert_close(logits(model, processor, **changed), expected, atol=1e-5, rtol=0)
        del changed["attention_mask"]
        with torch.no_grad():  # real is what is not padding
            whole = batch | changed
            found = model(**{name: tensor for name, tensor in whole.items() if name != "attention_mask"}).logits
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    empty = torch.zeros_like(mask)
    by_image = logits(model, processor, attention_mask=empty)
    assert torch.isfinite(by_image).all()
    torch.testing.assert_close(by_image, logits(model, processor, text_present=torch.zeros(3, dtype=torch.bool)))


def typed(tokenizer):
    special = tokenizer.all_special_tokens
    wide = [token.translate({ord(a): ord(a) + 0xFEE0 for a in "<>[]/"}) for token in special]  # NFKC makes them narrow
    doubled = [token[:-1] + token + token[-1] for token in special]
    return [f"a {token} red{token}shirt" for token in (*special, *wide, *doubled)] + ["".join(special), special[-1]]


def test_what_looks_like_a_special_token_is_text(family):
    processor = family[2]
    tokenizer = processor.tokenizer
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    plain = processor.word_pieces(["a red shirt"])[0]
    for text, ids in ((text, processor.word_pieces([text])[0]) for text in typed(tokenizer)):
        assert not special & set(ids[1:-1]), text
        assert (ids[0], ids[-1]) == (plain[0], plain[-1])
        if not any(ord(letter) > 0xFF00 for letter in text):  # typed narrow it is spelled, not unknown
            assert set(ids[1:-1]) - {tokenizer.unk_token_id}, text
    assert processor.word_pieces(["a red shirt"]) == [tokenizer("a red shirt")["input_ids"]]
    texts = typed(tokenizer)
    for text, ids in zip(texts, processor.word_pieces(texts), strict=True):  # in a batch as alone
        assert processor.word_pieces([text]) == [ids]


def test_a_model_of_16_bits_takes_pixels_of_32(family):
    _, model, processor = family
    expected = logits(model, processor)
    half = type(model)(model.config).to(torch.bfloat16).eval()
    half.load_state_dict(model.state_dict())
    found = logits(half, processor)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, atol=0.1, rtol=0)
    by_row = ImageTextClassifier(half, processor, device="cpu")(list(zip(PICTURES, TEXTS, strict=True)))
    for one, row in zip(by_row, expected.softmax(dim=-1), strict=True):
        assert list(one["scores"].values()) == pytest.approx(row.tolist(), abs=0.05)


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing")  # which has another name in some versions
def test_gradient_checkpointing_gives_the_same_gradients(family):
    name, model, processor = family
    if name in ("mpnet", "albert"):  # transformers' own have none
        with pytest.raises(ValueError, match=r"does not support \w+ checkpointing"):
            model.gradient_checkpointing_enable()
        return
    batch = processor(PICTURES, TEXTS)
    gradients = []
    for checkpointing in (False, True):
        (model.gradient_checkpointing_enable if checkpointing else model.gradient_checkpointing_disable)()
        model.text_encoder.unfreeze()
        model.train()
        for module in model.modules():  # of chance and of batch statistics nothing is left
            if isinstance(module, torch.nn.Dropout | torch.nn.BatchNorm2d):
                module.eval()
        model.null_tokens.dropout = 0.0
        model.zero_grad()
        torch.manual_seed(0)
        model(**batch, labels=torch.tensor([0, 1, 1])).loss.backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    model.gradient_checkpointing_disable()
    model.eval()
    assert any(name.startswith("text_encoder.trunk") for name in gradients[0])
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-6, rtol=1e-4)


def test_embeddings_are_resized_for_more_words(family, tmp_path):
    _, model, processor = family
    save_model(model, processor, tmp_path / "model")
    model, processor = load_model(tmp_path / "model")
    expected = logits(model, processor)
    assert processor.tokenizer.add_tokens(["zebra"]) == 1
    (known,) = processor.word_pieces(["zebra"])
    assert known[1] == len(processor.tokenizer) - 1
    model.resize_token_embeddings(len(processor.tokenizer))
    torch.testing.assert_close(logits(model, processor), expected, atol=1e-6, rtol=0)
    save_model(model, processor, tmp_path / "more")
    again, read = load_model(tmp_path / "more")
    texts = ["a zebra", *itertools.repeat("a", 2)]
    torch.testing.assert_close(
        logits(again, read, texts=texts), logits(model, processor, texts=texts), atol=1e-6, rtol=0
    )
    assert again.get_input_embeddings().num_embeddings == len(read.tokenizer) == again.config.text_config.vocab_size
