"""Optuna's side of a search: what to try next, and what to prune."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from ..runtime.seeds import draw_seed
from .space import Space
from .trials import Sweep, Trial

if TYPE_CHECKING:
    import optuna


RANDOM_TRIALS = 6
"""Trials that are drawn without a look at others, before Optuna's sampler has anything to learn from."""


UNPRUNED_TRIALS = 3
"""Trials that must have ended before others are cut short."""


def suggest(sweep: Sweep, space: Space, seed: int) -> dict[str, Any] | None:
    """The parameters of the next trial, like none before; None if there are no others."""
    import optuna

    tried = [trial.parameters for trial in sweep.trials]
    if not tried:
        return space.first()
    with _quiet_optuna():
        study = study_of(sweep, space)
        for attempt in range(200):
            seeds = draw_seed(seed, "trial", len(tried), attempt) % 2**32
            # what it likes best may have been tried, where there are only names to choose from
            study.sampler = (
                optuna.samplers.RandomSampler(seed=seeds)
                if attempt
                else optuna.samplers.TPESampler(seed=seeds, n_startup_trials=RANDOM_TRIALS)
            )
            asked = study.ask()
            parameters = space.choose(asked.suggest_categorical, partial(_suggest_rate, asked))
            if parameters not in tried:
                return parameters
    return None


def is_hopeless(trial: Trial, sweep: Sweep, space: Space) -> bool:
    """Whether the best epoch of a trial so far is below the median of the ended ones after as many epochs.

    Never after its first epoch.
    """
    import optuna

    with _quiet_optuna():
        pruner = optuna.pruners.MedianPruner(n_startup_trials=UNPRUNED_TRIALS, n_warmup_steps=2)
        return bool(pruner.prune(study_of(sweep, space), frozen_trial(trial, space)))


def study_of(sweep: Sweep, space: Space) -> optuna.Study:
    """An Optuna study that has seen the trials that have ended."""
    import optuna

    study = optuna.create_study(direction="maximize")
    study.add_trials([frozen_trial(trial, space) for trial in sweep.trials if trial.state != "running"])
    return study


def frozen_trial(trial: Trial, space: Space) -> optuna.trial.FrozenTrial:
    """A trial as Optuna knows it; its steps are epochs, from 1."""
    import optuna

    states = {"done": "COMPLETE", "pruned": "PRUNED", "failed": "FAIL", "running": "RUNNING"}
    described = space.described()
    ranges: dict[str, optuna.distributions.BaseDistribution] = {}
    for name in trial.parameters:
        if name in space.rates:
            low, high = space.rates[name]
            ranges[name] = optuna.distributions.FloatDistribution(low, high, log=True)
        else:
            ranges[name] = optuna.distributions.CategoricalDistribution(described[name])
    return optuna.trial.create_trial(
        state=optuna.trial.TrialState[states[trial.state]],
        value=trial.metric if trial.state == "done" else None,
        params=trial.parameters,
        distributions=ranges,
        intermediate_values=dict(enumerate(trial.metrics, start=1)),
    )


def _suggest_rate(trial: optuna.Trial, name: str, limits: tuple[float, float]) -> float:
    low, high = limits
    return trial.suggest_float(name, low, high, log=True)


@contextlib.contextmanager
def _quiet_optuna() -> Iterator[None]:
    """Let Optuna log warnings only, and leave its level as it was."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(max(before, optuna.logging.WARNING))
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)
