"""Sweeps: what is tried, what is kept, how they go on."""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import signal
import subprocess
import sys

import optuna
import pytest
import torch
from diptych import evaluate, load_model
from diptych.pipeline.cli.main import app
from diptych.pipeline.runtime.record import read_record
from diptych.pipeline.runtime.signals import Interrupted
from diptych.pipeline.training import interrupts as stopping
from diptych.pipeline.tuning.study import RANDOM_TRIALS
from diptych.pipeline.tuning.trials import read_sweep
from safetensors.torch import load_file
from typer.testing import CliRunner


class Killed(BaseException):
    """What a SIGKILL is to a test in the same process."""


def parameters(found):
    return [trial["parameters"] for trial in found["trials"]]


def states(found):
    return [trial["state"] for trial in found["trials"]]


def test_trials_differ_and_only_the_best_model_is_kept(runs, sweep, tmp_path):
    found = sweep(trials=8, seed=3)
    best = found["trials"][found["best"] - 1]
    assert best["metrics"][-1] == max(t["metrics"][-1] for t in found["trials"] if t["state"] == "done")
    assert len({json.dumps(one) for one in parameters(found)}) == 8
    folder = tmp_path / "sweep"
    assert json.loads((folder / "model" / "config.json").read_text()) == best["parameters"]["learning_rate"]
    assert sorted(p.name for p in folder.iterdir()) == ["model", "trials", "trials.csv", "trials.png", "tune.json"]
    assert {p.name for p in (folder / "trials").glob("*/*")} == {"run.json"}
    assert found["options"] == {k: v for k, v in runs.options[found["best"] - 1].items() if k != "resume"}
    assert all(options["seed"] == 3 and options["architecture"]["hidden_size"] == 16 for options in runs.options)


def test_the_sampler_learns_where_it_is_good(runs, sweep):
    runs.figures = lambda options, epoch: 0.9 - abs(math.log10(options["learning_rate"] / 2e-3))
    found = sweep(trials=24, fusions=["mlp"], unfreeze_text=0)
    rates = [one["learning_rate"] for one in parameters(found)]
    early, late = rates[1 : 1 + RANDOM_TRIALS], rates[12:]
    off = [sum(abs(math.log10(rate / 2e-3)) for rate in some) / len(some) for some in (early, late)]
    assert off[1] < 0.7 * off[0]


def test_a_seed_chooses_the_same_trials_and_another_others(runs, sweep, tmp_path):
    first, again, other = (
        sweep(out=tmp_path / name, trials=5, seed=seed) for name, seed in zip("abc", (1, 1, 2), strict=True)
    )
    assert parameters(first) == parameters(again)
    assert parameters(first)[1:] != parameters(other)[1:]


def test_a_trial_below_the_median_is_cut_short(runs, sweep, tmp_path):
    runs.figures = lambda options, epoch: 0.9 if len(runs.options) <= 4 else 0.1
    found = sweep(trials=6)
    assert states(found) == ["done"] * 4 + ["pruned"] * 2
    assert [len(trial["metrics"]) for trial in found["trials"]] == [3, 3, 3, 3, 2, 2]  # after one nothing is said
    assert not (tmp_path / "sweep" / "trials" / "0005" / "checkpoints").exists()


def test_whom_the_pruner_gives_up_is_pruned_but_not_after_its_last_epoch(runs, sweep, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        optuna.pruners.MedianPruner, "prune", lambda self, study, trial: asked.append(trial.last_step) or True
    )
    with pytest.raises(ValueError, match=r"none of the 2 trials came to its end$"):
        sweep(trials=2, epochs=3)
    assert asked == [1, 1]
    assert states(sweep(trials=2, epochs=1, out=tmp_path / "short")) == ["done", "done"]


def test_a_trial_that_fails_is_noted_and_the_sweep_goes_on(runs, sweep):
    def plan(run, epoch):
        if run == 2 and epoch == 1:
            raise ValueError("the loss of step 4, in epoch 2, is not finite;\nits rows: 3")
        if run == 3 and epoch == 0:
            raise torch.OutOfMemoryError("out of memory")

    runs.plan = plan
    said = []
    found = sweep(say=said.append)
    assert states(found) == ["done", "failed", "failed", "done"]
    assert found["trials"][1]["reason"] == "the loss of step 4, in epoch 2, is not finite; its rows: 3"
    assert any(re.match(r"trial 2 of 4 .*: failed: the loss of step 4", line) for line in said)


def test_a_first_trial_that_cannot_begin_is_an_error_and_leaves_nothing(runs, sweep, tmp_path):
    def plan(run, epoch):
        raise ValueError("data: all 96 rows have the same label")

    runs.plan = plan
    with pytest.raises(ValueError, match="all 96 rows have the same label"):
        sweep()
    assert len(runs.options) == 1
    assert list((tmp_path / "sweep").iterdir()) == []


