"""Whatever fails, and wherever a process is killed: the old or the new output is whole, and a rerun completes.

The calls of each scenario are counted first. `pytest -m slow tests/faults` fails the first and the last call of each
site (of training, which takes longest, one of the two), DIPTYCH_FAULTS=all both and up to 50 more of each, with every
error; both print how many.
"""

from __future__ import annotations

import contextlib
import os
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from diptych.pipeline.batch_inference.classify_table import classify_table
from diptych.pipeline.batch_inference.parts import RECORD, Parts
from diptych.pipeline.check.check import check
from diptych.pipeline.inference import classifier
from diptych.pipeline.model.folder import load_model, save_model
from diptych.pipeline.runtime.files import digest
from diptych.pipeline.runtime.outputs import beside, write_whole
from diptych.pipeline.runtime.signals import Interrupted

from ..conftest import picture
from ..pipeline.training.test_train import run as train
from .injector import ERRORS, KILL, Site, faults, in_child, snapshot

ALL = os.environ.get("DIPTYCH_FAULTS") == "all"
DECOYS = {
    "keep/.diptych.json": "{}",
    "keep/model/config.json": "{}",
    ".out.csv.old": "of the user",
    ".out.csv.1234": "of the user",
    "out.partial.csv": "of the user",
    "checkpoints/00000001/model.safetensors": "of the user",
    "checkpoints/notes.txt": "of the user",
    ".model.old/weights.bin": "of the user",
    ".ended-r-0-3": "of the user",
    ".failed-r": "of the user",
    ".part-000007.x.parquet": "of the user",
}


@dataclass
class Scenario:
    """Something that writes.

    Attributes:
        before: Called with a folder: what is there before, such as an earlier output.
        work: Called with the folder and whether it is a rerun.
        result: Called with the folder: what came of it; None if nothing is there.
        own: Names in the folder that the work may make or change; hidden ones below them are found by their names.
    """

    before: Callable[[Path], Any]
    work: Callable[[Path, bool], Any]
    result: Callable[[Path], Any]
    own: tuple[str, ...]


def others(folder: Path, own: tuple[str, ...]) -> dict[str, Any]:
    hidden = tuple(f".{name}.{kind}" for name in own for kind in ("diptych", "parts"))
    mine = (*own, *hidden)
    return {name: value for name, value in snapshot(folder).items() if name.split("/")[0] not in mine}


def prepared(folder: Path, scenario: Scenario) -> None:
    for name, content in DECOYS.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    scenario.before(folder)


