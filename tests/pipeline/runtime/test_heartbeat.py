"""A process that is cut off, or gone, ends the others with one line (two processes on this machine, gloo)."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from diptych.pipeline.runtime import heartbeat as pulse

SCRIPT = """
import sys, time
from pathlib import Path
import torch
import torch.distributed as dist
from accelerate import PartialState
from diptych.pipeline.runtime import heartbeat as pulse

pulse.TIMEOUT, pulse.HEAD_START, pulse.BEAT = 4.0, 1.0, 0.2
state, what = PartialState(cpu=True), sys.argv[1]
try:
    with pulse.Heartbeat(Path("OUT")):
        print("in", flush=True)
        if what == "alone" and state.process_index == 1:
            time.sleep(6)  # longer than the others may be silent
        if what == "error" and state.process_index == 1:
            raise ValueError("only here")
        while what == "wait":  # until it is cut off
            dist.all_reduce(torch.ones(1))
            time.sleep(0.1)
    print("out", flush=True)
except (ConnectionError, ValueError) as error:
    print(f"{type(error).__name__}: {error}", flush=True)
    sys.exit(3)
"""


@pytest.fixture
def two(tmp_path):
    """Starts two processes that no launcher watches."""
    started = []

    def start(what):
        (tmp_path / "script.py").write_text(SCRIPT)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        common = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        for rank in ("0", "1"):
            started.append(
                subprocess.Popen(
                    [sys.executable, "script.py", what],
                    cwd=tmp_path,
                    env=os.environ | common | {"RANK": rank, "LOCAL_RANK": rank, "OMP_NUM_THREADS": "1"},
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
        return started

    yield start
    for process in started:
        process.kill()
        process.wait()


def inside(process):
    """Wait until it has a pulse; gloo may have a line of its own."""
    while (line := process.stdout.readline()) != "in\n":
        assert line


def test_one_process_has_no_pulse_and_its_errors_are_its_own():
    alone = pulse.Heartbeat(Path("OUT"))
    assert alone.__enter__() is alone
    assert not hasattr(alone, "_thread")
    alone.__exit__(RuntimeError, RuntimeError("gloo"), None)  # raises nothing of its own


@pytest.mark.parametrize(
    ("error", "found"),
    [
        (RuntimeError("[/gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:29591. This is"), True),
        (torch.distributed.DistBackendError("NCCL error"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("the loss is not finite"), False),
        (OSError("the disk is full"), False),
    ],
)
def test_what_is_of_communication(error, found):
    assert pulse._is_of_communication(error) == found


@pytest.mark.slow
@pytest.mark.parametrize("what", ["end", "alone"])
def test_they_end_together_however_long_one_works_alone(two, what):
    for process in two(what):
        said, errors = process.communicate(timeout=120)
        assert (process.returncode, said.splitlines()[-2:]) == (0, ["in", "out"]), errors


@pytest.mark.slow
def test_an_error_stays_what_it_is(two):
    first, second = two("error")
    assert "ValueError: only here" in second.communicate(timeout=120)[0]
    assert "out" in first.communicate(timeout=120)[0]


@pytest.mark.slow
def test_a_process_that_stands_still_is_noticed(two):
    first, second = two("wait")
    inside(first)
    inside(second)
    time.sleep(1)
    second.send_signal(signal.SIGSTOP)
    said = first.communicate(timeout=60)[1]
    assert first.returncode == 1
    assert "diptych: process 0 of 2 has heard nothing from the others for 4 seconds. The last checkpoint in " in said
    assert "OUT/checkpoints can be gone on from with --resume once all are back\n" in said
    assert "Traceback" not in said


@pytest.mark.slow
def test_a_process_that_is_gone_is_noticed(two):
    first, second = two("wait")
    inside(first)
    inside(second)
    second.kill()
    said, errors = first.communicate(timeout=60)
    assert first.returncode == 3
    assert "ConnectionError: process 0 of 2 has lost the others (" in said
    assert "Traceback" not in errors
