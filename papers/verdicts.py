"""Verdicts on published numbers, from the intervals that were measured."""

from papers.measured import Estimate

SAME, OPPOSITE, OPEN = "as in the paper", "not as in the paper", "no significant difference"


def contains(ours: Estimate, published: float) -> str:
    """Says whether the interval contains the published number, its ends included; and if not, where it lies."""
    low, high = ours.interval
    if low <= published <= high:
        return "contains it"
    side = "above" if ours.mean > published else "below"
    return f"{side}, by {abs(ours.mean - published):.2f}"


def order(ours: Estimate, published: float) -> str:
    """Says whether a difference has the sign of the published one. If its interval contains zero, that is open."""
    low, high = ours.interval
    if not (low > 0 or high < 0):
        return OPEN
    return SAME if (low > 0) == (published > 0) else OPPOSITE


def outcome(agrees: bool) -> str:
    """Formats whether something is as the paper says, as a sentence."""
    return f"{(SAME if agrees else OPPOSITE).capitalize()}."
