"""Of a text of megabytes no more is tokenized than tells what is read of it, and that is exact."""

from __future__ import annotations

import time
from functools import cache

import pytest
from diptych import ImageTextClassifier
from diptych.pipeline.model import processor as module
from diptych.pipeline.model.processor import DiptychProcessor, beginning
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import BertTokenizer, PreTrainedTokenizerFast

from ...conftest import WORDS, build_tiny, picture

SPECIAL = {"unk_token": "[UNK]", "pad_token": "[PAD]"}
CORPUS = ["a red shirt and a blue shoe, left of it", "rot und blau  süß", "東京 赤い シャツ", "aaaa bbb ab ba"] * 4


@cache
def tokenizers() -> dict[str, PreTrainedTokenizerFast]:
    """One of each kind that text encoders have, knowing a few words."""
    bpe = Tokenizer(models.BPE(unk_token="[UNK]"))
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(), decoders.ByteLevel()
    bpe.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=350, special_tokens=list(SPECIAL.values())))
    unigram = Tokenizer(models.Unigram())
    unigram.normalizer, unigram.pre_tokenizer = normalizers.NFKC(), pre_tokenizers.Metaspace()
    unigram.train_from_iterator(
        CORPUS, trainers.UnigramTrainer(vocab_size=80, special_tokens=list(SPECIAL.values()), unk_token="[UNK]")
    )
    fast = {
        name: PreTrainedTokenizerFast(tokenizer_object=made, **SPECIAL)
        for name, made in {"byte-level BPE": bpe, "unigram": unigram}.items()
    }
    pieces = [*WORDS, *"abdehilnorstu", *(f"##{letter}" for letter in "abdehilnorstu"), "東", "京"]
    return fast | {"WordPiece": BertTokenizer(vocab={word: index for index, word in enumerate(dict.fromkeys(pieces))})}


PARTS = st.sampled_from(
    ["red ", "a", "blue shoe", "  ", "\n", "süß ", "東京", "🙂", "x" * 150 + " ", "Ab,", "u\u0308", "\t "]
)


@settings(max_examples=60, deadline=None)
@example(parts=["x" * 150 + " "] * 8, times=40, name="WordPiece")
@example(parts=["東京"], times=900, name="WordPiece")
@example(parts=["  "], times=900, name="byte-level BPE")
@given(
    parts=st.lists(PARTS, min_size=1, max_size=8),
    times=st.integers(1, 300),
    name=st.sampled_from(["WordPiece", "byte-level BPE", "unigram"]),
)
def test_what_is_read_of_a_cut_text_is_what_is_read_of_all_of_it(parts, times, name):
    text, tokenizer = "".join(parts) * times, tokenizers()[name]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "LONG_TEXT", 300)
        cut = beginning(text, tokenizer, 8)
    assert text.startswith(cut)
    ids, whole = (tokenizer(t, truncation=True, max_length=8, verbose=False)["input_ids"] for t in (cut, text))
    assert ids == whole


def test_a_text_of_20_mb_takes_no_longer_than_its_beginning(text_folder):
    model, processor = build_tiny(text_folder)
    classify = ImageTextClassifier(model, processor, device="cpu")
    texts = ["red shirt " * 2_000_000, "a" * 20_000_000, "赤" * 20_000_000, "red" + " " * 19_999_000 + "shirt"]
    started = time.process_time()
    found = classify([{"image": picture("red"), "text": text} for text in texts])
    assert time.process_time() - started < 20
    assert [row["status"] for row in found] == ["text_truncated"] * 4
    assert found[0]["reason"] == "the text has at least 4002 word pieces, of which the first 40 are read"
    assert found[3]["reason"] == "the text has at least 3 word pieces, of which the first 3 are read"
    assert found[0]["scores"] == pytest.approx(classify(image=picture("red"), text=texts[0][:5000])["scores"])


def test_training_and_the_cache_read_the_same_beginning(text_folder, monkeypatch):
    processor = build_tiny(text_folder)[1]
    processor.max_length = 6
    expected = processor.word_pieces(["red shoe " * 200])[0]
    monkeypatch.setattr(DiptychProcessor, "beginning", lambda self, text: text[:90])
    assert processor.word_pieces(["red shoe " * 200 + "\ud800"]) == [expected], "what is left out is not looked at"
    assert processor.tokenize(["red shoe " * 200 + "\ud800"])["input_ids"].tolist() == [expected]
