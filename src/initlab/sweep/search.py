"""Search: a sweep in which Optuna chooses the values of each trial. Imported only if the extra is installed."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from optuna.distributions import BaseDistribution, LogUniformDistribution, UniformDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial

from initlab.checks import check_int

DIGITS = 3  # significant digits of a number from an interval: more make no difference to accuracy


class Sampler(TPESampler):
    """Optuna's TPE sampler, which begins at `start`, {key: value}, and rounds its numbers: 0.413, 0.05.

    The first trial is the baseline of the others, on the same batches. A value of `start` outside its interval is
    ignored.  settings: of TPESampler.
    """

    def __init__(self, start: Mapping[str, Any], **settings: Any) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)  # raised for `multivariate`
            super().__init__(warn_independent_sampling=False, **settings)
        self._start = dict(start)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        found = super().sample_relative(study, trial, search_space)
        return {name: _short(value, search_space[name]) for name, value in found.items()}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        if trial.number == 0 and _holds(param_distribution, self._start.get(param_name)):
            return self._start[param_name]
        found = super().sample_independent(study, trial, param_name, param_distribution)
        return _short(found, param_distribution)


def check_settings(settings: Mapping[str, Any], swept: Sequence[str]) -> None:
    """Raises ValueError if there is nothing to search for, or if a setting of the sweeper is not supported.

    settings: of the sweeper.  swept: the keys with several values.
    """
    check_int("hydra.sweeper.n_trials", settings["n_trials"], least=1)
    check_int("hydra.sweeper.n_jobs", settings["n_jobs"], least=1)
    if settings["direction"] != "maximize":
        raise ValueError("hydra.sweeper.direction: expected maximize, as hydra/sweeper=search has it")
    if settings["storage"] is not None:
        raise ValueError("hydra.sweeper.storage: expected null; resume=true continues an interrupted search")
    if not swept:
        raise ValueError('there is nothing to search: give a key an interval, "optimizer.lr=interval(0.01,0.5)" say')


def _holds(distribution: BaseDistribution, value: Any) -> bool:
    """Returns whether a distribution contains a value."""
    try:
        return distribution._contains(distribution.to_internal_repr(value))
    except (ValueError, TypeError):  # no value, or one of another kind
        return False


def _short(value: Any, distribution: BaseDistribution) -> Any:
    """Rounds a float: 0.41234567890123 -> 0.412, kept within its interval; 0.30000000000000004, of a range, -> 0.3."""
    if not isinstance(value, float):
        return value
    if not isinstance(distribution, (UniformDistribution, LogUniformDistribution)):
        return float(f"{value:.12g}")
    return min(max(float(f"{value:.{DIGITS}g}"), distribution.low), distribution.high)
