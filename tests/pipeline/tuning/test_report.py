"""The table, the picture and the lines of a sweep."""

from __future__ import annotations

import csv
import warnings

import matplotlib.figure
import pytest
from diptych.pipeline.runtime.choices import FUSIONS
from diptych.pipeline.tuning.report import draw_picture, sweep_text, trial_text, write_table
from diptych.pipeline.tuning.space import RATES, Freezing, Space
from diptych.pipeline.tuning.trials import Sweep, Trial

FREEZINGS = (Freezing(0, 0, False), Freezing(0, 2, True))
SPACE = Space(RATES, FUSIONS, FREEZINGS)


def sweep(folder, figure="accuracy"):
    rates = {"learning_rate": 5e-4}
    both = {"learning_rate": 1e-3, "encoder_learning_rate": 1.23e-4}
    return Sweep(
        folder,
        {},
        figure,
        [
            Trial(1, {"fusion": "mlp", "freezing": "frozen", **rates}, "done", [0.5, 0.6], [0.9, 0.8], [1.0, 1.5]),
            Trial(2, {"fusion": "concat", "freezing": "text 2", **both}, "done", [0.7, 0.65], [0.5, 0.6], [2.0, 2.0]),
            Trial(3, {"fusion": "mlp", "freezing": "frozen", **rates}, "pruned", [0.4], [0.9], [1.0]),
            Trial(
                4, {"fusion": "mlp", "freezing": "frozen", **rates}, "failed", reason="the loss, of 3, is not finite"
            ),
        ],
    )


def test_the_best_trials_stand_first_and_failures_say_why(tmp_path):
    lines = sweep_text(sweep(tmp_path).record()).splitlines()
    assert [line.split()[:2] for line in lines[:3]] == [["trial", "accuracy"], ["2", "0.7000"], ["1", "0.6000"]]
    assert lines[1].split() == ["2", "0.7000", "2", "4", "concat", "text", "2", "0.001", "0.000123"]
    assert lines[2].split()[-1] == "-"  # nothing learned trains, so it has no such rate
    assert lines[3:] == ["4 trials: 2 done, 1 pruned, 1 failed", "trial 4 failed: the loss, of 3, is not finite"]
    assert len({len(line) for line in lines[:3]}) == 1
    assert [line.split()[0] for line in sweep_text(sweep(tmp_path).record(), top=1).splitlines()[1:3]] == ["2", "4"]


def test_by_the_loss_the_least_is_best_and_shown_as_it_is_and_once(tmp_path):
    trials = [Trial(n, {}, "done", [-loss], [loss], [1.0]) for n, loss in enumerate((0.9, 0.4, 0.6), start=1)]
    found = Sweep(tmp_path, {}, "loss", trials)
    assert [line.split()[:2] for line in sweep_text(found.record()).splitlines()[1:4]] == [
        ["2", "0.4000"],
        ["3", "0.6000"],
        ["1", "0.9000"],
    ]
    assert "loss 0.4000, the best so far" in trial_text(trials[1], found, of=3)
    write_table(found, Space({}, (), ()), tmp_path / "trials.csv")
    assert (tmp_path / "trials.csv").read_text().splitlines()[:2] == [
        "trial,state,loss,epochs,seconds,reason",
        "1,done,0.9,1,1.0,",
    ]


def test_a_line_for_each_trial(tmp_path):
    found = sweep(tmp_path)
    lines = [trial_text(trial, found, of=9) for trial in found.trials]
    assert lines[1] == (
        "trial 2 of 9 (fusion concat, freezing text 2, learning_rate 0.001, encoder_learning_rate 0.000123): "
        "accuracy 0.7000, the best so far, 2 epochs, 4 s"
    )
    assert lines[2].endswith("accuracy 0.4000, pruned, 1 epoch, 1 s")
    assert lines[3].endswith(": failed: the loss, of 3, is not finite")


def test_the_table_holds_every_trial(tmp_path):
    write_table(sweep(tmp_path), SPACE, tmp_path / "trials.csv")
    with (tmp_path / "trials.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["trial"] for row in rows] == ["1", "2", "3", "4"]
    assert rows[1] == {
        "trial": "2",
        "state": "done",
        "accuracy": "0.7",
        "loss": "0.5",
        "epochs": "2",
        "seconds": "4.0",
        "fusion": "concat",
        "freezing": "text 2",
        "learning_rate": "0.001",
        "encoder_learning_rate": "0.000123",
        "reason": "",
    }
    assert (rows[3]["accuracy"], rows[3]["reason"]) == ("", "the loss, of 3, is not finite")


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("space", [SPACE, Space({"learning_rate": (1e-4, 3e-3)}, ("mlp",), FREEZINGS[:1])])
def test_the_picture_shows_each_parameter(tmp_path, count, space, monkeypatch):
    drawn = []
    original = matplotlib.figure.Figure.savefig
    monkeypatch.setattr(
        matplotlib.figure.Figure, "savefig", lambda figure, *a, **k: (drawn.append(figure), original(figure, *a, **k))
    )
    found = sweep(tmp_path, "mean_average_precision")
    found.trials = found.trials[:count]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # such as that of a layout that did not fit
        draw_picture(found, space, tmp_path / "trials.png")
    assert (tmp_path / "trials.png").stat().st_size > 0
    first, *others = drawn[0].axes
    assert first.get_ylabel() == "mean average precision"
    assert [axes.get_xlabel() for axes in drawn[0].axes] == ["trial", *(n.replace("_", " ") for n in space.described())]
    assert {axes.get_xlabel() for axes in others if axes.get_xscale() == "log"} == {
        name.replace("_", " ") for name in space.rates
    }
    dots = [line for line in first.lines if line.get_fillstyle() == "full"]
    expected = [(1, 0.6, 1.0), (2, 0.7, 1.0), (3, 0.4, 0.35)]  # the third was pruned, the fourth failed
    assert [(line.get_xdata()[0], line.get_ydata()[0], line.get_alpha()) for line in dots] == expected[:count]
    [ring] = [line for line in first.lines if line.get_fillstyle() == "none"]
    assert ring.get_ydata()[0] == (0.6 if count == 1 else 0.7)


def test_a_sweep_in_which_nothing_came_to_its_end_is_drawn_too(tmp_path):
    found = sweep(tmp_path)
    found.trials = found.trials[3:]
    found.trials[0].number = 1
    draw_picture(found, SPACE, tmp_path / "trials.png")
    assert (tmp_path / "trials.png").stat().st_size > 0