def test_if_all_fail_the_reason_is_the_end(runs, sweep, tmp_path):
    def plan(run, epoch):
        if epoch:
            raise ValueError("not finite")

    runs.plan = plan
    with pytest.raises(ValueError, match="none of the 4 trials came to its end, the first failed: not finite"):
        sweep()
    assert (tmp_path / "sweep" / "trials.csv").exists()


@pytest.mark.parametrize("epoch", [0, 2, 3])
def test_a_sweep_that_was_killed_goes_on_as_if_it_had_not_been(runs, sweep, tmp_path, epoch):
    whole = sweep(out=tmp_path / "whole", trials=6)

    def plan(run, at):
        if (run, at) == (6 + 3, epoch):
            raise Killed

    runs.plan = plan
    with pytest.raises(Killed):
        sweep(trials=6)
    before = len(runs.options)
    found = sweep(trials=6, resume=True)
    assert found["trials"] == whole["trials"]
    again = runs.options[before:]
    assert [options["resume"] for options in again] == [
        True,
        False,
        False,
        False,
    ]  # the one that was cut off, then new ones
    assert again[0]["learning_rate"] == parameters(found)[2]["learning_rate"]


def test_a_sweep_that_is_done_may_have_more_trials(runs, sweep):
    first = sweep(trials=3)
    assert sweep(trials=3, resume=True)["trials"] == first["trials"]
    assert len(runs.options) == 3
    more = sweep(trials=5, resume=True)
    assert more["trials"][:3] == first["trials"]
    assert len(runs.options) == len(more["trials"]) == 5


def test_names_alone_come_to_an_end(runs, sweep):
    said = []
    fixed = {"learning_rate": 1e-3, "encoder_learning_rate": 1e-5}
    found = sweep(trials=20, fusions=["mlp", "concat"], **fixed, say=said.append)
    assert len(found["trials"]) == 4
    assert "nothing is left to try: there are no more than 4 trials that differ" in said


def test_a_folder_that_holds_something_else_is_refused(runs, sweep, tmp_path):
    sweep(trials=2)
    with pytest.raises(ValueError, match=r"holds a sweep, of which 2 trials have ended: give --resume"):
        sweep(trials=2)
    (tmp_path / "run" / "model").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"run holds model of something else, which a sweep would replace: choose"):
        sweep(out=tmp_path / "run")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 4}, "epochs is 4, and was 3; give what the sweep began with"),
        ({"fusions": ["mlp"]}, "search is .* and was "),
        ({"seed": 1}, "seed is 1, and was not set"),
    ],
)
def test_a_sweep_goes_on_with_what_it_began_with(runs, sweep, options, message):
    sweep(trials=1)
    with pytest.raises(ValueError, match=f"the sweep in .* cannot go on: {message}"):
        sweep(**options, resume=True)
    sweep(trials=2, workers=0, resume=True)  # which may change


def test_other_data_are_refused(runs, sweep, pairs):
    sweep(trials=1)
    with pytest.raises(ValueError, match=r"cannot go on: train data is 95 rows .*, and was 96 rows"):
        sweep(pairs.select(range(95)), resume=True)


def test_a_signal_says_how_to_go_on(runs, sweep):
    def plan(run, epoch):
        if (run, epoch) == (2, 1):
            raise Interrupted(
                "stopped by SIGTERM after step 4, in epoch 1; saved x. The same command with --resume", 143
            )
        if (run, epoch) == (3, 0):
            raise KeyboardInterrupt

    runs.plan = plan
    with pytest.raises(Interrupted, match=r"^trial 2 of 4 was stopped by SIGTERM after step 4, .*--resume$") as caught:
        sweep()
    assert caught.value.code == 143
    with pytest.raises(Interrupted, match=r"^stopped in trial 2 of 4; the same command with --resume") as caught:
        sweep(resume=True)
    assert caught.value.code == 130


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "epochs is 0; it must be at least 1"),
        ({"learning_rte": 1e-3}, "there is no option 'learning_rte'; did you mean 'learning_rate'"),
    ],
)
def test_an_option_that_is_not_allowed_is_refused_before_the_first_trial(runs, sweep, options, message):
    with pytest.raises(ValueError, match=message):
        sweep(**options)
    assert not runs.options


def test_without_optuna_it_says_what_to_install(sweep, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ValueError, match=r"needs Optuna, which is not installed: pip install 'diptych\[tune\]'"):
        sweep()


def test_the_verbosity_of_optuna_is_left_alone(runs, sweep, capfd):
    before = optuna.logging.get_verbosity()
    sweep(trials=3)
    assert optuna.logging.get_verbosity() == before
    assert "study" not in capfd.readouterr().err


