"""One process for each GPU: how many, and that they share a run, its errors and its end (CPU and gloo, for GPUs)."""

from __future__ import annotations

import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import datasets
import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from diptych.pipeline.cli.main import app
from diptych.pipeline.model.folder import save_model
from diptych.pipeline.runtime import launch
from diptych.pipeline.runtime.signals import Interrupted
from typer.testing import CliRunner

CONFIGURATIONS = Path(__file__).parents[3] / "examples" / "accelerate"
ENVIRONMENT = {name: value for name, value in os.environ.items() if name not in ("RANK", "LOCAL_RANK", "WORLD_SIZE")}
ENVIRONMENT |= {"OMP_NUM_THREADS": "1"}


@pytest.fixture
def gpus(monkeypatch):
    """Sets how many GPUs there seem to be; no launcher has started this process."""
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)

    def set_count(count):
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.accelerator, "device_count", lambda: count)

    return set_count


@pytest.mark.parametrize(
    ("there", "asked", "started"), [(0, None, 1), (0, 3, 3), (1, None, 1), (4, None, 4), (4, 1, 1), (4, 3, 3)]
)
def test_one_process_for_each_gpu_or_what_is_asked_for(gpus, there, asked, started):
    gpus(there)
    assert launch.wanted(asked) == launch.forks(asked, say=pytest.fail) == started


@pytest.mark.parametrize(
    ("there", "asked", "message"),
    [
        (4, 5, r"processes is 5, more than there are GPUs \(4\)"),
        (4, 0, "is 0; give 1"),
        (0, 1000, "processes is 1000, and there are 2 CPUs; give 8 or fewer"),
        (0, 9, "give 8 or fewer"),
    ],
)
def test_more_processes_than_gpus_far_more_than_cpus_or_none_are_refused(gpus, monkeypatch, there, asked, message):
    gpus(there)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    with pytest.raises(ValueError, match=message):
        launch.wanted(asked)


@pytest.mark.parametrize("name", ["RANK", "LOCAL_RANK"])
def test_what_a_launcher_has_started_starts_nothing(gpus, monkeypatch, name):
    gpus(4)
    monkeypatch.setenv(name, "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert launch.wanted() == launch.wanted(2) == 1
    with pytest.raises(ValueError, match="processes is 4, but this is one of 2 that a launcher has started"):
        launch.wanted(4)


def test_what_has_used_cuda_cannot_be_forked(gpus, monkeypatch):
    gpus(4)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    said = []
    assert launch.forks(None, said.append) == 1
    [line] = said
    assert line.startswith("CUDA is in use in this process already: training on one of 4 GPUs; restart the notebook")
    with pytest.raises(ValueError, match="CUDA is in use in this process already, so that it cannot become 2"):
        launch.forks(2, pytest.fail)
    assert launch.forks(1, pytest.fail) == 1


def test_of_several_errors_the_one_that_says_most_is_told(tmp_path):
    assert launch._first_error(tmp_path) == (None, "")
    errors = [ConnectionError("lost"), Interrupted("", 143), Interrupted("saved", 143), ValueError("too late")]
    for rank, error in enumerate(errors):
        (tmp_path / str(rank)).write_bytes(pickle.dumps((error, "")))
    (tmp_path / "9.part").write_bytes(b"half of one")
    found, _ = launch._first_error(tmp_path)
    assert (type(found), str(found), found.code) == (Interrupted, "saved", 143)


@pytest.mark.parametrize(("name", "machines", "processes"), [("eight_gpus", 1, 8), ("two_machines", 2, 16)])
def test_configurations_are_what_accelerate_reads(name, machines, processes):
    found = load_config_from_file(str(CONFIGURATIONS / f"{name}.yaml"))
    assert (found.distributed_type, found.num_machines, found.num_processes) == ("MULTI_GPU", machines, processes)
    assert (found.machine_rank, found.mixed_precision, found.use_cpu) == (0, "no", False)


@pytest.fixture
def folder(pairs, tiny, tmp_path):
    """A folder to work in, with 24 rows of `data` and a tiny `model`."""
    some = pairs.select(range(24))
    datasets.DatasetDict({"train": some, "validation": some}).save_to_disk(tmp_path / "data")
    save_model(*tiny, tmp_path / "model")
    return tmp_path


def train(*options, out="run", epochs=1):
    start = [sys.executable, "-m", "diptych", "train", "data", "--out", out, "--model", "model", "--batch-size", 8]
    return [str(part) for part in (*start, "--epochs", epochs, *options)]


def launched(config, *options):
    options = ["--num_processes", "2", *options, *train()[1:]]
    return [sys.executable, "-m", "accelerate.commands.launch", "--config_file", CONFIGURATIONS / config, *options]


def ran(folder, command, **environment):
    return subprocess.run(
        command, capture_output=True, text=True, cwd=folder, env=ENVIRONMENT | environment, timeout=240
    )


def record(folder, out="run"):
    return json.loads((folder / out / "run.json").read_text())


@pytest.mark.slow
def test_the_command_starts_its_processes_by_itself(folder):
    found = ran(folder, train("--processes", 2, "--json"))
    assert (found.returncode, found.stderr) == (0, "")
    assert json.loads(found.stdout) == record(folder)  # said once
    assert (record(folder)["processes"], record(folder)["state"], record(folder)["steps"]) == (2, "done", 3)


@pytest.mark.slow
def test_classify_starts_them_too(folder):
    command = [sys.executable, "-m", "diptych", "classify", "--data", "data", "--split", "train", "--processes", "2"]
    found = ran(folder, [*command, "--model", "model", "--out", "all.jsonl", "--part-rows", "10", "--json"])
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout)["ok"] == 24  # said once
    rows = [json.loads(line)["row"] for line in (folder / "all.jsonl").read_text().splitlines()]
    assert rows == list(range(24))


