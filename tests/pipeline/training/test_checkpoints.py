"""Checkpoints: a run that is stopped anywhere and goes on ends as if it had never stopped."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys

import pytest
import torch
from diptych.pipeline.loading.dataset import PairDataset
from diptych.pipeline.loading.loader import order
from diptych.pipeline.runtime.outputs import MARK
from diptych.pipeline.runtime.signals import Interrupted
from diptych.pipeline.training import checkpoints
from diptych.pipeline.training import interrupts as stopping
from diptych.pipeline.training import loop as fit
from diptych.pipeline.training.checkpoints import checkpoint_folders, damage_of
from safetensors.torch import load_file

from .conftest import options
from .test_train import run


class Killed(BaseException):
    """What a SIGKILL is to a test in the same process: nothing in the run may catch it."""


@contextlib.contextmanager
def killed_after(step):
    """End the run in the middle of what follows its step number `step`, without a word."""
    with pytest.MonkeyPatch.context() as patch:
        original = stopping.Interrupts.checkpoint

        def checkpoint(watch, progress):
            original(watch, progress)
            if progress.step == step:
                raise Killed

        patch.setattr(stopping.Interrupts, "checkpoint", checkpoint)
        with pytest.raises(Killed):
            yield


@pytest.fixture(scope="module")
def stopped(few, text_folder, tmp_path_factory):
    """The folder of a run that was killed after step 8 of 10; copy it."""
    folder = tmp_path_factory.mktemp("stopped")
    with killed_after(8):
        run(few, folder, text_folder, **options())
    return folder


@pytest.fixture
def left(stopped, tmp_path):
    """A copy of what that run left."""
    return shutil.copytree(stopped, tmp_path / "run")


def weights(folder):
    return load_file(folder / "model" / "model.safetensors")


def assert_same(folder, record, whole):
    other, expected = whole
    ours, theirs = weights(folder), weights(other)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)

    def figures(record):
        return [{key: value for key, value in epoch.items() if key != "seconds"} for epoch in record["epochs"]]

    assert figures(record) == figures(expected)
    assert (record["start"], record["state"], record["steps"]) == (expected["start"], "done", 10)


def steps(folder):
    return [int(path.name) for path in checkpoint_folders(folder / "checkpoints")]


def test_a_killed_run_goes_on_to_the_same_weights_and_figures(left, few, text_folder, whole):
    said = []
    assert steps(left) == [3, 6]
    assert json.loads((left / "run.json").read_text())["state"] == "interrupted"
    record = run(few, left, text_folder, **options(), resume=True, say=said.append)
    assert f"resuming from {left / 'checkpoints' / '00000006'}" in said
    assert_same(left, record, whole)
    assert not (left / "checkpoints").exists()  # nothing is left to go on with


def test_in_the_middle_of_an_epoch_only_the_rows_that_are_left_are_read(left, few, text_folder):
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        original = PairDataset.__getitem__

        def read(dataset, key):
            seen.append(key)
            return original(dataset, key)

        patch.setattr(PairDataset, "__getitem__", read)
        run(few, left, text_folder, **options(), resume=True)
    trained = [key for key in seen if key[0] == 2]
    assert trained == [
        (2, index) for index in order(40, seed=0, epoch=2)[8:]
    ]  # step 6 was the first of the second epoch


def test_workers_and_the_time_of_checkpoints_change_nothing(few, text_folder, tmp_path, whole):
    with killed_after(4):
        run(few, tmp_path, text_folder, **options(workers=2, checkpoint_steps=2))
    record = run(few, tmp_path, text_folder, **options(workers=1, checkpoint_steps=0, keep=1), resume=True)
    assert_same(tmp_path, record, whole)


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("model.safetensors", "flip"),
        ("optimizer.safetensors", "cut"),
        ("state.json", "gone"),
        (MARK, "gone"),
        (MARK, "cut"),
    ],
)
def test_every_damage_is_seen(left, file, damage):
    path = left / "checkpoints" / "00000006"
    assert damage_of(path) is None
    content = (path / file).read_bytes()
    if damage == "gone":
        (path / file).unlink()
    elif damage == "cut":
        (path / file).write_bytes(content[:-20])
    else:
        middle = len(content) // 2
        (path / file).write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    assert file in damage_of(path) or "cannot be read" in damage_of(path)


def test_a_damaged_checkpoint_is_skipped_and_said(left, few, text_folder, whole):
    said = []
    newest = left / "checkpoints" / "00000006"
    (newest / "model.safetensors").write_bytes(b"junk")
    record = run(few, left, text_folder, **options(), resume=True, say=said.append)
    assert f"skipping the checkpoint {newest}: model.safetensors is not what was written" in said
    assert f"resuming from {left / 'checkpoints' / '00000003'}" in said
    assert_same(left, record, whole)


def test_without_checkpoints_it_starts_from_the_beginning_and_says_so(few, text_folder, tmp_path, whole):
    said = []
    record = run(few, tmp_path, text_folder, **options(), resume=True, say=said.append)
    assert f"no whole checkpoint in {tmp_path / 'checkpoints'}: starting from the beginning" in said
    assert_same(tmp_path, record, whole)


def test_a_run_that_is_done_stays_as_it_is(few, text_folder, whole):
    folder, record = whole
    said = []
    before = (folder / "model" / "model.safetensors").stat().st_mtime_ns
    assert run(few, folder, text_folder, **options(), resume=True, say=said.append) == json.loads(json.dumps(record))
    assert any("is done: there is nothing to resume" in line for line in said)
    assert (folder / "model" / "model.safetensors").stat().st_mtime_ns == before
    with pytest.raises(ValueError, match="epochs is 3, and was 2"):
        run(few, folder, text_folder, **options(epochs=3), resume=True)


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ({"learning_rate": 1e-4}, "learning_rate is 0.0001, and was 0.003"),
        ({"seed": 1}, "seed is 1, and was 0|data"),
        ({"architecture": {"hidden_size": 8, "fusion_heads": 2}}, "fusion_hidden_size is .*, and was 32"),
        ({"crop": False}, "crop is False, and was True"),
        ({"max_length": 5}, "max_length is 5, and was 40"),
    ],
)
def test_another_run_is_refused_by_name(left, few, text_folder, others, message):
    with pytest.raises(ValueError, match=rf"the run in .* cannot go on: ({message}); give what the run began with"):
        run(few, left, text_folder, **options(), resume=True, **others)


def test_other_data_is_refused(left, few, text_folder):
    other = few.map(lambda row, index: {"text": "a green shoe" if index % 3 else row["text"]}, with_indices=True)
    with pytest.raises(ValueError, match=r"training data is 40 rows \(\w+\), and was 40 rows \(\w+\)"):
        run(other, left, text_folder, **options(), resume=True)


def test_a_new_run_does_not_wipe_one_that_is_not_done(left, few, text_folder):
    with pytest.raises(ValueError, match="holds a run that is not done, saved at step 6: go on with --resume"):
        run(few, left, text_folder, **options())
    assert steps(left) == [3, 6]


@pytest.mark.parametrize("place", ["model.safetensors", "optimizer.safetensors", "rename", "prune"])
def test_a_kill_inside_a_save_leaves_the_one_before(few, text_folder, tmp_path, whole, place):
    saves = []

    def save_file(tensors, path):
        saves.append(path)
        original_save(tensors, path)
        if len(saves) > 2 and path.name == place:  # of the second checkpoint
            path.write_bytes(path.read_bytes()[:100])
            raise Killed

    def die(*_, **__):
        if len(saves) > 2:
            raise Killed

    with pytest.MonkeyPatch.context() as patch:
        original_save = checkpoints.save_file
        patch.setattr(checkpoints, "save_file", save_file)
        if place == "rename":
            rename = checkpoints.Path.rename
            patch.setattr(checkpoints.Path, "rename", lambda path, to: die() or rename(path, to))
        if place == "prune":
            patch.setattr(checkpoints.Checkpoints, "_prune", die)
        with pytest.raises(Killed):
            run(few, tmp_path, text_folder, **options())
    whole_ones = 1 + (place == "prune")
    assert [damage_of(path) for path in checkpoint_folders(tmp_path / "checkpoints")] == [None] * whole_ones
    assert_same(tmp_path, run(few, tmp_path, text_folder, **options(), resume=True), whole)


def test_a_kill_while_the_best_model_is_replaced_loses_nothing(few, text_folder, tmp_path, whole):
    with killed_after(8):
        run(few, tmp_path, text_folder, **options())
    space = tmp_path / ".model.diptych"
    (space / "new").mkdir(parents=True)
    (space / MARK).write_text('{"diptych": ""}')
    (tmp_path / "model").rename(space / "old")
    assert_same(tmp_path, run(few, tmp_path, text_folder, **options(), resume=True), whole)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "run.json"]


def test_the_last_ones_are_kept(few, text_folder, tmp_path):
    with killed_after(9):
        run(few, tmp_path, text_folder, **options(checkpoint_steps=1, keep=3))
    assert steps(tmp_path) == [7, 8, 9]
    assert sorted(path.name for path in (tmp_path / "checkpoints" / "00000009").iterdir()) == [
        MARK,
        "model.safetensors",
        "optimizer.safetensors",
        "state.json",
    ]


def test_checkpoints_by_the_clock(few, text_folder, tmp_path):
    with killed_after(4):
        run(few, tmp_path, text_folder, **options(checkpoint_steps=0, checkpoint_minutes=1e-9))
    assert steps(tmp_path) == [3, 4]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_leaves(few, text_folder, tmp_path, whole, number, code):
    handlers = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
    with pytest.MonkeyPatch.context() as patch:
        original = fit.draw_seed

        def seed(of, what, epoch, *place):
            if (epoch, *place[:1]) == (1, 3):  # within step 4
                os.kill(os.getpid(), number)
            return original(of, what, epoch, *place)

        patch.setattr(fit, "draw_seed", seed)
        said = rf"stopped by {number.name} after step 4, in epoch 1; saved .*00000004"
        with pytest.raises(Interrupted, match=said) as it:
            run(few, tmp_path, text_folder, **options(checkpoint_steps=0))
    assert it.value.code == code
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)] == handlers
    assert json.loads((tmp_path / "run.json").read_text())["state"] == "interrupted"
    assert_same(tmp_path, run(few, tmp_path, text_folder, **options(), resume=True), whole)


def test_the_record_says_that_a_run_is_under_way(few, text_folder, tmp_path):
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        original = fit.Fit._epoch

        def epoch(*arguments):
            record = json.loads((tmp_path / "run.json").read_text())
            seen.append((record["state"], len(record["epochs"])))
            return original(*arguments)

        patch.setattr(fit.Fit, "_epoch", epoch)
        record = run(few, tmp_path, text_folder, **options())
    assert seen == [("running", 0), ("running", 1)]
    assert json.loads((tmp_path / "run.json").read_text())["state"] == record["state"] == "done"


COMMAND = """
import os, sys, signal
from diptych.pipeline.training import loop as fit
from diptych.pipeline.cli.main import main

