"""What a sweep shows, in a few sentences: each is a claim with its number, its interval, and the figure that shows it.

They are chosen by the size of the effect and written from the numbers, so that another result reads differently.
"""

from collections.abc import Iterator, Sequence
from math import isfinite
from typing import NamedTuple

from initlab.report.layout import ACCURACY, Layout, growth
from initlab.report.search import SPACE, told
from initlab.report.sentences import (
    GUESSING,
    difference_in_points,
    listed,
    named,
    names,
    points,
    sentence,
    swept_rates_in_words,
    vague,
    verdicts,
    where,
)

MOST = 5  # findings
TITLES = {  # of the figures that findings refer to
    "search": "the trials",
    "learning_rate": "the learning rates",
    "final_accuracy": "the accuracies",
    "difference": "the differences",
}
GROWS = 1.5  # factor per layer that explains why a network diverges
MINOR = 0.05  # share of the largest effect below which others of its kind are only counted
SPELT_OUT = 3  # variants that a finding describes one by one


class Finding(NamedTuple):
    """A claim. figure: the one that shows it, its name without a setting's number.  size: of the effect, in points."""

    text: str
    figure: str
    size: float


def findings(layout: Layout) -> list[Finding]:
    """Returns three to five findings, largest effect first, if the sweep shows as many."""
    if layout.search is not None:
        return [Finding(text, "search", 0) for text in told(layout.search)]
    first: list[Finding] = []
    if layout.rates is not None and layout.at_own_rates:
        rates = swept_rates_in_words(layout.rates)
        text = f"Every variant was trained at {rates}, and is shown here at the rate that is best for it."
        first.append(Finding(text, "learning_rate", 0))
    if layout.left_out:
        shown = len(layout.variants)
        text = f"Of {shown + layout.left_out} variants, the {shown} best are shown; comparison.csv has all of them."
        first.append(Finding(text, "final_accuracy", 0))
    effects = sorted((f for s in layout.settings for f in _effects(layout, s)), key=lambda f: -f.size)
    rest = [*_no_difference(layout), *_shift(layout)]
    room = max(MOST - len(first) - len(rest), 1)
    return [*first, *effects[:room], *rest] or [Finding(_only(layout), "final_accuracy", 0)]


def lead(layout: Layout) -> str:
    """Returns the findings as one paragraph."""
    return " ".join(finding.text for finding in findings(layout))


def _only(layout: Layout) -> str:
    """Says what the one variant there is reaches, in each setting."""
    variant = layout.variants[0]
    reached = [
        f"{layout.accuracy(v, s)}{f' with {s}' if layout.named(s) else ''}" for v, s in layout.run if v == variant
    ]
    return f"Test accuracy of {named(variant)}: {listed(reached)}."


def _effects(layout: Layout, setting: str) -> Iterator[Finding]:
    """Yields what sets variants apart in one setting: those that diverge, do not learn, or end better or worse."""
    groups = verdicts(layout, setting)
    yield from _diverged(layout, setting, groups["diverged"])
    chance = layout.chance(layout.ranking(setting)[0], setting)
    for better, group in ((True, groups["better"]), (False, groups["worse"])):
        ordered = sorted(group, key=lambda v: -abs(_points(layout, v, setting)))
        if not ordered:
            continue
        least = MINOR * abs(_points(layout, ordered[0], setting))
        told = [v for v in ordered if abs(_points(layout, v, setting)) >= least][:SPELT_OUT]
        clauses: list[str] = []
        for variant in told:
            gap = layout.difference(variant, setting, ACCURACY)
            assert gap is not None
            verb = "ends " if not clauses else ""
            clauses.append(
                f"{named(variant)}{_late(layout, variant, setting, chance)} {verb}{difference_in_points(gap)}"
            )
        more = len(ordered) - len(told)
        also = f"; so {'does' if more == 1 else 'do'} {more} more, by less" if more > 0 else ""
        side = "above" if better else "below"
        reference = f"{named(layout.reference)} ({layout.accuracy(layout.reference, setting)})"
        text = sentence(layout, setting, f"{listed(clauses)} {side} {reference}{also}")
        yield Finding(text, "difference", abs(_points(layout, ordered[0], setting)))


def _diverged(layout: Layout, setting: str, variants: Sequence[str]) -> Iterator[Finding]:
    if not variants:
        return
    total = {v: len(layout.replicas(v, setting, ACCURACY)) for v in variants}
    lost = {v: layout.diverged(v, setting) for v in variants}
    never = [v for v in variants if lost[v] == total[v]]
    partly = sorted((v for v in variants if v not in never), key=lambda v: -lost[v] / total[v])
    some = [f"{lost[v]} of {total[v]} networks of {named(v)}" for v in partly]
    if len(some) > SPELT_OUT:
        some = [*some[:SPELT_OUT], f"some of {len(some) - SPELT_OUT} other variants"]
    if never:
        who = (
            names(never)
            if len(never) <= SPELT_OUT
            else f"{len(never)} variants ({names(never[:SPELT_OUT])} among them)"
        )
        networks = sum(total[v] for v in never)
        text = f"{who} never {'learns' if len(never) == 1 else 'learn'}: "
        text += "its one network diverges" if networks == 1 else f"all {networks} networks diverge"
        text += f", as do {listed(some)}" if some else ""
    else:
        text = f"{listed(some)} diverge"
    worst = max(lost[v] / total[v] for v in variants)
    reason = cause(layout, setting, never or partly)
    yield Finding(sentence(layout, setting, text) + (f" {reason}" if reason else ""), "final_accuracy", 90 * worst)


