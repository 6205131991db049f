"""Means over replicas and their 95 % confidence intervals."""

import numpy as np
from scipy.special import stdtrit


def mean_ci95(values: np.ndarray) -> tuple[float, float | None]:
    """Returns the mean over replicas (R,), and the half-width of its 95 % t-interval, t_{0.975, R-1} s / sqrt(R).

    The half-width is None for a single replica. Source: Student (1908), "The probable error of a mean".
    """
    means, ci95 = means_ci95(np.asarray(values, dtype=float))
    return float(means), None if ci95 is None else float(ci95)


def means_ci95(values: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Returns what `mean_ci95` does, to the bit, for many rows at once: contiguous values (..., R) -> (...), (...)."""
    count = values.shape[-1]
    with np.errstate(invalid="ignore"):  # inf - inf: if replicas diverge, the interval is NaN
        mean = values.mean(-1)
        if count < 2:
            return mean, None
        return mean, stdtrit(count - 1, 0.975) * values.std(-1, ddof=1) / np.sqrt(count)


def percent(shares: np.ndarray) -> str:
    """Formats the mean of shares (R,), between 0 and 1, and the half-width of its 95 % interval: 97.05 ± 0.10 %."""
    mean, ci95 = mean_ci95(shares)
    return f"{100 * mean:.2f} %" if ci95 is None else f"{100 * mean:.2f} ± {100 * ci95:.2f} %"