number, times = int(sys.argv.pop(1)), int(sys.argv.pop(1))
original = fit.draw_seed

def seed(of, what, epoch, *place):
    if (epoch, *place[:1]) >= (1, 1):
        for _ in range(times):
            os.kill(os.getpid(), number)
        if times > 1:
            print("still here", flush=True)
    return original(of, what, epoch, *place)

if number:
    fit.draw_seed = seed
main()
"""


@pytest.mark.slow
def test_the_command_line_says_how_to_go_on_and_does(few, text_folder, tmp_path):
    few.save_to_disk(tmp_path / "data")
    command = ["train", tmp_path / "data", "--out", tmp_path / "run", "--image-encoder", "resnet-tiny"]
    command += ["--image-weights", "random", "--image-size", "16x16", "--text-encoder", text_folder]
    command += ["--epochs", 1, "--batch-size", 8, "--resume"]

    def call(number, times):
        arguments = [sys.executable, "-c", COMMAND, number, times, *command]
        return subprocess.run(list(map(str, arguments)), capture_output=True, text=True, timeout=300)

    stopped = call(15, 1)
    assert stopped.returncode == 143, stopped.stderr
    last = stopped.stderr.strip().splitlines()[-1]
    assert last.startswith("diptych: stopped by SIGTERM after step 2, in epoch 1; saved ")
    assert last.endswith("The same command with --resume goes on from there")
    at_once = call(2, 2)
    assert at_once.returncode == 130
    assert "still here" not in at_once.stdout
    again = call(0, 0)
    assert again.returncode == 0, again.stderr
    assert "resuming from" in again.stderr
    assert json.loads((tmp_path / "run" / "run.json").read_text())["state"] == "done"
