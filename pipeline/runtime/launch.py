"""All GPUs at once: one process for each, started by Accelerate, from the command line and from Python."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import pickle
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState

from .cpus import usable_cpus

_TIME_TO_SAVE = "600"
"""Seconds that a launcher which was told to stop gives its processes; torch's own 30 are few for a large checkpoint."""

_FEW = 8
"""So many processes may share any CPU."""


def wanted(processes: int | None = None) -> int:
    """How many processes to start here; 1 is this one.

    Args:
        processes: What was asked for; by default one for each GPU.

    Raises:
        ValueError: There are fewer GPUs, or far fewer CPUs, or a launcher has started another number already.
    """
    if processes is not None and processes < 1:
        raise ValueError(f"processes is {processes}; give 1 or more, or leave it out for all GPUs")
    if {"RANK", "LOCAL_RANK"} & {*os.environ} or torch.distributed.is_initialized():
        here = int(os.environ.get("WORLD_SIZE", 1))
        if processes not in (None, here):
            raise ValueError(
                f"processes is {processes}, but this is one of {here} that a launcher has started; leave it out"
            )
        return 1
    # the first of the two does not initialise CUDA, after which no process could be forked
    gpus = torch.cuda.device_count() or torch.accelerator.device_count()
    if processes is None:
        return max(1, gpus)
    if gpus and processes > gpus:
        raise ValueError(f"processes is {processes}, more than there are GPUs ({gpus}); give {gpus} or fewer")
    cpus = os.cpu_count() or 1
    if not gpus and processes > max(_FEW, cpus):
        # each holds torch and the model: the machine would stand still
        raise ValueError(f"processes is {processes}, and there are {cpus} CPUs; give {max(_FEW, cpus)} or fewer")
    return processes


def start(count: int, argv: list[str]) -> int:
    """Run the command line `argv` in `count` processes, by Accelerate's own launcher; its exit code.

    That is the one of the process that failed first, or 128 and the number of the signal that ended it. Where there is
    no GPU they share the CPU.
    """
    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed import run as _  # noqa: F401 - loads all that would log
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    cpus = usable_cpus()
    if os.environ.get("OMP_NUM_THREADS") in (None, str(cpus)):  # what `limit_threads` gives to one process
        os.environ["OMP_NUM_THREADS"] = str(max(1, cpus // count))
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", _TIME_TO_SAVE)
    if not torch.accelerator.is_available():
        os.environ["ACCELERATE_USE_CPU"] = "true"
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # else each process warns that all parameters are in use
    # all that a default configuration of Accelerate's could say otherwise
    shape = f"--multi_gpu --num_processes {count} --num_machines 1 --machine_rank 0 --gpu_ids all"
    rest = "--mixed_precision no --dynamo_backend no --main_process_port 0 --module diptych"
    try:
        with _hushed():
            launch_command(launch_command_parser().parse_args([*shape.split(), *rest.split(), *argv]))
    except ChildFailedError as failed:
        rank, failure = failed.get_first_failure()
        if failure.exitcode >= 0:
            return failure.exitcode
        name = signal.Signals(-failure.exitcode).name
        sys.stderr.write(
            f"diptych: process {rank} of {count} was ended by {name}"
            f"{', as when the memory is full' if name == 'SIGKILL' else ''}\n"
        )
        return 128 - failure.exitcode
    except SignalException as ended:
        return 128 + int(ended.sigval)
    return 0


def forks(processes: int | None, say: Callable[[str], None]) -> int:
    """As `wanted`, for a program that would have to be forked: not possible once it has used CUDA.

    Args:
        processes: What was asked for; by default one for each GPU.
        say: Told if it has, and nothing was asked for.

    Raises:
        ValueError: It has, and several were asked for; or as `wanted` does.
    """
    count = wanted(processes)
    if count == 1 or not torch.cuda.is_initialized():
        return count
    if processes is not None:
        raise ValueError(f"CUDA is in use in this process already, so that it cannot become {count}; restart it first")
    say(
        f"CUDA is in use in this process already: training on one of {count} GPUs; restart the notebook to use them all"
    )
    return 1


def fork(count: int, work: Callable[[], Any]) -> None:
    """Call `work` in `count` processes forked from this one, as a notebook needs it, and wait for them.

    Raises:
        Exception: What it raised in one of them, of the same kind and with the same message.
        KeyboardInterrupt: Likewise; a signal to this process is passed on to them first.
    """
    from accelerate import debug_launcher, notebook_launcher
    from accelerate.utils.other import get_free_port

    before = {*multiprocessing.active_children()}
    with tempfile.TemporaryDirectory(prefix="diptych-") as folder:
        try:
            with _hushed():
                if torch.cuda.device_count():
                    notebook_launcher(_child, (work, folder), num_processes=count, use_port=str(get_free_port()))
                else:
                    debug_launcher(_child, (work, folder), num_processes=count)
        except BaseException as failed:
            for child in {*multiprocessing.active_children()} - before:
                if isinstance(failed, KeyboardInterrupt) and child.pid:
                    os.kill(child.pid, signal.SIGINT)
                child.join()
            error, trace = _first_error(Path(folder))
            if error is None:
                raise
            raise error from RuntimeError(f"in another process:\n{trace}")


@contextlib.contextmanager
def _hushed() -> Iterator[None]:
    """Keep torch's launchers from logging what a process has told by itself, or its exit code tells."""
    names = [name for name in logging.root.manager.loggerDict if name.startswith("torch.")]
    loggers = {logger: logger.level for logger in map(logging.getLogger, names)}
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in loggers.items():
            logger.setLevel(level)


def _child(work: Callable[[], Any], folder: str) -> None:
    """In a forked process: `work`, and what it raised into a file."""
    AcceleratorState._reset_state(reset_partial_state=True)  # that of the process it was forked from
    torch.set_num_threads(1)  # threads are not forked: whoever counts on them waits forever
    try:
        work()
    except (Exception, KeyboardInterrupt) as error:
        rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else os.environ.get("RANK", "0")
        path = Path(folder, f"{rank}.part")
        path.write_bytes(pickle.dumps((error, traceback.format_exc())))
        path.replace(path.with_suffix(""))
        sys.exit(1)


def _first_error(folder: Path) -> tuple[BaseException | None, str]:
    """Of all errors the one to tell: that the others were lost only if nobody says why, and rather one with words."""
    found = [pickle.loads(path.read_bytes()) for path in sorted(folder.iterdir()) if not path.suffix]
    return min(found, key=lambda one: (isinstance(one[0], ConnectionError), not str(one[0])), default=(None, ""))
