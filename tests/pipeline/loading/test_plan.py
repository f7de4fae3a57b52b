"""How rows become steps: all of them, once, in order, the same steps however many processes share them."""

from __future__ import annotations

import pytest
import torch
from accelerate import Accelerator
from diptych.pipeline.loading.plan import Plan, gather_parts
from hypothesis import given
from hypothesis import strategies as st

SHAPES = st.tuples(st.integers(1, 70), st.integers(1, 4), st.integers(1, 3), st.integers(1, 3))


@given(SHAPES)
def test_every_row_is_passed_once_in_order_and_steps_are_the_same_for_all(shape):
    rows, width, accumulate, processes = shape
    size = width * accumulate * processes
    plans = [Plan(rows, size, accumulate, process, processes) for process in range(processes)]
    shares = [[plan.own(passed) for passed in plan.micro_batches(range(rows))] for plan in plans]
    assert {len(share) for share in shares} == {len(plans[0])}
    passes = [[row for part in parts for row in part] for parts in zip(*shares, strict=True)]
    assert [row for passed in passes for row in passed] == list(range(rows))
    for passed, parts in zip(passes, zip(*shares, strict=True), strict=True):
        assert max(map(len, parts)) - min(map(len, parts)) <= 1, passed


@given(SHAPES)
def test_shares_say_what_part_of_its_step_a_pass_is(shape):
    rows, width, accumulate, processes = shape
    size = width * accumulate * processes
    plan = Plan(rows, size, accumulate, 0, processes)
    steps, rest = [], []
    for number, passed in enumerate(plan.micro_batches(range(rows))):
        rest.append((len(passed), plan.share(number)))
        if plan.ends_step(number):
            steps.append(rest)
            rest = []
    assert not rest
    assert len(steps) == plan.steps
    for count, step in enumerate(steps):
        total = sum(length for length, _ in step)
        assert total == min(size, rows - count * size)
        assert [share for _, share in step] == pytest.approx([length / total for length, _ in step])


def test_a_step_that_cannot_be_shared_is_refused():
    with pytest.raises(ValueError, match=r"batch_size is 10; it must be a multiple of 4 \(2 processes x 2 micro-"):
        Plan(100, 10, accumulate=2, processes=2)


def test_parts_are_joined_in_the_order_of_their_rows():
    parts = [{"a": torch.tensor([3, 0])}, {"a": torch.tensor([1])}, {"a": torch.zeros(0, dtype=torch.int64)}]
    found = gather_parts(parts, [7, 0, 4], Accelerator(cpu=True))
    assert found["a"].tolist() == [0, 1, 3]
    with pytest.raises(ValueError, match="there are no rows to measure"):
        gather_parts([{"a": torch.zeros(0)}], [], Accelerator(cpu=True))