def cause(layout: Layout, setting: str, diverged: Sequence[str]) -> str:
    """Says whether the variants that diverged are those with the largest gradients before the first step, and why."""
    size = {v: layout.first_gradient(v, s) for v, s in layout.run if s == setting}
    rest = [size[v] for v in size if v not in diverged]
    if not diverged or not rest:
        return ""
    least, most = min(size[v] for v in diverged), max(rest)
    if least <= most:
        return "The size of the first gradients does not set them apart."
    who = names(diverged) if len(diverged) <= SPELT_OUT else "these variants"
    found = f"at least {_rounded(least)}" if isfinite(least) else "too large for float32"
    text = f"before the first step, the standard deviation of dL/dW in layer 1 is {found}, elsewhere at most "
    text += f"{_rounded(most)}."
    factors = [_factors(layout, variant, setting) for variant in diverged]
    if len(diverged) == 1 and min(factors[0]) > GROWS:
        forward, backward = factors[0]
        each = f"Each layer of {who} multiplies the scale of the signal by about {forward:.2g}"
        return f"{each}, and that of the gradient on its way back by about {backward:.2g}: {text}"
    return f"The first gradients of {who} are the largest: {text}"


def _factors(layout: Layout, variant: str, setting: str) -> tuple[float, float]:
    """Returns the factors by which activations change from layer to layer, and gradients on their way back."""
    if layout.hidden(variant, setting) < 2:
        return 0.0, 0.0
    forward, backward = layout.layers(variant, setting, "act_std"), layout.gradients(variant, setting)[::-1]
    return growth(forward["mean"]), growth(backward["mean"])


def _late(layout: Layout, variant: str, setting: str, chance: float) -> str:
    """Says that a variant is no better than guessing after its first epoch, or at the end."""
    steps = layout.steps(variant, setting, "val/accuracy")
    curve = steps["mean"][steps["step"] > 0]
    guessing = chance + GUESSING * (1 - chance)
    if not len(curve) or curve.iloc[0] > guessing:
        return ""
    if curve.iloc[-1] <= guessing:
        return f", which does not learn (guessing gives {100 * chance:.0f}{SPACE}%),"
    return f", which starts late ({100 * curve.iloc[0]:.0f}{SPACE}% after its first epoch)," if len(curve) > 1 else ""


def _no_difference(layout: Layout) -> Iterator[Finding]:
    """Says which variants show no difference from the reference, and how large it could be."""
    same, few, largest = [], [], []
    networks = max(len(layout.replicas(*key, ACCURACY)) for key in layout.run)
    for setting in layout.settings:
        alike = verdicts(layout, setting)["not told apart"]
        place = where(layout, setting)
        place = f" {place[:1].lower()}{place[1:]}" if place else ""
        clear = [v for v in alike if not vague(layout, v, setting)]
        if clear:
            who = names(clear) if len(clear) <= SPELT_OUT else f"{len(clear)} variants"
            most = max(clear, key=lambda v: abs(_points(layout, v, setting)))
            gap = f"{points(layout.difference(most, setting, ACCURACY))} points"
            same.append(f"{who}{place}")
            largest.append(f"{gap} ({named(most)}{place})" if len(clear) > 1 else f"{gap}{place}")
        unclear = [v for v in alike if v not in clear]
        if unclear:
            gaps = {v: points(layout.difference(v, setting, ACCURACY)) for v in unclear[:SPELT_OUT]}
            each = [f"{named(variant)} ({gap} points)" for variant, gap in gaps.items()]
            each += [f"{len(unclear) - SPELT_OUT} more"] if len(unclear) > SPELT_OUT else []
            few.append(f"{listed(each)}{place}")
    reference = named(layout.reference)
    if same:
        verb = "is" if len(largest) == 1 else "are"
        text = f"With {networks} networks each, no difference from {reference} shows for {listed(same)}"
        yield Finding(f"{text}; the largest measured {verb} {listed(largest)}.", "difference", 0)
    if few:
        yield Finding(
            f"{networks} networks each are too few to compare {reference} with {listed(few)}.", "difference", 0
        )


def _shift(layout: Layout) -> Iterator[Finding]:
    """Says what shifting the activation changes, where a variant differs from the reference in it."""
    clauses: list[str] = []
    significant: list[bool] = []
    other, change = "", 0.0
    for setting in layout.settings:
        first, *others = layout.pair(setting)
        for variant in others:
            change = layout.shift(variant, setting) - layout.shift(first, setting)
            gap = layout.difference(variant, setting, ACCURACY)
            if not change or gap is None or not layout.same_function(variant, first, setting):
                continue
            other = variant
            significant.append(abs(gap[0]) > gap[1])
            place = where(layout, setting)
            clauses.append(f"by {points(gap)} points{f' {place[:1].lower()}{place[1:]}' if place else ''}")
    if not clauses:
        return
    direction = "down" if change > 0 else "up"
    if len(clauses) == 1:
        judged = "significant" if significant[0] else "not significant"
    elif len(clauses) == 2 and len({*significant}) == 1:
        judged = "both are significant" if significant[0] else "neither is significant"
    elif len({*significant}) == 1:
        judged = "all of them are significant" if significant[0] else "none of them is significant"
    else:
        judged = f"{sum(significant)} of these {len(significant)} are significant"
    text = f"Shifting the activation {direction} by {abs(change):g} ({named(other)}) changes test accuracy "
    yield Finding(f"{text}{listed(clauses)}: {judged}.", "difference", 0)


def _rounded(value: float) -> str:
    """Formats a positive number with two significant digits: 0.088, 16,000."""
    return f"{float(f'{value:.2g}'):,.0f}" if 10 <= value < 1e6 else f"{value:.2g}"


def _points(layout: Layout, variant: str, setting: str) -> float:
    found = layout.difference(variant, setting, ACCURACY)
    return 0.0 if found is None else 100 * found[0]
