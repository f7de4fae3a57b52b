"""One sweep or run in a folder at a time."""

from __future__ import annotations

import pytest
from diptych.pipeline.runtime.files import Lock

from ..training.test_train import run as train
from .test_tune import states

pytestmark = pytest.mark.usefixtures("decoys")


@pytest.mark.parametrize("resume", [False, True])
def test_two_sweeps_in_one_folder_are_told_and_neither_is_disturbed(runs, sweep, tmp_path, resume):
    told: list[str] = []

    def plan(run: int, epoch: int) -> None:
        if (run, epoch) == (2, 1):
            before = {path: path.stat().st_mtime_ns for path in (tmp_path / "sweep").rglob("*")}
            for out in (tmp_path / "sweep", tmp_path / "sweep" / ".." / "sweep"):
                with pytest.raises(
                    ValueError, match=r"another sweep or run is at work in .*sweep: wait for it"
                ) as error:
                    sweep(out=out, resume=resume)
                told.append(str(error.value))
            assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "sweep").rglob("*")}
            assert len(sweep(out=tmp_path / "other", trials=1)["trials"]) == 1

    runs.plan = plan
    assert len(states(sweep())) == 4
    assert len(told) == 2
    assert len(sweep(resume=True, trials=5)["trials"]) == 5, "a sweep that has ended holds nothing"


def test_a_sweep_keeps_a_training_run_out_of_its_folder(runs, sweep, pairs, text_folder, tmp_path):
    def plan(run: int, epoch: int) -> None:
        if run == 1 and epoch == 1:
            with pytest.raises(ValueError, match=r"another run is training in .*sweep"):
                train(pairs, tmp_path / "sweep", text_folder, epochs=1)

    runs.plan = plan
    assert states(sweep(trials=1)) == ["done"]
    assert not (tmp_path / "sweep" / "run.json").exists()
    with Lock(tmp_path / "sweep"), pytest.raises(ValueError, match=r"another sweep or run is at work in .*sweep"):
        sweep(trials=2, resume=True)
