"""Rows of the lesson's table, each with its verdict."""

from dataclasses import dataclass, replace
from math import sqrt

import numpy as np
import torch
from torch import Tensor

EPS = torch.finfo(torch.float32).eps
EXACT, INSIDE, OUTSIDE = "exact", "inside", "outside"


@dataclass(frozen=True)
class Row:
    """A printed number or claim, beside our value, the central 99 % of our draws if it is random, and the theory."""

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
    """A number that does not depend on chance. It must agree in all printed digits."""
    digits = len(printed.partition(".")[2])
    text = f"{ours:.{digits}f}" + ("." if printed.endswith(".") else "")
    return verbatim(source, quantity, expression, printed, text, note)


def verbatim(source: str, quantity: str, expression: str, printed: str, ours: str, note: str = "") -> Row:
    """A text that must agree exactly."""
    return Row(source, quantity, expression, printed, ours, "", EXACT if ours == printed else OUTSIDE, note=note)


def zero(source: str, quantity: str, expression: str, printed: str, images: Tensor, bound: float, note: str) -> Row:
    """A mean that is zero in exact arithmetic: ours within float32's rounding error, the printed one within `bound`."""
    ours = images.double().mean().item()
    verdict = EXACT if abs(float(printed)) < bound and abs(ours) < EPS else OUTSIDE
    return Row(source, quantity, expression, printed, f"{ours:.1e}", "0", verdict, note=note)


def random(
    source: str, quantity: str, expression: str, printed: str, drawn: np.ndarray, expected: float | None, note: str = ""
) -> Row:
    """A number that is one random draw. It should lie within the central 99 % of ours, `drawn` (draws,)."""
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
    """A claim about the mean over draws, compared with the 99 % interval of the mean of ours, `drawn` (draws,).

    The mean of so many draws is normally distributed.
    """
    half = 2.5758 * drawn.std(ddof=1) / sqrt(len(drawn))
    note = "; ".join(filter(None, ["interval of the mean", note]))
    return _held_against(
        drawn.mean() - half,
        drawn.mean() + half,
        Row("C", quantity, expression, claimed, _number(drawn.mean()), _number(expected), "", note=note),
    )


def _held_against(low: float, high: float, row: Row) -> Row:
    """Returns the row with its interval and verdict."""
    verdict = INSIDE if low <= float(row.printed) <= high else OUTSIDE
    return replace(row, verdict=verdict, low=float(f"{low:.5g}"), high=float(f"{high:.5g}"))


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
