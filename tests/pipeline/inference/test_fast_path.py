"""Fast paths: what goes together, the comparison with 32 bits, the refusal; 8 bits where ONNX Runtime is."""

from __future__ import annotations

import pytest
import torch
from diptych import ImageTextClassifier, build_model
from diptych.pipeline.batch_inference.classify_table import classify_table
from diptych.pipeline.demo.scenes import SHIPPED_MODEL, make_scenes
from diptych.pipeline.inference import fast_path as module
from diptych.pipeline.inference.fast_path import FastEncoders, use_fast_path
from diptych.pipeline.inference.options import Fast
from diptych.pipeline.model.folder import load_model, save_model
from transformers import ConvNextConfig

from ...conftest import picture


@pytest.fixture
def classifier(tiny):
    return ImageTextClassifier(*tiny, device="cpu")


def table(count):
    return [
        {"image": picture(("red", "blue")[i % 2], seed=i), "text": f"a {('red', 'blue')[i // 2 % 2]} shirt"}
        for i in range(count)
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"int8": True, "compile": True}, "--int8 is a path of its own"),
        ({"int8": True, "dtype": "bf16"}, "--int8 is a path of its own"),
        ({"dtype": "fp8"}, "dtype is 'fp8'; choose one of bf16, fp16"),
        ({"min_agreement": 0.9}, "--min-agreement goes with --compile, --dtype or --int8"),
        ({"int8": True, "min_agreement": 99}, "min_agreement is 99; it must be at least 0 and at most 1"),
    ],
)
def test_nonsense_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Fast(**options)


def test_16_bits_are_compared_and_used(classifier):
    rows, said = table(module.WARM_UP + module.LEAST), []
    plain = classifier(rows)
    use_fast_path(classifier, Fast(dtype="bf16", min_agreement=0.5), lambda: rows, say=said.append)
    (line,) = said
    assert line.startswith("--dtype bf16: ")
    assert f" of {module.LEAST} labels (" in line
    assert "times its rows per CPU second" in line
    found = classifier(rows)
    assert classifier.encoders.encode_images(torch.zeros(2, 3, 16, 16)).dtype == torch.bfloat16
    furthest = max(abs(a["scores"]["yes"] - b["scores"]["yes"]) for a, b in zip(plain, found, strict=True))
    assert 0 < furthest < 0.1
    assert {p.dtype for p in classifier.model.parameters()} == {torch.float32}


def test_too_little_agreement_is_refused(classifier, monkeypatch):
    def stream(rows, **options):  # on the fast path one row in three gets another label
        for number, _ in enumerate(rows):
            other = isinstance(classifier.encoders, FastEncoders) and number % 3 == 0
            yield {"status": "ok", "label": "no" if other else "yes", "scores": {"no": 0.5, "yes": 0.5 + other / 4}}

    monkeypatch.setattr(classifier, "stream", stream)
    before, rows = classifier.encoders, [{}] * (module.WARM_UP + 60)
    message = r"--dtype bf16: 40 of 60 labels \(66\.7%\) .* of a score 0\.2, .*; 67\.0% must agree: leave it"
    with pytest.raises(ValueError, match=message):
        use_fast_path(classifier, Fast(dtype="bf16", min_agreement=0.67), lambda: rows)
    assert classifier.encoders is before
    use_fast_path(classifier, Fast(dtype="bf16", min_agreement=0.66), lambda: rows, say=lambda line: None)
    assert isinstance(classifier.encoders, FastEncoders)


def test_too_few_rows_are_refused(classifier):
    before = classifier.encoders
    rows = table(module.WARM_UP + module.LEAST - 1)
    with pytest.raises(ValueError, match="of which 31 can be used and 32 are needed"):
        use_fast_path(classifier, Fast(dtype="bf16"), lambda: rows)
    assert classifier.encoders is before


def test_changed_weights_are_refused_until_they_are_compared(classifier):
    rows = table(module.WARM_UP + module.LEAST)
    fast = Fast(dtype="bf16", min_agreement=0.0)
    use_fast_path(classifier, fast, lambda: rows, say=lambda line: None)
    with torch.no_grad():
        next(classifier.model.image_encoder.trunk.parameters()).mul_(2)
    for _ in range(2):
        with pytest.raises(ValueError, match="the weights have changed since --dtype bf16 was compared"):
            classifier(rows[0])
    use_fast_path(classifier, fast, lambda: rows, say=lambda line: None)
    assert classifier(rows[0])["status"] == "ok"


