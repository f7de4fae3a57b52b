"""What a sweep shows: a line for each trial, its best trials, a table of all of them, a picture."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path
from typing import Any

from .space import Space
from .trials import Sweep, Trial

STATES = ("done", "pruned", "failed")


def trial_text(trial: Trial, sweep: Sweep, *, of: int) -> str:
    """One line on a trial that has ended."""
    parameters = ", ".join(f"{name} {_cell(value)}" for name, value in trial.parameters.items())
    if trial.state == "failed":
        result = f"failed: {trial.reason}"
    else:
        state = "the best so far" if trial is sweep.best else trial.state
        epochs = f"{len(trial.metrics)} epoch{'s' if len(trial.metrics) > 1 else ''}"
        result = f"{sweep.metric} {trial.shown(sweep.metric):.4f}, {state}, {epochs}, {sum(trial.seconds):.0f} s"
    return f"trial {trial.number} of {of} ({parameters or 'nothing is searched'}): {result}"


def sweep_text(record: dict[str, Any], *, top: int = 10) -> str:
    """The best trials of a sweep's record, best first, then those that failed, and how many were cut short.

    Args:
        record: What `tune` returns.
    """
    trials = [Trial(**trial) for trial in record["trials"]]
    names = list(dict.fromkeys(name for trial in trials for name in trial.parameters))
    ranked = sorted((trial for trial in trials if trial.state == "done"), key=lambda t: t.rank, reverse=True)
    rows = [["trial", record["metric"], "epochs", "seconds", *names]]
    for trial in ranked[:top]:
        cells = [trial.number, f"{trial.shown(record['metric']):.4f}", len(trial.metrics), f"{sum(trial.seconds):.0f}"]
        rows.append([*map(str, cells), *(_cell(trial.parameters.get(name)) for name in names)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    counts = Counter(trial.state for trial in trials)
    lines.append(f"{len(trials)} trials: {', '.join(f'{counts[s]} {s}' for s in STATES if counts[s])}")
    lines += [f"trial {trial.number} failed: {trial.reason}" for trial in trials if trial.state == "failed"]
    return "\n".join(lines)


def write_table(sweep: Sweep, space: Space, path: Path) -> None:
    """All trials as CSV: number, state, metric and loss, epochs, seconds, each parameter, why it failed."""
    names = list(space.described())
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        metrics = list(dict.fromkeys([sweep.metric, "loss"]))
        table.writerow(["trial", "state", *metrics, "epochs", "seconds", *names, "reason"])
        for trial in sweep.trials:
            values = [trial.shown(sweep.metric), -trial.rank[1]] if trial.metrics else ["", ""]
            cells = [trial.number, trial.state, *values[: len(metrics)], len(trial.metrics)]
            cells.append(round(sum(trial.seconds), 1))
            table.writerow([*cells, *(trial.parameters.get(name, "") for name in names), trial.reason])


def draw_picture(sweep: Sweep, space: Space, path: Path) -> None:
    """The metric in the order of trials and against each parameter: pruned trials are pale, the best has a ring."""
    from matplotlib.figure import Figure

    described = space.described()
    panels = ["trial", *described]
    figure = Figure(figsize=(3.4 * len(panels), 3.8), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(panels), sharey=True), panels, strict=True):
        axes.set(xlabel=name.replace("_", " "))
        axes.grid(alpha=0.25)
        if name in space.rates:
            axes.set_xscale("log")
        elif name in described:
            axes.set_xticks(range(len(described[name])), described[name], rotation=25, ha="right")
            axes.set_xlim(-0.6, len(described[name]) - 0.4)
        for trial in sweep.trials:
            x = trial.number if name == "trial" else trial.parameters.get(name)
            if x is None or trial.metric is None or trial.state not in ("done", "pruned"):
                continue
            x = described[name].index(x) if isinstance(x, str) else x
            axes.plot(x, trial.shown(sweep.metric), "o", color="#3b6fb6", alpha=1.0 if trial.state == "done" else 0.35)
            if trial is sweep.best:
                axes.plot(x, trial.shown(sweep.metric), "o", color="#222222", fillstyle="none", markersize=12)
    figure.axes[0].set_ylabel(sweep.metric.replace("_", " "))
    figure.savefig(path, dpi=110)


def _cell(value: Any) -> str:
    return "-" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
