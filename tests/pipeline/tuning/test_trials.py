"""The record of a sweep, and what its folder keeps."""

from __future__ import annotations

import json

import pytest
from diptych.pipeline.runtime.outputs import beside
from diptych.pipeline.tuning.trials import Sweep, Trial, read_sweep


def trial(number, *figures, state="done", losses=None):
    losses = list(losses or [1.0] * len(figures))
    return Trial(number, {"fusion": "mlp"}, state, list(figures), losses, [2.0] * len(figures))


def sweep(folder, *trials):
    found = Sweep(folder, {"seed": 0}, "accuracy", list(trials))
    for one in trials:
        place = found.run_folder(one)
        place.mkdir(parents=True)
        with beside(place / "model") as new:
            new.mkdir()
            (new / "config.json").write_text(str(one.number))
        (place / "checkpoints").mkdir()
        (place / "run.json").write_text("{}")
    return found


def kept(folder):
    return (folder / "model" / "config.json").read_text()


def left(found, one):
    return sorted(path.name for path in found.run_folder(one).iterdir())


def test_the_best_is_that_of_the_best_epoch_then_of_the_lower_loss(tmp_path):
    equal = [trial(1, 0.5, 0.8, losses=[0.9, 0.7]), trial(2, 0.8, 0.6, losses=[0.6, 0.9])]
    assert Sweep(tmp_path, {}, "accuracy", equal).best is equal[1]
    others = [trial(3, 0.9, state="pruned"), trial(4, state="failed"), trial(5, 0.95, state="running")]
    assert Sweep(tmp_path, {}, "accuracy", [*equal, *others]).best is equal[1]
    assert Sweep(tmp_path, {}, "accuracy", others).best is None


def test_an_epoch_that_is_trained_again_counts_once():
    one = trial(1, 0.5, 0.6, 0.7, state="running")
    one.end_epoch(2, 0.65, 0.4, 3.0)
    assert (one.metrics, one.losses, one.seconds) == ([0.5, 0.65], [1.0, 0.4], [2.0, 3.0])
    one.end_epoch(3, 0.6, 0.5, 3.0)
    assert one.metric == 0.65


def test_what_is_saved_is_read_again(tmp_path):
    found = sweep(tmp_path, trial(1, 0.5), trial(2, 0.25, state="pruned"))
    found.trials.append(Trial(3, {"fusion": "concat"}, "failed", reason="no"))
    found.save()
    assert read_sweep(tmp_path) == found
    assert read_sweep(tmp_path / "trials") is None


@pytest.mark.parametrize("content", ["{", "[]", '{"trials": []}', '{"trials": [{}], "identity": {}, "metric": ""}'])
def test_a_record_that_is_none_is_said(tmp_path, content):
    (tmp_path / "tune.json").write_text(content)
    with pytest.raises(ValueError, match=r"tune.json is not the record of a sweep .*; choose another --out"):
        read_sweep(tmp_path)


def test_only_the_best_model_stays_and_what_a_running_trial_needs(tmp_path):
    first, second, third = trial(1, 0.5), trial(2, 0.4), trial(3, 0.3, state="running")
    found = sweep(tmp_path, first, second, third)
    found.save()
    assert kept(tmp_path) == "1"
    assert left(found, first) == left(found, second) == ["run.json"]
    assert left(found, third) == ["checkpoints", "model", "run.json"]
    third.state, third.metrics = "done", [0.6]
    found.save()
    assert kept(tmp_path) == "3"
    assert left(found, third) == ["run.json"]
    found.save()  # there is nothing to do
    assert kept(tmp_path) == "3"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "trials", "tune.json"]


@pytest.mark.parametrize("renames", [0, 1])
def test_a_folder_left_between_two_renames_is_put_right(tmp_path, renames, monkeypatch):
    class Killed(BaseException):
        pass

    found = sweep(tmp_path, trial(1, 0.5), trial(2, 0.4, state="running"))
    found.save()
    found.trials[1].state, found.trials[1].metrics = "done", [0.6]
    original, done = type(tmp_path).rename, []

    def rename(path, target):
        if len(done) == renames:
            raise Killed
        done.append(path)
        return original(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(type(tmp_path), "rename", rename)
        with pytest.raises(Killed):
            found.save()
    assert json.loads((tmp_path / "tune.json").read_text())["best"] == 2
    read_sweep(tmp_path).clear()
    assert kept(tmp_path) == "2"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "trials", "tune.json"]