def test_fp16_is_not_for_a_cpu(classifier):
    with pytest.raises(ValueError, match="--dtype fp16 is for a GPU"):
        use_fast_path(classifier, Fast(dtype="fp16"), list)


def test_a_missing_package_is_named(classifier, monkeypatch):
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'diptych\[onnx\]'"):
        use_fast_path(classifier, Fast(int8=True), list)


def test_a_compiler_that_fails_is_one_line(classifier, monkeypatch):
    def fail(module, **options):
        raise RuntimeError("\nno compiler\nand much more")

    monkeypatch.setattr(torch, "compile", fail)
    rows = table(module.WARM_UP + module.LEAST)
    with pytest.raises(ValueError, match=r"--compile cannot be had here \(no compiler\): leave it out"):
        use_fast_path(classifier, Fast(compile=True), lambda: rows)


def test_nothing_is_written_where_a_path_is_refused(tiny, tmp_path):
    save_model(*tiny, tmp_path / "model")
    (tmp_path / "t.csv").write_text("image,text\n" + "a.png,a red shirt\n" * 4)
    picture("red").save(tmp_path / "a.png")
    out = tmp_path / "out.csv"
    with pytest.raises(ValueError, match="leave it out"):
        classify_table(str(tmp_path / "t.csv"), str(out), model=tmp_path / "model", fast=Fast(dtype="bf16"), quiet=True)
    with pytest.raises(ValueError, match="- can be read once: for --dtype bf16"):
        classify_table("-", str(out), model=tmp_path / "model", fast=Fast(dtype="bf16"), quiet=True)
    assert not out.exists()


def test_a_table_is_classified_on_a_fast_path_and_goes_on_only_on_the_same(tiny, tmp_path):
    save_model(*tiny, tmp_path / "model")
    picture("red").save(tmp_path / "red.png")
    count = module.WARM_UP + module.LEAST
    (tmp_path / "t.csv").write_text("image,text\n" + "red.png,a red shirt\n" * count)
    said, fast = [], Fast(dtype="bf16", min_agreement=0.0)
    options = {"model": tmp_path / "model", "say": said.append, "quiet": True}
    data, out = str(tmp_path / "t.csv"), f"{tmp_path}/parts/"
    assert classify_table(data, out, fast=fast, **options) == {"ok": count}
    assert any(line.startswith("--dtype bf16: ") for line in said)
    with pytest.raises(ValueError, match="fast path"):
        classify_table(data, out, resume=True, **options)
    assert classify_table(data, out, resume=True, fast=fast, **options) == {"ok": count}


@pytest.mark.slow
def test_8_bits_agree(tmp_path):
    pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    pytest.importorskip("onnxscript", reason="the extra onnx is not installed")
    rows = list(make_scenes(256, seed=5))
    classifier = ImageTextClassifier(*load_model(SHIPPED_MODEL), device="cpu")
    rest = rows[module.WARM_UP :]
    plain, said = classifier(rest), []
    use_fast_path(classifier, Fast(int8=True, min_agreement=0.95), lambda: rows, say=said.append)
    assert said[0].startswith("--int8: ")
    found = classifier(rest)
    same = sum(a["label"] == b["label"] for a, b in zip(plain, found, strict=True))
    assert same >= 0.95 * len(rest)
    assert plain != found


@pytest.mark.slow
def test_8_bits_of_a_vision_model(text_folder, tmp_path):
    pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    pytest.importorskip("onnxscript", reason="the extra onnx is not installed")
    torch.manual_seed(0)
    ConvNextConfig(hidden_sizes=[8, 8, 16, 16], depths=[1] * 4).save_pretrained(tmp_path)
    options = {"labels": ["no", "yes"], "image_size": (64, 64), "image_weights": "random"}
    classifier = ImageTextClassifier(*build_model(str(tmp_path), text_folder, **options), device="cpu")
    rows, said = table(module.WARM_UP + module.LEAST), []
    pixels = classifier.processor(images=[row["image"] for row in rows[:8]])["pixel_values"]
    plain = classifier.model.image_encoder.encode(pixels)
    use_fast_path(classifier, Fast(int8=True, min_agreement=0), lambda: rows, say=said.append)
    assert said[0].startswith("--int8: ")
    found = classifier.encoders.encode_images(pixels)
    assert found.shape == plain.shape
    assert 0 < (found - plain).norm() < 0.1 * plain.norm()
