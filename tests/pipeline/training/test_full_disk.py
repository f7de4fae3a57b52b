"""Checkpoints that cannot be saved: the last whole one stays, and the error says what was needed."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from diptych.pipeline.training import checkpoints
from diptych.pipeline.training.checkpoints import checkpoint_folders, damage_of

from .conftest import options
from .test_checkpoints import assert_same
from .test_train import run


@pytest.mark.slow
def test_a_full_disk_leaves_the_last_good_one_and_says_what_was_needed(few, text_folder, tmp_path, whole):
    with pytest.MonkeyPatch.context() as patch:
        original, calls = checkpoints.save_file, []

        def save_file(tensors, path):
            calls.append(path)
            if len(calls) > 3:  # the optimizer of the second checkpoint
                raise OSError(28, "No space left on device")
            original(tensors, path)

        patch.setattr(checkpoints, "save_file", save_file)
        said = r"00000006 cannot be written \(No space left on device\): it needs \d\.\d MB, .*good one is .*00000003"
        with pytest.raises(OSError, match=said):
            run(few, tmp_path, text_folder, **options())
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["00000003"]
    assert_same(tmp_path, run(few, tmp_path, text_folder, **options(), resume=True), whole)


def test_a_disk_that_has_no_room_is_said_before_anything_is_written(few, text_folder, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(checkpoints.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    monkeypatch.setattr(checkpoints, "save_file", None)
    with pytest.raises(OSError, match=r"the disk is full\): it needs .* 0\.0 MB are free; there is none before it"):
        run(few, tmp_path, text_folder, **options())
    assert not list((tmp_path / "checkpoints").iterdir())


@pytest.mark.slow
def test_a_disk_that_really_fills_up(few, text_folder, tmp_path):
    """On a file system of ten megabytes: two checkpoints fit, a third doesn't."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=10m", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("a small file system cannot be mounted here")
    try:
        with pytest.raises(OSError, match=r"it needs \d\.\d MB, \d\.\d MB are free; the last good one is .*0000000\d"):
            run(few, disk / "run", text_folder, **options(checkpoint_steps=1, keep=10))
        good = checkpoint_folders(disk / "run" / "checkpoints")
        assert good
        assert [damage_of(path) for path in good] == [None] * len(good)
    finally:
        subprocess.run(["umount", str(disk)], check=True)
