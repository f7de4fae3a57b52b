"""Experts are fitted on the rows that choose the epoch, not on those that calibrate."""

from __future__ import annotations

import copy

import torch
from accelerate import Accelerator
from diptych.pipeline.data.columns import find_columns
from diptych.pipeline.data.tables import load_tables
from diptych.pipeline.loading.dataset import PairDataset
from diptych.pipeline.loading.loader import batches_once
from diptych.pipeline.training.experts import fit_experts


def blend(tiny, pairs, labels, chooses=None):
    model, processor = copy.deepcopy(tiny[0]), tiny[1]
    table = load_tables(pairs)["train"]
    dataset = PairDataset(table, find_columns(table), labels, processor)
    accelerator = Accelerator()
    fit_experts(model, batches_once(dataset, accelerator, batch_size=32), accelerator, chooses)
    return model.experts.blend


def test_rows_that_calibrate_change_nothing(tiny, pairs):
    labels = [int(label) for label in pairs["label"]]
    other = [label if number < 48 else 1 - label for number, label in enumerate(labels)]
    assert torch.equal(
        blend(tiny, pairs, labels, range(48).__contains__), blend(tiny, pairs, other, range(48).__contains__)
    )
    assert not torch.equal(blend(tiny, pairs, labels), blend(tiny, pairs, other))
