"""How many CPUs a process may use, by the machine and by its control group."""

from __future__ import annotations

import os

import pytest
from diptych.pipeline.runtime.cpus import limit_threads, usable_cpus


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine whose process may run on 8 CPUs, in the group /a/b, with these limits by group."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)

    def build(limits, groups="0::/a/b\n"):
        (tmp_path / "proc/self").mkdir(parents=True, exist_ok=True)
        (tmp_path / "proc/self/cgroup").write_text(groups)
        for group, limit in limits.items():
            folder = tmp_path / "sys/fs/cgroup" / group
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "cpu.max").write_text(limit)
        return tmp_path

    return build


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({}, 8),
        ({"a/b": "max 100000\n"}, 8),
        ({"a/b": "200000 100000\n"}, 2),
        ({"a/b": "150000 100000\n"}, 2),
        ({"a/b": "1000 100000\n"}, 1),
        ({"a": "300000 100000\n", "a/b": "max 100000\n"}, 3),
        ({"a": "300000 100000\n", "a/b": "100000 100000\n"}, 1),
        ({"": "400000 100000\n"}, 4),
        ({"a/b": "9000000 100000\n"}, 8),
        ({"a/c": "100000 100000\n"}, 8),
        ({"a/b": "nonsense"}, 8),
        ({"a/b": "100000 0"}, 8),
    ],
)
def test_the_smallest_limit_counts(machine, limits, expected):
    assert usable_cpus(machine(limits)) == expected


@pytest.mark.parametrize("groups", ["0::/\n", "1:cpu:/x\n0::/\n", "0::/../other\n"])
def test_in_a_container_its_own_group_is_the_top(machine, groups):
    assert usable_cpus(machine({"": "200000 100000"}, groups)) == 2


@pytest.mark.parametrize("groups", ["", "4:cpu:/x\n"])
def test_without_groups_of_version_2_affinity_counts(machine, groups):
    assert usable_cpus(machine({"": "200000 100000"}, groups)) == 8


@pytest.mark.parametrize(
    ("said", "cpus", "expected"),
    [
        ({}, 2, {"OMP_NUM_THREADS": "2"}),
        ({}, 8, {}),
        ({"OMP_NUM_THREADS": "5"}, 2, {"OMP_NUM_THREADS": "5"}),
        ({"MKL_NUM_THREADS": "5"}, 2, {"MKL_NUM_THREADS": "5"}),
    ],
)
def test_threads_are_limited_unless_the_environment_says_how_many(monkeypatch, said, cpus, expected):
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
    for name in names:
        monkeypatch.delenv(name, raising=False)
        if name in said:
            monkeypatch.setenv(name, said[name])
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr("diptych.pipeline.runtime.cpus.usable_cpus", lambda: cpus)
    limit_threads()
    assert {name: os.environ[name] for name in names if name in os.environ} == expected
