"""Rows of the lesson's table, and the verdict of each."""

from dataclasses import dataclass, replace
from math import sqrt

import numpy as np
import torch
from torch import Tensor

EPS = torch.finfo(torch.float32).eps
EXACT, INSIDE, OUTSIDE = "exact", "inside", "outside"


@dataclass(frozen=True)
class Row:
    """A printed number (or claim): ours, with the central 99 % of draws if it is random, and what theory expects."""

    source: str
    quantity: str
    expression: str
    printed: str
    ours: str
    theory: str
    verdict: str
    low: float | None = None
    high: float | None = None
    percentile: float | None = None
    note: str = ""


def exact(source: str, quantity: str, expression: str, printed: str, ours: float, note: str = "") -> Row:
    """A number without chance in it: it has to agree to the printed digits."""
    digits = len(printed.partition(".")[2])
    text = f"{ours:.{digits}f}" + ("." if printed.endswith(".") else "")
    return verbatim(source, quantity, expression, printed, text, note)


def verbatim(source: str, quantity: str, expression: str, printed: str, ours: str, note: str = "") -> Row:
    """What has to agree as text."""
    return Row(source, quantity, expression, printed, ours, "", EXACT if ours == printed else OUTSIDE, note=note)


def zero(source: str, quantity: str, expression: str, printed: str, images: Tensor, bound: float, note: str) -> Row:
    """A mean that is zero in exact arithmetic: ours to a float32's rounding, the printed one to `bound`."""
    ours = images.double().mean().item()
    verdict = EXACT if abs(float(printed)) < bound and abs(ours) < EPS else OUTSIDE
    return Row(source, quantity, expression, printed, f"{ours:.1e}", "0", verdict, note=note)


def random(
    source: str, quantity: str, expression: str, printed: str, drawn: np.ndarray, expected: float | None, note: str = ""
) -> Row:
    """A number that is one draw: where it lies among ours (draws,), whose central 99 % it should be in."""
    low, high = np.quantile(drawn, [0.005, 0.995])
    percentile = round(100 * float(np.mean(drawn < float(printed))), 1)
    return _held_against(
        low,
        high,
        Row(
            source,
            quantity,
            expression,
            printed,
            _number(drawn.mean()),
            _number(expected),
            "",
            percentile=percentile,
            note=note,
        ),
    )


def expectation(
    quantity: str, expression: str, claimed: str, drawn: np.ndarray, expected: float | None, note: str = ""
) -> Row:
    """A claim about all draws: it is held against the 99 % interval of their mean, which is normal by its size."""
    half = 2.5758 * drawn.std(ddof=1) / sqrt(len(drawn))
    note = "; ".join(filter(None, ["interval of the mean", note]))
    return _held_against(
        drawn.mean() - half,
        drawn.mean() + half,
        Row("C", quantity, expression, claimed, _number(drawn.mean()), _number(expected), "", note=note),
    )


def _held_against(low: float, high: float, row: Row) -> Row:
    verdict = INSIDE if low <= float(row.printed) <= high else OUTSIDE
    return replace(row, verdict=verdict, low=float(f"{low:.5g}"), high=float(f"{high:.5g}"))


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
