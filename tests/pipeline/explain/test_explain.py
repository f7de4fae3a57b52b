"""`explain`: what one call gives, words and faithfulness, and the command."""

from __future__ import annotations

import json

import pytest
import torch
from diptych import DiptychProcessor, ImageTextClassifier, load_model
from diptych.encoders.preprocessing import Preprocessing
from diptych.pipeline.cli.main import app
from diptych.pipeline.demo.scenes import SHIPPED_MODEL, make_scenes
from diptych.pipeline.explain.explain import explain, make_pair, seen_box
from diptych.pipeline.explain.faithfulness import Order, curves, measure_faithfulness
from diptych.pipeline.explain.many import parse_rows
from diptych.pipeline.explain.methods import METHODS
from diptych.pipeline.explain.removal import Attribution, log_odds
from diptych.pipeline.model.image_processor import DiptychImageProcessor
from diptych.pipeline.runtime.choices import IMAGE_FITS
from PIL import Image
from typer.testing import CliRunner

from ...conftest import build_tiny, picture


@pytest.fixture(scope="module")
def scenes():
    """The shipped model, its processor, and some pairs."""
    model, processor = load_model(SHIPPED_MODEL)
    return model, processor, make_scenes(24, seed=3)


def test_words_are_whole_and_special_tokens_are_not_shown(tiny):
    model, processor = tiny
    explanation = explain(model, processor, image=picture("red"), text="  a redshirt, RED shoe")
    shown = [explanation.text[word.start : word.end] for word in explanation.words]
    assert shown == ["a", "redshirt", ",", "RED", "shoe"]


def test_pieces_of_a_word_go_together():
    _, processor = load_model(SHIPPED_MODEL)
    _, spans = make_pair(processor, None, "a red circle is here")
    assert [group for *_, group in spans] == [[0], [1], [2], [3], [4]]


def test_what_is_explained_is_what_is_classified(scenes):
    model, processor, rows = scenes
    classify = ImageTextClassifier(model, processor, device="cpu")
    for row in rows.select(range(4)):
        explanation = classify.explain(image=row["image"], text=row["text"])
        prediction = classify({"image": row["image"], "text": row["text"]})
        assert explanation.label == prediction["label"]
        assert explanation.score == pytest.approx(prediction["score"], abs=1e-4)
        for name in ("image_contribution", "text_contribution"):
            assert getattr(explanation, name) == pytest.approx(prediction[name], abs=1e-4)


def test_an_explanation_is_the_same_twice_and_changes_nothing(scenes):
    model, processor, rows = scenes
    before = {name: value.clone() for name, value in model.state_dict().items()}
    one, two = (explain(model, processor, image=rows[0]["image"], text=rows[0]["text"]).to_dict() for _ in range(2))
    assert one == two
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.slow
def test_an_explanation_turned_around_is_less_faithful(scenes):
    """Faithfulness can be low: it is, of the same explanation with every sign turned."""
    model, processor, rows = scenes
    gains = []
    for row in rows:
        pair, spans = make_pair(processor, row["image"], row["text"])
        groups = [group for *_, group in spans]
        label = int(model(**pair.batch).logits.argmax())
        good = METHODS["integrated-gradients"](model, pair, log_odds(model, label))
        bad = Attribution(-good.heat, -good.words)
        measured = [measure_faithfulness(model, pair, some, groups, label) for some in (good, bad)]
        gains.append([some.without_random - some.without_top for some in measured])
        worse, better = curves(model, pair, {"bad": bad, "good": good}, groups, label, seed=0).values()
        gains[-1].append(worse["deletion"] - better["deletion"])
    good, bad, deletion = torch.tensor(gains).mean(dim=0).tolist()
    assert good > 0.15
    assert bad < 0
    assert deletion > 0.1