def test_no_trials_are_too_few(sweep):
    with pytest.raises(ValueError, match="trials is 0; it must be at least 1"):
        sweep(trials=0)


@pytest.fixture
def table(pairs, tmp_path):
    pairs.select(range(48)).to_parquet(tmp_path / "pairs.parquet")
    return tmp_path / "pairs.parquet"


def test_real_runs_are_tried_and_the_best_is_kept(sweep, pairs, tmp_path):
    said = []
    found = sweep(pairs.select(range(32)), trials=2, epochs=1, fusions=["mlp", "concat"], say=said.append)
    assert states(found) == ["done", "done"]
    kept, _ = load_model(tmp_path / "sweep")
    assert kept.config.fusion == parameters(found)[found["best"] - 1]["fusion"]
    records = [read_record(tmp_path / "sweep" / "trials" / name) for name in ("0001", "0002")]
    assert [record["best"]["accuracy"] for record in records] == [trial["metrics"][0] for trial in found["trials"]]
    assert [record["run"]["learning_rate"] for record in records] == [p["learning_rate"] for p in parameters(found)]
    assert sum(line.startswith("data: ") for line in said) == 1  # which is the same for all


@pytest.mark.slow
def test_a_sweep_from_the_command_line_and_the_command_that_it_ends_with(table, text_folder, tmp_path, monkeypatch):
    out = tmp_path / "sweep"
    fixed = ["--image-encoder", "resnet-tiny", "--image-weights", "random", "--image-size", "16x16"]
    fixed += ["--text-encoder", text_folder, "--batch-size", "16", "--fusions", "mlp,concat", "--no-cache"]
    command = ["tune", str(table), "--out", str(out), "--trials", "2", "--epochs", "2", *fixed]
    original = stopping.Interrupts.checkpoint

    def checkpoint(watch, progress):  # in the second trial comes a SIGTERM
        if out.joinpath("trials", "0002").exists() and progress.step == 1:
            os.kill(os.getpid(), signal.SIGTERM)
            watch.agree()
        original(watch, progress)

    with monkeypatch.context() as patch:
        patch.setattr(stopping.Interrupts, "checkpoint", checkpoint)
        stopped = CliRunner().invoke(app, command)
    assert stopped.exit_code == 143
    assert "diptych: trial 2 of 2 was stopped by SIGTERM after step 1, in epoch 1; saved" in stopped.stderr
    ended = CliRunner().invoke(app, [*command, "--resume"])
    assert ended.exit_code == 0, ended.output
    assert f"resuming from {out / 'trials' / '0002' / 'checkpoints' / '00000001'}" in ended.stderr
    *_, counts, again = ended.stdout.splitlines()
    assert counts == "2 trials: 2 done"
    assert load_model(out)[0].config.fusion in ("mlp", "concat")
    assert 0 <= evaluate(out, table, quiet=True)["accuracy"] <= 1
    best = read_sweep(out).best
    assert read_record(out / "trials" / f"{best.number:04d}")["best"]["accuracy"] == best.metric
    words = [str(tmp_path / "again") if word == "OUT" else word for word in shlex.split(again)[1:]]
    assert CliRunner().invoke(app, words).exit_code == 0
    ours, theirs = (load_file(folder / "model" / "model.safetensors") for folder in (out, tmp_path / "again"))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.slow
def test_two_processes_share_each_trial(pairs, text_folder, tmp_path):
    script = """
import sys
from datasets import load_from_disk
from diptych import tune

data, out, text_folder = sys.argv[1:]
found = tune(
    load_from_disk(data), out, trials=5, fusions=["mlp", "concat"], processes=2, epochs=3, batch_size=8, quiet=True,
    image_encoder="resnet-tiny", image_weights="random", image_size=(16, 16), text_encoder=text_folder,
    architecture={"hidden_size": 16, "fusion_heads": 2, "fusion_hidden_size": 32}, cache=False,
)
print("returned", found["best"], len(found["trials"]), found["options"]["epochs"])
"""
    (tmp_path / "script.py").write_text(script)
    pairs.select(range(32)).save_to_disk(tmp_path / "data")
    command = [sys.executable, tmp_path / "script.py", tmp_path / "data", tmp_path / "sweep", text_folder]
    ran = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr[-4_000:]
    found = read_sweep(tmp_path / "sweep")
    assert f"returned {found.best.number} 5 3" in ran.stdout
    assert ran.stdout.count("trial 2 of 5 (") == 1  # one of them speaks
    records = [read_record(found.run_folder(trial)) for trial in found.trials]
    assert {record["processes"] for record in records} == {2}
    assert (tmp_path / "sweep" / "model" / "model.safetensors").is_file()
