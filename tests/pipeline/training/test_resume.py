"""Training destroys nothing: files of others with names like ours, an earlier run, another run's folder."""

from __future__ import annotations

import hashlib
import json

import pytest
from diptych import load_model
from diptych.pipeline.runtime.files import Lock
from diptych.pipeline.runtime.outputs import MARK

from ...conftest import kept
from .test_train import run

DECOYS = (
    *("checkpoints/notes.txt", "checkpoints/00000003/model.safetensors", ".model.old/weights", ".model.abc/weights"),
    *("logs.txt", ".run.json.1", ".run.json.diptych.txt", "features/a.safetensors", "trials/0001/model/a"),
)
SHORT = {"epochs": 1, "checkpoint_steps": 2, "validation_share": 0.5, "cache": False}


def snapshot(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def project(tmp_path):
    """A folder of the user's, all of which must be there in the end."""
    with kept(tmp_path / "project", DECOYS) as folder:
        yield folder


def test_a_run_lives_beside_files_of_others_and_is_replaced_on_request_alone(few, text_folder, project):
    run(few, project, text_folder, **SHORT)
    first = snapshot(project / "model")
    (project / "model" / "notes.txt").write_text("of the user")
    with pytest.raises(ValueError, match="project holds a run already: give --overwrite to replace it, or choose"):
        run(few, project, text_folder, **SHORT)
    with pytest.raises(ValueError, match="--resume goes on with a run and --overwrite begins anew: give one of them"):
        run(few, project, text_folder, **SHORT, resume=True, overwrite=True)
    said = []
    run(few, project, text_folder, **SHORT, seed=1, overwrite=True, say=said.append)
    assert [line for line in said if line.startswith("removed")] == [
        f"removed of the earlier run: {project / 'run.json'}, {project / 'model'}"
    ]
    assert snapshot(project / "model")["model.safetensors"] != first["model.safetensors"]
    assert (project / "model" / "notes.txt").read_text() == "of the user"


@pytest.mark.parametrize("options", [{}, {"overwrite": True}, {"resume": True}])
def test_a_picture_of_others_is_not_drawn_over(few, text_folder, project, options):
    (project / "reliability.png").write_bytes(b"mine")
    with pytest.raises(ValueError, match=r"reliability\.png is there and not of diptych: choose another --out"):
        run(few, project, text_folder, **SHORT, **options)
    assert not (project / "run.json").exists()


@pytest.mark.parametrize("name", ["run.json", "model/config.json", "model/notes.txt"])
@pytest.mark.parametrize("options", [{}, {"overwrite": True}, {"resume": True}])
def test_what_a_run_would_replace_and_is_not_of_one_is_named(few, text_folder, project, name, options):
    (project / name).parent.mkdir(exist_ok=True)
    (project / name).write_text("{}")
    before = snapshot(project)
    with pytest.raises(ValueError, match=r"(run.json|model) is not of a run of diptych and would be replaced: choose"):
        run(few, project, text_folder, **SHORT, **options)
    assert snapshot(project) == before


@pytest.fixture
def run_of_03(few, text_folder, tmp_path):
    """An unfinished run as 0.3 left it: no marks, a list of its files in each checkpoint."""
    folder = tmp_path / "earlier"
    run(few, folder, text_folder, **SHORT)
    record = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(record | {"diptych": "0.3.0", "state": "running"}))
    (folder / "model" / MARK).unlink()
    checkpoint = folder / "checkpoints" / "00000002"
    checkpoint.mkdir(parents=True)
    for name in ("model.safetensors", "optimizer.safetensors", "state.json"):
        (checkpoint / name).write_bytes(name.encode())
    contents = {path.name: path.read_bytes() for path in checkpoint.iterdir()}
    files = {
        name: {"bytes": len(content), "blake2b": hashlib.blake2b(content, digest_size=16).hexdigest()}
        for name, content in contents.items()
    }
    (checkpoint / "manifest.json").write_text(json.dumps(files))
    return folder