def strike(scenario: Scenario, new: Callable[[], Path], kinds: tuple[int, ...], *, both_ends: bool) -> Counter[str]:
    """Fail call after call of every site; what came of it."""
    folder = new()
    prepared(folder, scenario)
    with faults() as counted:
        scenario.work(folder, False)
    expected, done = scenario.result(folder), snapshot(folder)
    models = KeptModels()
    for _ in range(2):  # the first one loads it
        prepared(quick := new(), scenario)
        with models.used(), faults() as quickly:
            scenario.work(quick, False)
    rng, outcomes = random.Random(0), Counter[str]()
    for number, (site, calls) in enumerate(sorted(counted.calls.items())):
        if site[1].startswith(("image", "reading", "rows")) and kinds is ERRORS:
            continue  # a picture that cannot be read is a status of its row
        picks = {1, calls} if both_ends else {(1, calls)[number % 2]}
        if ALL:
            picks |= {1, calls, *rng.sample(range(1, calls + 1), min(calls, 50))}
        for place, at in enumerate(sorted(picks)):
            for kind in kinds if ALL else (kinds[((number if both_ends else number // 2) + place) % len(kinds)],):
                in_loading = quickly.calls[site] != calls
                outcomes[one(scenario, new(), site, at, kind, expected, {*done}, models, in_loading)] += 1
    outcomes["sites"] = len(counted.calls)
    return outcomes


class KeptModels:
    """Models that are not loaded again: that is most of the time of a run in which nothing of loading fails."""

    def __init__(self) -> None:
        self._kept: dict[Path, Any] = {}

    @contextlib.contextmanager
    def used(self, use: bool = True) -> Iterator[None]:
        def load(path: Any, **options: Any) -> Any:
            place = Path(path).resolve()
            if place not in self._kept:
                self._kept[place] = load_model(path, **options)
            return self._kept[place]

        with pytest.MonkeyPatch.context() as patch:
            if use:
                patch.setattr(classifier, "load_model", load)
            yield


def one(
    scenario: Scenario,
    folder: Path,
    site: Site,
    at: int,
    error: int,
    expected: Any,
    names: set[str],
    models: KeptModels,
    in_loading: bool,
) -> str:
    where = f"{site[0]} at {site[1]}, call {at}, {'SIGKILL' if error == KILL else os.strerror(error)}"
    prepared(folder, scenario)
    old, around = scenario.result(folder), others(folder, scenario.own)

    def work() -> None:
        with models.used(not in_loading), faults(site, at, error):
            scenario.work(folder, False)

    outcome = "completed"
    if error == KILL:
        code = in_child(work)
        outcome = "killed" if code < 0 else outcome
        assert code in (0, -9), where
    else:
        with contextlib.suppress(ValueError, OSError, Interrupted):
            outcome = "failed"
            work()
            outcome = "completed"
    assert others(folder, scenario.own) == around, where
    found = scenario.result(folder)
    assert found in (old, expected), where
    with models.used():
        scenario.work(folder, True)
    assert scenario.result(folder) == expected, where
    assert others(folder, scenario.own) == around, where
    extra = {name for name in {*snapshot(folder)} - names if "partial" not in name and (folder / name).is_file()}
    assert not extra, f"{where}: {extra} are left"
    return outcome


@pytest.fixture
def new(tmp_path_factory):
    return lambda: tmp_path_factory.mktemp("f")


def show(outcomes: Counter[str], name: str) -> None:
    print(f"{name}: {outcomes.pop('sites')} sites, {outcomes.total()} faults: {dict(outcomes)}")


# Files alone


def text_of(path: Path) -> str | None:
    return path.read_text() if path.exists() else None


def write_folder(folder: Path, again: bool) -> None:
    with beside(folder / "model") as place:
        place.mkdir()
        for name in ("a", "b"):
            (place / name).write_text("new")


def keep_strangers(folder: Path) -> None:
    with beside(folder / "model") as place:
        place.mkdir()
        (place / "a").write_text("old")
        (place / "c").write_text("old")
    (folder / "model" / "notes.txt").write_text("of the user")


def model_of(folder: Path) -> Any:
    from diptych.pipeline.runtime.outputs import restore

    place = restore(folder / "model")
    return {name: text_of(place / name) for name in ("a", "b", "notes.txt")}


def parts_of(folder: Path) -> Parts:
    return Parts(folder / ".out.csv.parts", rows=2, suffix=".csv", file=folder / "out.csv")


def write_in_parts(folder: Path, again: bool) -> None:
    parts = parts_of(folder)
    try:
        if again and (folder / "out.csv").exists() and not (parts.folder / RECORD).exists():
            return  # it was done
        record = parts.begin({"data": "d"}, resume=again, say=lambda line: None)
        if record["state"] == "done":
            return
        there = parts.whole(lambda part: True, lambda line: None)
        rows = parts.write_wanted(
            [{"own": n} for n in range(5)],
            lambda first, rows: ({**row, "status": "ok"} for row in rows),
            wanted=lambda part: part not in there,
            check=lambda: None,
        )
        parts.all_counts(rows)
        parts.end(record)
    finally:
        parts.close()


FILES = {
    "file": Scenario(
        lambda folder: (folder / "out.csv").write_text("old"),
        lambda folder, again: write_whole(folder / "out.csv", b"new"),
        lambda folder: text_of(folder / "out.csv"),
        ("out.csv",),
    ),
    "folder": Scenario(keep_strangers, write_folder, model_of, ("model",)),
    "parts": Scenario(
        lambda folder: None, write_in_parts, lambda folder: text_of(folder / "out.csv"), ("out.csv", ".out.csv.parts")
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("kinds", [ERRORS, (KILL,)], ids=["errors", "kill"])
@pytest.mark.parametrize("name", FILES)
def test_files_folders_and_parts_are_whole_whatever_fails(name, kinds, new):
    outcomes = strike(FILES[name], new, kinds, both_ends=True)
    assert outcomes["failed"] + outcomes["killed"] > 5
    show(outcomes, name)


# The commands


def rows_of(path: Path) -> list[str] | None:
    lines = path.read_text().replace(str(path.parent), "").splitlines() if path.exists() else None
    return lines and [",".join(line.split(",")[:7]) for line in lines]  # sums of floats follow from the batches


def commands(folder: Path, base: Path) -> None:
    for name in ("m", "t.csv", "red.png"):
        (folder / name).symlink_to(base / name)


def classify(out: str, **options: Any) -> Callable[[Path, bool], Any]:
    def work(folder: Path, again: bool) -> None:
        given = dict(options)
        joined = (folder / out).is_file() and not (folder / f".{out}.parts" / RECORD).exists()
        if again and "resume" in given and joined:
            return  # it was joined
        if again and out == "out":
            given = {"resume": True}
        classify_table(
            folder / "t.csv",
            str(folder / out),
            model=folder / "m",
            part_rows=2,
            quiet=True,
            say=lambda _: None,
            **given,
        )

    return work


def parts_in(folder: Path) -> Any:
    import pyarrow.parquet as parquet

    paths = sorted((folder / "out").glob("part-*.parquet"))
    found = [row["row"] for path in paths for row in parquet.read_table(path).to_pylist()]
    return found if found == list(range(5)) else None


def weights_in(folder: Path) -> Any:
    from diptych.pipeline.runtime.outputs import restore

    path = restore(folder / "run" / "model") / "model.safetensors"
    return digest([path]) if path.exists() else None


@pytest.fixture
def base(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    save_model(*tiny, folder / "m")
    picture("red").save(folder / "red.png")
    rows = [f"{'gone' if n == 3 else 'red'}.png,a red shirt,{n}" for n in range(5)]
    (folder / "t.csv").write_text("\n".join(["image,text,id", *rows]) + "\n")
    return folder


def scenarios(base: Path, pairs: Any, text_folder: str) -> dict[str, Scenario]:
    few = pairs.select(range(16))

    def begin(out: str) -> Callable[[Path], Any]:
        return lambda folder: (commands(folder, base), out and (folder / out).write_text("old\n"))

    def learn(folder: Path, again: bool) -> None:
        options: dict[str, Any] = {"epochs": 1, "batch_size": 4, "checkpoint_steps": 1, "validation_share": 0.5}
        train(few, folder / "run", text_folder, resume=again, say=lambda _: None, cache=False, **options)

    def look(folder: Path, again: bool) -> None:
        check(str(folder / "t.csv"), out=folder / "out.csv", overwrite=True, quiet=True)

    own = ("out.csv", ".out.csv.parts", "out", "run", "out.partial-2.csv", "out.partial-3.csv")
    return {
        "check": Scenario(begin("out.csv"), look, lambda folder: rows_of(folder / "out.csv"), own),
        "classify to a file": Scenario(
            begin("out.csv"), classify("out.csv", overwrite=True), lambda folder: rows_of(folder / "out.csv"), own
        ),
        "classify in parts to a file": Scenario(
            begin(""), classify("out.csv", resume=True), lambda folder: rows_of(folder / "out.csv"), own
        ),
        "classify to parts": Scenario(begin(""), classify("out"), parts_in, own),
        "train": Scenario(begin(""), learn, weights_in, own),
    }


NAMES = ("check", "classify to a file", "classify in parts to a file", "classify to parts", "train")


@pytest.mark.slow
@pytest.mark.parametrize("kinds", [ERRORS, (KILL,)], ids=["errors", "kill"])
@pytest.mark.parametrize("name", NAMES)
def test_commands_are_whole_whatever_fails(name, kinds, new, base, pairs, text_folder):
    outcomes = strike(scenarios(base, pairs, text_folder)[name], new, kinds, both_ends=name != "train")
    assert outcomes["failed"] + outcomes["killed"] > 5
    show(outcomes, name)
