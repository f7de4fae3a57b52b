"""By what the best epoch is chosen, and the table of epochs."""

from __future__ import annotations

from dataclasses import replace

import datasets
import pytest
import torch
from diptych.pipeline.training.objective import ALIGN, CLASSIFY, MULTI_LABEL, choose_metric, table_row

from .test_train import run


@pytest.mark.parametrize(
    ("training", "validation", "metric", "why"),
    [
        ([50, 50], [5, 5], "accuracy", "by default"),
        ([500, 26], [50, 3], "loss", "as the rarest class has 26 training rows where an even share is 263"),
        ([500, 26], [50, 10], "macro_f1", "as the rarest class has 26 training rows where an even share is 263"),
        ([500, 27], [50, 1], "accuracy", "by default"),  # a tenth of 263.5 is 26.35
        ([500, 26, 0], [50, 12, 0], "macro_f1", "as the rarest class has 26"),  # a class of no row is none
        ([500, 26, 500], [50, 12, 9], "macro_f1", "as the rarest class has 26"),
    ],
)
def test_rare_classes_choose_by_what_sees_them(training, validation, metric, why):
    if metric == "macro_f1" and validation[-1] == 9:
        metric = "loss"  # every class needs its ten rows, not only the rarest
    objective, said = choose_metric(CLASSIFY, None, torch.tensor(training), torch.tensor(validation))
    assert objective.select == metric
    assert said.startswith(why)


@pytest.mark.parametrize("objective", [CLASSIFY, MULTI_LABEL, ALIGN])
def test_what_is_asked_for_is_taken_if_it_is_measured(objective):
    for metric in objective.metrics:
        assert choose_metric(objective, metric, None, None)[0].select == metric
    with pytest.raises(ValueError, match=r"select is 'recall', which is not measured here; choose "):
        choose_metric(objective, "recall", None, None)


def test_epochs_are_compared_by_the_metric_and_less_loss_is_better():
    history = [
        {"epoch": 1, "accuracy": 0.9, "macro_f1": 0.4, "auroc": None, "loss": 0.5, "train_loss": 0.0},
        {"epoch": 2, "accuracy": 0.8, "macro_f1": 0.6, "auroc": 0.5, "loss": 0.6, "train_loss": 0.0},
        {"epoch": 3, "accuracy": 0.8, "macro_f1": 0.5, "auroc": 0.5, "loss": 0.4, "train_loss": 0.0},
    ]
    best = {
        metric: choose_metric(CLASSIFY, metric, None, None)[0].best(history)["epoch"] for metric in CLASSIFY.metrics
    }
    assert best == {"accuracy": 1, "macro_f1": 2, "auroc": 3, "loss": 3}


@pytest.mark.parametrize(
    ("accuracies", "rows", "best"),
    [
        ([0.5, 0.8, 0.76, 0.75], 50, 4),  # of 50 rows a standard error is 5.7 points
        ([0.5, 0.8, 0.76, 0.74], 50, 3),
        ([0.5, 0.8, 0.76, 0.75], 5000, 2),
        ([0.5, 0.8, 0.76, 0.75], 0, 2),  # how many there are is not known
        ([1.0, 0.9, 1.0, 0.99], 50, 3),
    ],
)
def test_the_last_epoch_within_a_standard_error_is_kept(accuracies, rows, best):
    history = [{"epoch": n + 1, "accuracy": a, "loss": n, "train_loss": 0.0} for n, a in enumerate(accuracies)]
    objective = replace(CLASSIFY, rows=rows)
    assert objective.best(history)["epoch"] == best
    saved = [epoch for n, epoch in enumerate(history) if objective.best(history[: n + 1]) is epoch]
    assert saved[-1]["epoch"] == best


@pytest.mark.parametrize("objective", [CLASSIFY, MULTI_LABEL, ALIGN])
def test_the_table_of_epochs_fits_80_columns(objective):
    epoch = dict.fromkeys(objective.table, 0.123456) | {"epoch": 100, "train_loss": 12.3456789, "seconds": 123456.7}
    heading, row = table_row(epoch, objective, heading=True).splitlines()
    assert len(heading) == len(row) <= 80
    assert row.split()[0] == "100"
    assert table_row(epoch, objective, heading=False) == row


def test_a_run_says_by_what_it_chooses_and_why(pairs, text_folder, tmp_path):
    said: list[str] = []
    rare = pairs.select([*range(0, 96, 2), 1, 3])  # 48 red, 2 blue: of these one is validated with
    record = run(rare, tmp_path / "rare", text_folder, epochs=2, say=said.append)
    line = "best epoch: by loss on validation, as the rarest class has 1 training row where an even share is 22"
    assert any(text.startswith(line) for text in said)
    assert record["select"] == "loss"
    assert record["best"]["loss"] == min(epoch["loss"] for epoch in record["epochs"])
    record = run(pairs, tmp_path / "asked", text_folder, epochs=2, select="macro_f1", say=said.append)
    assert record["select"] == record["epochs"][0]["select"] == "macro_f1"
    assert "best epoch: by macro_f1 on validation, as asked" in said


def test_a_stream_counts_its_classes_for_that_too(pairs, text_folder, tmp_path):
    rare = datasets.IterableDatasetDict(
        train=pairs.select([*range(0, 96, 2), 1]).to_iterable_dataset(), validation=pairs.to_iterable_dataset()
    )
    assert run(rare, tmp_path, text_folder, epochs=1)["select"] == "macro_f1"
