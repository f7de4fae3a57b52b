"""Pictures of scores: they are drawn where they should be, whatever the rows, and replace nothing of others."""

from __future__ import annotations

import pytest
import torch
from diptych import evaluate
from diptych.pipeline.cli.main import app
from diptych.pipeline.evaluation import drawing
from diptych.pipeline.evaluation.drawing import draw_coverage, draw_reliability
from diptych.pipeline.model.folder import save_model
from PIL import Image
from typer.testing import CliRunner

from ..model.test_calibration import CLASSES, drawn


@pytest.fixture
def lines(monkeypatch):
    """What is plotted by `draw_coverage`: the points of each line, by its label."""
    found = {}

    def save(figure, path):
        for line in figure.axes[0].lines:
            found.setdefault(line.get_label(), line.get_xydata())

    monkeypatch.setattr(drawing, "_save", save)
    return found


@pytest.mark.parametrize("multi_label", [False, True])
def test_a_reliability_diagram(tmp_path, multi_label):
    logits, labels = drawn(300, seed=0)
    truth = torch.nn.functional.one_hot(labels, CLASSES) if multi_label else labels
    pair = (logits * 3).softmax(1), logits.softmax(1)
    draw_reliability({"both": pair, "image": pair}, {"both": truth, "image": truth}, tmp_path / "r.png")
    with Image.open(tmp_path / "r.png") as image:
        assert image.size[0] > image.size[1]


def test_a_curve_is_the_accuracy_of_the_highest_scores(lines, tmp_path):
    scores = torch.linspace(0.95, 0.55, 40)
    labels = torch.tensor([0] * 20 + [1] * 20)
    draw_coverage({"both": (torch.stack([scores, 1 - scores], 1), labels)}, {"both": {0.9: 0.75}}, tmp_path / "c.png")
    curve = lines["image and text, 40 rows"]
    assert curve[0].tolist() == [50.0, 1.0]
    assert curve[-1].tolist() == [100.0, 0.5]
    assert len(curve) == 21
    assert "where --precision 0.9 and 0.95 answer" in lines


def test_rows_of_one_score_are_answered_together_and_few_rows_have_no_curve(lines, tmp_path):
    same = torch.full((30, 2), 0.5), torch.tensor([0, 1] * 15)
    draw_coverage({"both": same, "text": (same[0][:19], same[1][:19])}, {}, tmp_path / "c.png")
    assert lines["image and text, 30 rows"].tolist() == [[100.0, 0.5]]
    assert not any(label.startswith("text only") for label in lines)
    assert not draw_coverage({"both": (same[0][:19], same[1][:19])}, {}, tmp_path / "d.png")


def test_evaluate_draws_it_into_the_run_and_where_it_is_told_to(tiny, pairs, tmp_path):
    run, data = tmp_path / "run", tmp_path / "rows.parquet"
    save_model(*tiny, run / "model")
    (run / "run.json").write_text("{}")
    pairs.select(range(40)).cast_column("label", pairs.features["label"]).to_parquet(data)
    named = pairs.select(range(40)).remove_columns("label").add_column("label", ["no", "yes"] * 20)
    named.to_parquet(data)
    shown = CliRunner().invoke(app, ["evaluate", str(run), str(data)])
    assert shown.exit_code == 0, shown.output
    with Image.open(run / "coverage.png") as image:
        assert image.size == (768, 528)
    for _ in range(2):  # its own picture is replaced
        evaluate(run, data, quiet=True, out=tmp_path / "new")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["coverage.png"]
    (tmp_path / "new" / "coverage.png").write_bytes(b"mine")
    with pytest.raises(ValueError, match=r"coverage\.png is there and not of diptych: choose another --out"):
        evaluate(run, data, quiet=True, out=tmp_path / "new")
    assert (tmp_path / "new" / "coverage.png").read_bytes() == b"mine"