def test_what_is_removed_grows_and_ends_with_everything(scenes):
    _, processor, rows = scenes
    pair, spans = make_pair(processor, rows[0]["image"], rows[0]["text"])
    groups = [group for *_, group in spans]
    order = Order.of(pair, Attribution(torch.rand(48, 48), torch.rand(len(pair.words))), groups)
    assert [int(order.removed(share)[0].sum()) for share in (0.0, 0.2, 1.0)] == [0, 10, 49]
    assert bool(order.removed(1.0)[1].all())
    assert not order.removed(1.0, last=True)[0].any()
    with_nothing = pair.greyed(torch.zeros(1, 7, 7, dtype=torch.bool))
    assert torch.equal(with_nothing, pair.batch["pixel_values"])
    assert not pair.greyed(torch.ones(1, 7, 7, dtype=torch.bool)).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "there is neither an image nor a text to explain"),
        ({"text": "   "}, "there is neither an image nor a text to explain"),
        ({"text": "a red shirt", "method": "lime"}, "method is 'lime'; choose one of integrated-gradients"),
        ({"text": "a red shirt", "against": "blue"}, "against is 'blue'; choose one of the model's classes: no, yes"),
    ],
)
def test_what_cannot_be_explained_is_said(tiny, options, message):
    with pytest.raises(ValueError, match=message):
        explain(*tiny, **options)


def test_against_the_predicted_class_is_refused(tiny):
    predicted = explain(*tiny, text="a red shirt").label
    with pytest.raises(ValueError, match="which is the predicted class itself"):
        explain(*tiny, text="a red shirt", against=predicted)


def test_a_model_with_several_labels(text_folder):
    model, processor = build_tiny(text_folder, problem_type="multi_label_classification")
    explanation = explain(model.eval(), processor, image=picture("red"), text="a red shirt")
    assert explanation.label in ("no", "yes")
    assert explanation.scores[explanation.label] == max(explanation.scores.values())


def test_the_part_that_is_seen(tiny):
    processor = tiny[1]
    assert seen_box(processor, Image.new("RGB", (400, 100))) == (0.0, 0.0, 1.0, 1.0)