@pytest.mark.parametrize("state", ["running", "interrupted", "done"])
def test_a_run_of_an_earlier_version_is_refused_before_anything_of_it_is_lost(run_of_03, few, text_folder, state):
    record = json.loads((run_of_03 / "run.json").read_text())
    (run_of_03 / "run.json").write_text(json.dumps(record | {"state": state}))
    before = snapshot(run_of_03)
    with pytest.raises(
        ValueError, match=r"earlier holds a run of diptych 0.3.0, which .* cannot resume: start from its"
    ):
        run(few, run_of_03, text_folder, **SHORT, resume=True)
    with pytest.raises(ValueError, match="earlier holds a run already: give --overwrite to replace it"):
        run(few, run_of_03, text_folder, **SHORT)
    assert snapshot(run_of_03) == before


@pytest.mark.parametrize("lost", ["run.json", "checkpoints/00000002/manifest.json", "checkpoints/00000002/state.json"])
def test_what_is_left_of_an_earlier_versions_run_is_not_taken_for_nothing(run_of_03, few, text_folder, lost):
    (run_of_03 / lost).unlink()
    before = snapshot(run_of_03)
    for options in ({}, {"resume": True}):
        with pytest.raises(ValueError, match=r"earlier(/model)? (holds a run|is not of a run)"):
            run(few, run_of_03, text_folder, **SHORT, **options)
    assert snapshot(run_of_03) == before


def test_a_run_of_an_earlier_version_is_replaced_on_request_checkpoints_included(run_of_03, few, text_folder):
    notes = run_of_03 / "checkpoints" / "00000002" / "notes.txt"
    notes.write_text("of the user")
    run(few, run_of_03, text_folder, **SHORT, overwrite=True)
    assert json.loads((run_of_03 / "run.json").read_text())["state"] == "done"
    assert [path for path in (run_of_03 / "checkpoints").rglob("*") if path.is_file()] == [notes]
    load_model(run_of_03)


def test_a_damaged_checkpoint_of_an_earlier_version_is_named_before_anything_is_replaced(run_of_03, few, text_folder):
    (run_of_03 / "checkpoints" / "00000002" / "state.json").write_text("damaged")
    before = snapshot(run_of_03)
    with pytest.raises(ValueError, match=r"00000002 is a checkpoint of an earlier version, and not as it was written"):
        run(few, run_of_03, text_folder, **SHORT, overwrite=True)
    assert snapshot(run_of_03) == before


def test_data_that_cannot_be_used_leaves_the_earlier_run(few, text_folder, project):
    run(few, project, text_folder, **SHORT)
    before = snapshot(project)
    with pytest.raises(ValueError, match="nosuch"):
        run(project / "nosuch.csv", project, text_folder, **SHORT, overwrite=True)
    assert snapshot(project) == before


def test_two_trainings_in_one_folder_are_told(few, text_folder, project):
    with (
        Lock(project),
        pytest.raises(ValueError, match=r"another run is training in .*project: wait for it"),
    ):
        run(few, project, text_folder, **SHORT)
    assert not (project / "run.json").exists()


@pytest.mark.parametrize("left", [".model.diptych/old", ".model.old"])
@pytest.mark.parametrize("asked", ["run", "run/model"])
def test_a_model_that_was_cut_off_between_two_renames_is_found_when_it_is_loaded(trained_copy, left, asked):
    place = trained_copy / left
    place.parent.mkdir(exist_ok=True)
    (trained_copy / "model").rename(place)
    if left != ".model.old":
        (place.parent / MARK).write_text(json.dumps({"diptych": ""}))
    model, _ = load_model(trained_copy.parent / asked)
    assert model.config.labels
    assert (trained_copy / "model" / "config.json").is_file()


@pytest.fixture
def trained_copy(tiny, tmp_path):
    """A run's folder with a model."""
    from diptych.pipeline.model.folder import save_model

    save_model(*tiny, tmp_path / "run" / "model")
    return tmp_path / "run"
