"""Trackers: what they are told, and what is said where there is none of that name."""

from __future__ import annotations

import accelerate.tracking
import pytest
from accelerate.tracking import GeneralTracker
from diptych.pipeline.training.config import TrainConfig
from diptych.pipeline.training.tracking import EVERY

from .test_train import run


class Diary(GeneralTracker):
    """Keeps what it is told."""

    name = "diary"
    requires_logging_directory = False
    lines: list[tuple[int | None, dict]] = []  # noqa: RUF012
    config: dict = {}  # noqa: RUF012

    def __init__(self, run_name, **_):
        super().__init__()

    @property
    def tracker(self):
        return self

    def store_init_configuration(self, values):
        Diary.config = values

    def log(self, values, step=None, **_):
        Diary.lines.append((step, values))

    def finish(self):
        Diary.lines.append((None, {"end": 1}))


@pytest.mark.slow
def test_a_tracker_hears_of_every_epoch_and_of_the_loss_now_and_then(pairs, text_folder, tmp_path, monkeypatch):
    monkeypatch.setitem(accelerate.tracking.LOGGER_TYPE_TO_CLASS, "diary", Diary)
    monkeypatch.setattr(Diary, "lines", [])
    record = run(pairs, tmp_path, text_folder, epochs=2, tracker="diary", focal_gamma=1.5)
    per_epoch = -(-86 // 8)
    losses = [(step, values) for step, values in Diary.lines if "step_loss" in values]
    assert [step for step, _ in losses] == list(range(EVERY, 2 * per_epoch + 1, EVERY))
    assert all(values["step_loss"] > 0 for _, values in losses)
    epochs = [(step, values) for step, values in Diary.lines if "accuracy" in values]
    assert [step for step, _ in epochs] == [per_epoch, 2 * per_epoch]
    for (_, told), epoch in zip(epochs, record["epochs"], strict=True):
        assert told == {key: value for key, value in epoch.items() if isinstance(value, (int, float))}
        assert {"train_loss", "loss", "macro_f1", "epoch"} <= set(told)
    assert Diary.lines[-1] == (None, {"end": 1})
    assert Diary.config["focal_gamma"] == 1.5
    assert {type(value) for value in Diary.config.values()} <= {int, float, str, bool}


def test_tensorboard_writes_a_file_of_events(pairs, text_folder, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    record = run(pairs, tmp_path, text_folder, epochs=2, tracker="tensorboard")
    events = EventAccumulator(str(tmp_path / "logs" / "diptych")).Reload()
    assert [event.value for event in events.Scalars("accuracy")] == pytest.approx(
        [epoch["accuracy"] for epoch in record["epochs"]]
    )
    assert len(events.Scalars("step_loss")) == 2


def test_without_a_tracker_there_is_no_folder_for_one(pairs, text_folder, tmp_path):
    run(pairs, tmp_path, text_folder, epochs=1)
    assert not (tmp_path / "logs").exists()


def test_an_unknown_tracker_is_refused_and_those_that_there_are_named():
    with pytest.raises(ValueError, match=r"tracker is 'notebook'; choose one of .*mlflow.*tensorboard.*wandb"):
        TrainConfig(tracker="notebook")


@pytest.mark.parametrize(
    ("name", "install"),
    [("tensorboard", r"'diptych\[tensorboard\]'"), ("wandb", "wandb"), ("comet_ml", "comet-ml")],
)
def test_a_tracker_whose_package_is_missing_says_what_to_install(name, install, monkeypatch):
    monkeypatch.setattr(accelerate.tracking, "_available_trackers", [])
    with pytest.raises(ValueError, match=f"tracker is '{name}', whose package is not there: pip install {install}"):
        TrainConfig(tracker=name)