@pytest.mark.parametrize("fit", IMAGE_FITS)
@pytest.mark.parametrize("size", [(400, 100), (90, 310), (64, 64)])
def test_a_place_of_the_map_lies_where_the_model_saw_it(tiny, fit, size):
    numbers = DiptychImageProcessor.of(Preprocessing(32, 48, 56), fit=fit)
    left, top, right, bottom = seen_box(DiptychProcessor(numbers, tiny[1].tokenizer), Image.new("RGB", size))
    short = min(size)
    x, y = size[0] // 2 - short // 8, size[1] // 2 + short // 8  # a white spot in a black photo
    spot = Image.new("RGB", size)
    spot.paste((255, 255, 255), (x - short // 10, y - short // 10, x + short // 10, y + short // 10))
    seen = (numbers(spot)["pixel_values"][0].mean(dim=0) - 0.1).clamp(min=0)  # bars are about 0
    rows, columns = torch.arange(32.0) + 0.5, torch.arange(48.0) + 0.5
    centre = (seen.sum(dim=0) @ columns / seen.sum() / 48, seen.sum(dim=1) @ rows / seen.sum() / 32)
    assert float(left + centre[0] * (right - left)) == pytest.approx(x / size[0], abs=0.8 * (right - left) / 48)
    assert float(top + centre[1] * (bottom - top)) == pytest.approx(y / size[1], abs=0.8 * (bottom - top) / 32)


@pytest.mark.parametrize(("text", "numbers"), [("3", [3]), ("0,3,10-12", [0, 3, 10, 11, 12]), ("2, 2", [2])])
def test_rows_by_number(text, numbers):
    assert parse_rows(text) == numbers


@pytest.mark.parametrize("text", ["", "x", "1-", "-1", "1,,2", "12-10", "0,12-10"])
def test_rows_that_are_no_numbers(text):
    with pytest.raises(ValueError, match="give row numbers from 0"):
        parse_rows(text)


def test_the_command(tmp_path):
    rows = make_scenes(12, seed=1)
    rows.to_parquet(tmp_path / "scenes.parquet")
    rows[0]["image"].save(tmp_path / "a.png")

    def run(*options):
        return CliRunner().invoke(app, ["explain", str(SHIPPED_MODEL), *map(str, options)])

    table = ("--data", tmp_path / "scenes.parquet", "--out", tmp_path / "many")
    one = run(tmp_path / "a.png", "there is a star", "--out", tmp_path / "one", "--json")
    assert one.exit_code == 0, one.output
    assert json.loads(one.stdout)["words"][-1][0] == "star"
    assert {file.name for file in (tmp_path / "one").iterdir()} == {"explanation.html", "explanation.png"}
    many = run(*table, "--rows", "1,3-4")
    assert many.exit_code == 0, many.output
    records = [json.loads(line) for line in (tmp_path / "many" / "explanations.jsonl").read_text().splitlines()]
    assert [record["row"] for record in records] == [1, 3, 4]
    assert {file.name for file in (tmp_path / "many").iterdir()} == {
        *(f"row-0000{n}.{kind}" for n in (1, 3, 4) for kind in ("html", "png")),
        "explanations.jsonl",
        "index.html",
    }
    before = {file: file.read_bytes() for kind in ("one", "many") for file in (tmp_path / kind).iterdir()}
    for again in (
        (tmp_path / "a.png", "a", "--out", tmp_path / "one"),
        (*table, "--rows", "4"),
        ("--data", tmp_path / "scenes.parquet", "--out", tmp_path / "one", "--image-column", "nope"),
        (tmp_path / "a.png", "a", "--out", tmp_path / "one", "--image-folder", tmp_path),
    ):
        assert run(*again).exit_code == 1
    assert "give --overwrite to replace it" in run(*table, "--rows", "4").output
    assert "--image-folder goes with --data" in run("a.png", "a", "--out", "x", "--image-folder", "y").output
    assert before == {file: file.read_bytes() for file in before}
    more = run(*table, "--rows", "4,5", "--overwrite")
    assert more.exit_code == 0, more.output
    assert {file for file in before if file.parent.name == "many"} < {*(tmp_path / "many").iterdir()}
    assert len((tmp_path / "many" / "explanations.jsonl").read_text().splitlines()) == 2
    compared = run("--faithfulness", tmp_path / "scenes.parquet", "--json")
    assert set(json.loads(compared.stdout)) == set(METHODS)
    missing = run(tmp_path / "b.png", "--out", tmp_path / "x")
    assert missing.exit_code == 1
    assert "does not exist" in missing.output
    for rows in ("99", "0,99"):
        failed = run("--data", tmp_path / "scenes.parquet", "--out", tmp_path / "none", "--rows", rows)
        assert "has 12 rows, so there is no row 99" in failed.output
    assert not (tmp_path / "none").exists()


def test_overwrite_replaces_explanations_and_nothing_else(tmp_path):
    rows = make_scenes(4, seed=3)
    rows.to_parquet(tmp_path / "scenes.parquet")
    kept, names = tmp_path / "kept", ("explanation.png", "explanation.html", "index.html", "row-00001.png")
    kept.mkdir()
    for name in names:
        rows[0]["image"].save(kept / name, "PNG")
    before = {name: (kept / name).read_bytes() for name in names}

    def run(*options):
        found = ["explain", str(SHIPPED_MODEL), *map(str, options), "--out", str(kept), "--overwrite"]
        return CliRunner().invoke(app, found)

    one, many = (kept / "explanation.png", "a red star"), ("--data", tmp_path / "scenes.parquet", "--rows", "1")
    for asked in (one, many):
        failed = run(*asked)
        assert failed.exit_code == 1
        assert "is there and not of diptych: choose another --out" in failed.output
    assert before == {name: (kept / name).read_bytes() for name in names}
    for name in names:
        (kept / name).unlink()
    rows[0]["image"].save(tmp_path / "a.png")
    for asked in ((tmp_path / "a.png", "a red star"), many) * 2:
        again = run(*asked)
        assert again.exit_code == 0, again.output
