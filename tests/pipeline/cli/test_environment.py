"""What surrounds the command: closed streams, variables of launchers, homes, limits, signals. One line, or it works."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time

import pytest
from diptych.pipeline.cli.terminal import process_rank, require_whole_launcher
from diptych.pipeline.model.folder import save_model

from ...conftest import picture

PROGRAM = [sys.executable, "-m", "diptych"]
BUFFERED = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
"""As users have it: output that cannot be written fails late."""


@pytest.fixture
def table(tiny, tmp_path):
    """A table of two rows and a model beside it."""
    save_model(*tiny, tmp_path / "model")
    picture("red").save(tmp_path / "red.png")
    rows = [{"image": "red.png", "text": "a red shirt"}, {"image": "gone.png", "text": "a"}]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "t.jsonl"


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"RANK": "abc"}, "RANK is 'abc' in the environment, where a launcher puts a number: unset RANK"),
        ({"LOCAL_RANK": "-1"}, "LOCAL_RANK is '-1' in the environment"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE is 'two' in the environment"),
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE is 2 in the environment, as a launcher sets it, and RANK is not there"),
        ({"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}, "and MASTER_ADDR is not there: unset WORLD_SIZE"),
        ({}, None),
        ({"RANK": "3"}, None),
        ({"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "x", "MASTER_PORT": "1"}, None),
    ],
)
def test_foreign_variables_of_launchers_are_named(monkeypatch, variables, message):
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    if message is None:
        require_whole_launcher()
        assert process_rank() == (1 if len(variables) == 5 else 0)
    else:
        with pytest.raises(ValueError, match=message):
            require_whole_launcher()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("redirect", "out", "code", "message"),
    [
        (">&-", "o.csv", 0, ""),
        ("<&- >&-", "o.csv", 0, ""),
        (">&-", "-", 1, "diptych: - is standard output, which is closed; choose another --out"),
        ("<&-", "--data=-", 1, "diptych: standard input is closed: there are no rows to read from it"),
        (">/dev/full", "-", 1, "diptych: - cannot be written to (No space left on device); choose another --out"),
    ],
)
def test_a_stream_that_is_closed_or_full_is_one_line_or_no_matter(table, tmp_path, redirect, out, code, message):
    data = "-" if out == "--data=-" else str(table)
    command = [*PROGRAM, "classify", "--data", data, "--out", "-" if out == "--data=-" else str(tmp_path / out)]
    command[7] = "-" if out in ("-", "--data=-") else command[7]
    line = " ".join([*command, "--model", str(tmp_path / "model"), "--quiet", redirect])
    ended = subprocess.run(line, shell=True, capture_output=True, text=True, timeout=300, env=BUFFERED)
    assert (ended.returncode, ended.stderr.strip()) == (code, message)
    assert (tmp_path / "o.csv").exists() is (code == 0)
    if code == 0:
        assert len((tmp_path / "o.csv").read_text().splitlines()) == 3


@pytest.mark.parametrize("arguments", ["--version", "--help", "train --help", "info /nowhere"])
def test_output_that_goes_nowhere_is_an_error_in_one_line(arguments):
    line = f"{' '.join(PROGRAM)} {arguments}"
    ended = subprocess.run(f"{line} >/dev/full", shell=True, capture_output=True, text=True, timeout=300, env=BUFFERED)
    assert ended.returncode == 1
    full = "diptych: standard output cannot be written to (No space left on device)"
    assert len(ended.stderr.splitlines()) == 1
    assert ended.stderr.startswith("diptych: there is no model" if "info" in arguments else full)
    closed = subprocess.run(f"{line} | true", shell=True, capture_output=True, text=True, timeout=300, env=BUFFERED)
    assert closed.stderr.count("\n") == ("info" in arguments)


@pytest.mark.parametrize(
    ("ends", "code", "said"),
    [
        ("sys.argv.append('--debug'); raise FileNotFoundError('gone')", 1, "FileNotFoundError: gone"),
        ("sys.exit(3)", 3, ""),
        ("sys.exit(0)", 0, ""),
    ],
)
def test_an_error_of_a_command_is_not_taken_for_one_of_the_output(ends, code, said):
    body = (
        f"import sys; from diptych.pipeline.cli import main\ndef app(): print('x'); {ends}\nmain.app = app; main.main()"
    )
    to_nobody = f'(sleep 2; {sys.executable} -c "{body}"; echo $? >&2) | true'
    ended = subprocess.run(to_nobody, shell=True, capture_output=True, text=True, timeout=300, env=BUFFERED)
    *error, last = ended.stderr.splitlines()
    assert "standard output" not in ended.stderr
    if said:  # as with --debug
        assert said in error
    else:
        assert (error, last) == ([], str(code))


@pytest.mark.slow
@pytest.mark.parametrize("delay", [0.15, 0.4, 1.0, 2.0])
def test_an_early_interrupt_is_one_line(table, tmp_path, delay):
    command = [*PROGRAM, "classify", "--data", str(table), "--out", str(tmp_path / "o.csv")]
    started = subprocess.Popen([*command, "--model", str(tmp_path / "model")], stderr=subprocess.PIPE, text=True)
    time.sleep(delay)
    started.send_signal(signal.SIGINT)
    _, shown = started.communicate(timeout=300)
    if "Fatal Python error" in shown or "<frozen" in shown:  # Python itself was not up yet on this machine
        pytest.skip("the machine is too slow to have started Python by then")
    assert started.returncode in (0, 130)
    assert "Traceback" not in shown
    assert started.returncode == 0 or "interrupted" in shown or "stopped by SIGINT" in shown


@pytest.mark.slow
def test_few_file_handles_do_for_workers(table, tmp_path, text_folder):
    rows = [{"image": "red.png", "text": f"a {word} shirt", "label": word} for word in ("red", "blue") * 16]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = [*PROGRAM, "train", str(tmp_path / "train.jsonl"), "--out", str(tmp_path / "run"), "--workers", "2"]
    command += ["--image-encoder", "resnet-tiny", "--image-weights", "random", "--image-size", "16x16", "--epochs", "1"]
    command += ["--text-encoder", text_folder, "--batch-size", "8", "--validation-share", "0.5", "--quiet"]

    def limit():
        resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))

    ended = subprocess.run(
        command, capture_output=True, text=True, timeout=300, preexec_fn=limit, env=os.environ | {"HF_HUB_OFFLINE": "1"}
    )
    assert "Traceback" not in ended.stderr
    assert ended.returncode == 0 or len(ended.stderr.strip().splitlines()) == 1, ended.stderr