def test_processes_are_for_many_pairs():
    found = CliRunner().invoke(app, ["classify", "a.png", "a red shirt", "--processes", "2"])
    assert found.exit_code == 1
    assert found.stderr.startswith("diptych: --processes goes with --data, and does nothing without it")


@pytest.mark.slow
def test_what_both_processes_find_wrong_is_said_once(folder):
    found = ran(folder, train("--processes", 2, "--label-column", "nothing"))
    assert (found.returncode, found.stdout) == (1, "")
    assert found.stderr.startswith("diptych: data train has no label column 'nothing'")
    assert found.stderr.count("\n") == 1


ONE_FAILS = """
import os
from diptych.pipeline.cli import terminal
from diptych.pipeline.training import setup
from diptych.pipeline.cli.main import main

def broken(*arguments, **options):
    if os.environ["RANK"] == "1":
        raise ValueError("only here")

setup.quick_check, terminal.HEAD_START = broken, 1
main()
"""


@pytest.mark.slow
def test_an_error_of_one_process_alone_is_said_with_its_number(folder):
    (folder / "script.py").write_text(ONE_FAILS)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "script.py"]
    found = ran(folder, [*command, *train()[3:]], ACCELERATE_USE_CPU="true")
    assert found.returncode == 1
    assert "\ndiptych: process 1: only here\n" in f"\n{found.stderr}"


@pytest.mark.slow
def test_sigterm_to_the_command_saves_the_run_and_resume_goes_on(folder):
    command = train("--processes", 2, "--checkpoint-steps", 1, epochs=10)
    running = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=folder, env=ENVIRONMENT)
    checkpoints = folder / "run" / "checkpoints"
    until = time.monotonic() + 200
    while not (checkpoints.is_dir() and any(path.name.isdigit() for path in checkpoints.iterdir())):
        assert time.monotonic() < until
        assert running.poll() is None
        time.sleep(0.1)
    running.send_signal(signal.SIGTERM)
    said = running.communicate(timeout=100)[1].splitlines()
    assert running.returncode == 143
    assert said[-1].startswith("diptych: stopped by SIGTERM after step ")
    assert sum(line.startswith("diptych: ") for line in said) == 1
    assert record(folder)["state"] == "interrupted"

    found = ran(folder, train("--processes", 2, "--resume", epochs=10))
    assert found.returncode == 0, found.stderr
    assert "resuming from run/checkpoints/" in found.stderr
    assert (record(folder)["state"], record(folder)["steps"]) == ("done", 30)


FROM_PYTHON = """
import sys
from datasets import load_from_disk
from diptych import train

data = load_from_disk("data")
options = {"model": "model", "batch_size": 8, "epochs": 1, "quiet": True, "say": lambda line: None}
train(data, "one", processes=1, **options)  # what it leaves in this process is not in the way of the others
record = train(data, "run", processes=2, **options)
print(record["processes"], record["state"])
try:
    train(data, "other", processes=2, label_column="nothing", **options)
except ValueError as error:
    print(error)
"""


@pytest.mark.slow
def test_python_forks_and_hears_of_errors(folder):
    (folder / "script.py").write_text(FROM_PYTHON)
    found = ran(folder, [sys.executable, "script.py"])
    assert found.returncode == 0, found.stderr
    assert found.stdout.splitlines()[0] == "2 done"
    assert found.stdout.splitlines()[1].startswith("train has no label column 'nothing'")
    assert len(found.stdout.splitlines()) == 2
    assert (record(folder, "one")["processes"], record(folder)["processes"]) == (1, 2)


@pytest.mark.slow
def test_the_configuration_of_one_machine_trains(folder):
    found = ran(folder, launched("eight_gpus.yaml"), ACCELERATE_USE_CPU="true")
    assert found.returncode == 0, found.stderr
    assert (record(folder)["processes"], record(folder)["state"]) == (2, "done")


@pytest.mark.slow
def test_the_configuration_of_two_machines_trains(folder):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    machines = [
        subprocess.Popen(
            launched(
                "two_machines.yaml",
                "--machine_rank",
                str(rank),
                "--main_process_ip",
                "127.0.0.1",
                "--main_process_port",
                str(port),
            ),
            stderr=subprocess.PIPE,
            text=True,
            cwd=folder,
            env=ENVIRONMENT | {"ACCELERATE_USE_CPU": "true"},
        )
        for rank in (0, 1)
    ]
    for machine in machines:
        said = machine.communicate(timeout=240)[1]
        assert machine.returncode == 0, said
    assert (record(folder)["processes"], record(folder)["state"]) == (2, "done")
