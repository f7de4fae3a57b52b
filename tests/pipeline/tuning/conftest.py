"""Sweeps over runs of a moment."""

from __future__ import annotations

import json

import pytest
from diptych import tune
from diptych.pipeline.runtime.outputs import beside
from diptych.pipeline.runtime.record import write_record
from diptych.pipeline.tuning import tune as sweeping

from ..training.test_train import tiny_build


class Runs:
    """In place of `train`: figures follow from the learning rate and the epoch, and the time is a moment.

    Attributes:
        options: That each run was given, in order.
        plan: Called with the number of the run, from 1, and of the epoch, from 0 before the first; may raise.
        figures: Called with the options and the epoch.
    """

    def __init__(self):
        self.options = []
        self.plan = lambda run, epoch: None
        self.figures = lambda options, epoch: 0.5 + 0.01 * epoch - abs(options["learning_rate"] - 1e-3)

    def __call__(self, data, out, *, after_epoch, say, quiet, resume, processes, **options):
        assert processes == 1
        self.options.append({**options, "resume": resume})
        self.plan(len(self.options), 0)
        out.mkdir(parents=True, exist_ok=True)
        write_record(out, {"state": "running"})
        (out / "checkpoints").mkdir(exist_ok=True)
        for epoch in range(1, options.get("epochs", 5) + 1):
            with beside(out / "model") as new:
                new.mkdir()
                (new / "config.json").write_text(json.dumps(options["learning_rate"]))
            figures = {
                "accuracy": self.figures(options, epoch),
                "loss": 1.0,
                "train_loss": 1.0,
                "seconds": 1.0,
                "select": "accuracy",
            }
            after_epoch({"epoch": epoch, **figures})
            self.plan(len(self.options), epoch)
        write_record(out, {"state": "done"})
        return {}


@pytest.fixture
def runs(monkeypatch):
    runs = Runs()
    monkeypatch.setattr(sweeping, "train", runs)
    monkeypatch.setattr(sweeping, "draw_picture", lambda sweep, space, path: path.write_bytes(b""))  # it takes a second
    return runs


@pytest.fixture
def sweep(pairs, text_folder, tmp_path):
    """Run a sweep over tiny models in `tmp_path / "sweep"`; both trunks are random but the text one."""

    def run(data=None, out=tmp_path / "sweep", **options):
        fixed = {
            **tiny_build(text_folder),
            "epochs": 3,
            "batch_size": 8,
            "trials": 4,
            "say": lambda line: None,
            "quiet": True,
        }
        return tune(pairs if data is None else data, out, **(fixed | options))

    return run
