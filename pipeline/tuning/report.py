"""What a sweep shows: a line for each trial, its best trials, a table of all of them, a picture."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .space import Space
from .trials import Sweep, Trial

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS = ("#3b6fb6", "#d9822b", "#2a8c5a", "#a33b8f", "#6b6b6b")
_SHADES = {"done": 1.0, "pruned": 0.35}


def trial_text(trial: Trial, sweep: Sweep, *, of: int) -> str:
    """One line on a trial that has ended."""
    parameters = ", ".join(f"{name} {_cell(value)}" for name, value in trial.parameters.items())
    if trial.state == "failed":
        found = f"failed: {trial.reason}"
    else:
        what = "the best so far" if trial is sweep.best else trial.state
        epochs = f"{len(trial.figures)} epoch{'s' if len(trial.figures) > 1 else ''}"
        found = f"{sweep.figure} {trial.figure:.4f}, {what}, {epochs}, {sum(trial.seconds):.0f} s"
    return f"trial {trial.number} of {of} ({parameters or 'as it is'}): {found}"


def sweep_text(found: dict[str, Any], *, top: int = 10) -> str:
    """The best trials of a sweep's record, best first, then those that failed, and how many were cut short.

    Args:
        found: What `tune` returns.
        top: How many to show at most.
    """
    trials = [Trial(**trial) for trial in found["trials"]]
    names = list(dict.fromkeys(name for trial in trials for name in trial.parameters))
    ranked = sorted((trial for trial in trials if trial.state == "done"), key=lambda t: t.rank, reverse=True)
    head = ["trial", found["figure"], "epochs", "seconds", *names]
    rows = [
        [
            str(trial.number),
            f"{trial.figure:.4f}",
            str(len(trial.figures)),
            f"{sum(trial.seconds):.0f}",
            *(_cell(trial.parameters.get(name)) for name in names),
        ]
        for trial in ranked[:top]
    ]
    widths = [max(len(row[index]) for row in [head, *rows]) for index in range(len(head))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in [head, *rows]]
    counts = [
        f"{len(some)} {state}"
        for state in ("done", "pruned", "failed")
        if (some := [t for t in trials if t.state == state])
    ]
    lines.append(f"{len(trials)} trials: {', '.join(counts)}")
    lines += [f"trial {trial.number} failed: {trial.reason}" for trial in trials if trial.state == "failed"]
    return "\n".join(lines)


def write_table(sweep: Sweep, space: Space, path: Path) -> None:
    """All trials as CSV: number, state, figure, loss, epochs, seconds, each parameter, why it failed."""
    names = list(space.described())
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["trial", "state", sweep.figure, "loss", "epochs", "seconds", *names, "reason"])
        for trial in sweep.trials:
            figure, loss = (trial.figure, -trial.rank[1]) if trial.figures else ("", "")
            cells = [trial.number, trial.state, figure, loss, len(trial.figures), round(sum(trial.seconds), 1)]
            table.writerow([*cells, *(trial.parameters.get(name, "") for name in names), trial.reason])


def draw_picture(sweep: Sweep, space: Space, path: Path) -> None:
    """The figure by trial with the best so far, and against each parameter; colours are fusions, pale ones pruned."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.ticker import MaxNLocator

    described = space.described()
    colours = dict(zip(described.get("fusion", [None]), _COLOURS, strict=False))
    name = sweep.figure.replace("_", " ")
    figure = Figure(figsize=(max(9.0, 3.6 * len(described)), 7.4), layout="constrained")
    best = sweep.best
    top = f"; the best is number {best.number}: {name} {best.figure:.4f}" if best else ""
    figure.suptitle(f"Sweep, trials so far: {len(sweep.trials)}{top}", fontsize=13, fontweight="bold")
    grid = figure.add_gridspec(2, len(described))
    by_trial = figure.add_subplot(grid[0, :])
    _dots(by_trial, sweep, colours, {trial.number: trial.number for trial in sweep.trials})
    best_so_far: list[tuple[int, float]] = []
    for trial in sweep.trials:
        if trial.state == "done" and trial.figure is not None:
            best_so_far.append((trial.number, max(trial.figure, best_so_far[-1][1] if best_so_far else 0.0)))
    if best_so_far:
        xs, ys = zip(*best_so_far, strict=True)
        by_trial.step([*xs, sweep.trials[-1].number], [*ys, ys[-1]], where="post", color="#222222", lw=1.2, zorder=1)
    failed = [trial.number for trial in sweep.trials if trial.state == "failed"]
    if failed:
        by_trial.plot(failed, [0.04] * len(failed), "x", color="#b42318", transform=by_trial.get_xaxis_transform())
    by_trial.set(xlabel="trial", ylabel=name, title=f"{name} on the validation rows, and the best so far")
    by_trial.set_xlim(0.4, len(sweep.trials) + 0.6)
    by_trial.xaxis.set_major_locator(MaxNLocator(integer=True))
    for column, (parameter, values) in enumerate(described.items()):
        axes = figure.add_subplot(grid[1, column], sharey=by_trial)
        axes.set(xlabel=parameter.replace("_", " "), ylabel=name if not column else "")
        axes.tick_params(labelleft=not column)
        if parameter in space.rates:
            _dots(axes, sweep, colours, {t.number: t.parameters.get(parameter) for t in sweep.trials})
            axes.set_xscale("log")
            axes.set_xlim(values[0] / 1.15, values[1] * 1.15)
        else:
            _dots(axes, sweep, colours, _spread(sweep.trials, parameter, values))
            axes.set_xticks(range(len(values)), values, rotation=25, ha="right", rotation_mode="anchor")
            axes.set_xlim(-0.6, len(values) - 0.4)
    for axes in figure.axes:
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    dot: dict[str, Any] = {"marker": "o", "linestyle": "", "markersize": 7}
    keys = [Line2D([], [], color=colour, label=fusion, **dot) for fusion, colour in colours.items() if fusion]
    if any(trial.state == "pruned" for trial in sweep.trials):
        keys.append(Line2D([], [], color="#222222", alpha=_SHADES["pruned"], label="pale: pruned", **dot))
    if failed:
        keys.append(Line2D([], [], color="#b42318", marker="x", linestyle="", label="failed"))
    keys.append(Line2D([], [], color="#222222", lw=1.2, label="best so far"))
    if best is not None:
        keys.append(Line2D([], [], color="#222222", label="the best", **dot | {"fillstyle": "none", "markersize": 10}))
    figure.legend(
        handles=keys, loc="outside lower center", ncols=min(5 if len(described) < 3 else 9, len(keys)), frameon=False
    )
    figure.savefig(path, dpi=110)


def _dots(axes: Axes, sweep: Sweep, colours: dict[Any, str], xs: dict[int, Any]) -> None:
    """A dot for each trial that has a figure and an x; the best has a ring."""
    fixed = next(iter(colours.values()))
    for trial in sweep.trials:
        x = xs.get(trial.number)
        if x is None or trial.figure is None or trial.state not in _SHADES:
            continue
        colour = colours.get(trial.parameters.get("fusion"), fixed)
        axes.plot(x, trial.figure, "o", color=colour, alpha=_SHADES[trial.state], markersize=7, zorder=2)
        if trial is sweep.best:
            axes.plot(x, trial.figure, "o", color="#222222", fillstyle="none", markersize=12, zorder=3)


def _spread(trials: Sequence[Trial], parameter: str, values: Sequence[str]) -> dict[int, float]:
    """Places beside each other for trials that chose the same name, so that none hides another."""
    found: dict[int, float] = {}
    for index, value in enumerate(values):
        same = [trial.number for trial in trials if trial.parameters.get(parameter) == value]
        for place, number in enumerate(same):
            found[number] = index + 0.5 * ((place + 0.5) / len(same) - 0.5)
    return found


def _cell(value: Any) -> str:
    return "-" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
