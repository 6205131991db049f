"""The report's sentences. They are written from the numbers, so that another result reads differently."""

from collections.abc import Iterable, Iterator, Sequence
from math import isfinite
from typing import Any

import numpy as np
import pandas as pd

from initlab.confidence_intervals import mean_ci95
from initlab.report.layout import ACCURACY, Layout, growth
from initlab.report.learning_rates import LearningRates
from initlab.report.search import SCORE, SPACE, score, told

KEPT = 0.9, 1.1  # factors per layer that count as keeping the scale
LOST = "lost by"
GUESSING = 1 / 9  # share of the way from chance to 100 % that counts as guessing: up to 20 % with ten classes
VAGUE = 0.01  # half-width above which a difference of accuracies is inconclusive
SPELT_OUT = 3  # how many such differences are written out
SETTLED = 0.93, 1.07  # factors per layer, over the later half of the layers, that count as having settled


def lead(layout: Layout) -> str:
    """Returns the result in a sentence or two per setting."""
    if layout.search is not None:
        return " ".join(told(layout.search))
    sentences = []
    if layout.rates is not None and layout.at_own_rates:
        sentences.append(f"Every variant was trained at {_rates(layout.rates)}, and is shown at its best one.")
    if layout.left_out:
        shown = len(layout.variants)
        sentences.append(f"Of {shown + layout.left_out} variants the {shown} best are shown; comparison.csv has all.")
    for setting in layout.settings:
        ranked = layout.ranking(setting)
        found = verdicts(layout, setting)["not told apart"]
        same = [variant for variant in found if not vague(layout, variant, setting)]
        if same:
            reference = f"{layout.reference}, at {accuracy(layout, layout.reference, setting)} of the test images"
            sentences.append(_with(setting, f"{_count(len(same), 'variant')} can't be told from {reference}."))
            opening = "Best is"
        else:
            opening = _with(setting, "Best is")
        best, last = (f"{variant}, {accuracy(layout, variant, setting)}" for variant in (ranked[0], ranked[-1]))
        sentences.append(f"{opening} {best}" + (f"; last is {last}." if len(ranked) > 1 else "."))
        few = [variant for variant in found if variant not in same]
        if len(few) > SPELT_OUT:
            sentences.append(f"Replicas are too few to tell {len(few)} variants from {layout.reference}.")
            continue
        for variant in few:
            gap = points(layout.difference(variant, setting, ACCURACY))
            sentences.append(f"Replicas are too few to tell {variant} from {layout.reference}: {gap} points.")
    return " ".join(sentences)


def method(layout: Layout) -> list[str]:
    """Returns paragraphs on what was run, from the configurations of the runs."""
    configs = [layout.config(*key) for key in layout.run]
    runs = [run["config"] for name, run in layout.results.runs.items() if name in layout.counted]
    total = sum(config["replicas"] for config in runs)
    shapes = {
        setting: _same(_shape(layout, v, s) for v, s in layout.run if s == setting) for setting in layout.settings
    }
    widths = "; ".join(f"{setting} {shape}".strip() for setting, shape in shapes.items())
    optimizers = _same(config["optimizer"]["_target_"].rpartition(".")[2] for config in configs)
    losses = _same(config["loss"]["_target_"].rpartition(".")[2] for config in configs)
    paired = all(layout.paired(variant, setting) for variant, setting in layout.run)
    batches = (
        "Replica r of every run sees the same batches in the same order, and where schemes scale one another's draws "
        "it starts from the same random numbers: runs are compared replica by replica."
        if paired
        else "Runs of different seeds or data are not paired, and their difference has no interval."
    )
    return [
        f"{_count(len(layout.variants), 'variant')}, {_count(len(runs), 'run')} of "
        f"{_same(_count(c['replicas'], 'replica') for c in runs)}: {total} networks, each replica of a run from a "
        f"draw of its own. Widths: {widths}.{f' {batches}' if len(configs) > 1 else ''}",
        f"Data: {_same(c['data']['folder'].rpartition('/')[2] for c in configs)}; loss {losses}; {optimizers}, "
        f"learning rate {_same(c['optimizer'].get('lr', 'its default') for c in configs)}, batches of "
        f"{_same(c['data']['batch_size'] for c in configs)}, "
        f"{_same(_count(c['trainer']['max_epochs'], 'epoch') for c in configs)}. Forward and backward are written by "
        f"hand. A value is the mean over replicas; ± and bands are 95{SPACE}% t-intervals of that mean. Statistics are "
        f"taken on a fixed probe of {_same(layout.probe(*key) for key in layout.run)} validation images.",
    ]


def definitions(layout: Layout) -> list[tuple[str, str, str]]:
    """Returns (name, weights, activation) of each variant, from its configuration."""
    rows = []
    for variant in layout.variants:
        setting = next(s for v, s in layout.run if v == variant)
        config = layout.config(variant, setting)
        rows.append((variant, _call(config["init"]["weights"]), _call(config["activation"])))
    return rows


def at_the_start(layout: Layout) -> list[str]:
    """Returns sentences on how near theory is at step 0, and on which variants keep the scale."""
    return [
        _with(setting, sentence)
        for setting in layout.settings
        for sentence in (*_nearness(layout, setting), *_scale(layout, setting))
    ]


def _nearness(layout: Layout, setting: str) -> Iterator[str]:
    """Says how far the measured scale of activations is from theory, in the first layer and in the last."""
    found = {v: layout.layers(v, s, "act_std").set_index("layer") for v, s in layout.run if s == setting}
    found = {variant: layers for variant, layers in found.items() if len(layers)}
    if not found:
        return
    off = pd.concat([(layers["mean"] / layers["theory"] - 1).abs() for layers in found.values()])
    off = off[np.isfinite(off)].groupby("layer").max()
    first = {variant: layers["mean"].iloc[0] for variant, layers in found.items()}
    first = {variant: std for variant, std in first.items() if isfinite(std)}
    if len(off) and first:
        text = f"Measured standard deviations of activations are within {_percent(off.iloc[0])} of theory in layer 1"
        if len(off) > 1:
            text += f", within {_percent(off.iloc[-1])} in layer {off.index[-1]}: theory is that of infinitely wide"
            text += " layers, and a network of finite width wanders from it with depth"
        low, high = min(first, key=lambda v: first[v]), max(first, key=lambda v: first[v])
        ends = f" to {first[high]:.2g} ({high})" if low != high else ""
        yield f"{text}. In layer 1 they measure {first[low]:.2g} ({low}){ends}."
    overflowing = [variant for variant, layers in found.items() if not np.isfinite(layers["mean"]).all()]
    if overflowing:
        yield f"Activations overflow float32 with {_list(overflowing)}."


def _scale(layout: Layout, setting: str) -> Iterator[str]:
    clauses = [f"{what} {_list(group)}" for what, group in scale_groups(layout, setting).items() if group]
    if clauses:
        yield f"From layer to layer the scale of activations is {'; '.join(clauses)}."


def scale_groups(layout: Layout, setting: str) -> dict[str, list[str]]:
    """Returns {what becomes of the scale from layer to layer: variants}."""
    groups: dict[str, list[str]] = {
        "kept within a tenth by": [],
        "soon kept at another value by": [],
        LOST: [],
        "blown up by": [],
    }
    for variant, here in layout.run:
        std = layout.layers(variant, here, "act_std")["mean"]
        rate, late = growth(std), growth(std[len(std) // 2 :])
        if here != setting or len(std) < 3:
            continue
        if std.iloc[-1] == 0 or not np.isfinite(std).all():  # beyond what float32 holds, at either end
            groups[LOST if std.iloc[-1] == 0 else "blown up by"].append(variant)
        elif KEPT[0] <= rate <= KEPT[1]:
            groups["kept within a tenth by"].append(variant)
        elif SETTLED[0] <= late <= SETTLED[1]:
            groups["soon kept at another value by"].append(variant)
        else:
            groups[LOST if rate < 1 else "blown up by"].append(variant)
    return groups


def growth_table(layout: Layout, setting: str) -> pd.DataFrame | None:
    """Returns layer 1's std of activations and the factors per layer, forward and backward; None if shallow."""
    rows = []
    for variant, here in layout.run:
        if here == setting and layout.hidden(variant, setting) > 2:
            forward, backward = layout.layers(variant, setting, "act_std"), layout.gradients(variant, setting)[::-1]
            factors = [growth(found[column]) for found in (forward, backward) for column in ("mean", "theory")]
            rows.append((variant, forward["mean"].iloc[0], *factors))
    columns = ["variant", "layer 1", "forward", "forward, theory", "backward", "backward, theory"]
    return pd.DataFrame(rows, columns=columns) if rows else None


def verdicts(layout: Layout, setting: str) -> dict[str, list[str]]:
    """Groups variants by their paired comparison with the reference: better, worse, not told apart, or diverged."""
    found: dict[str, list[str]] = {"better": [], "worse": [], "not told apart": [], "diverged": []}
    for variant in layout.ranking(setting):
        difference = layout.difference(variant, setting, ACCURACY)
        if layout.diverged(variant, setting):
            found["diverged"].append(variant)
        elif difference is not None:
            mean, ci95 = difference
            found["better" if mean > ci95 else "worse" if mean < -ci95 else "not told apart"].append(variant)
    return found


def vague(layout: Layout, variant: str, setting: str) -> bool:
    """Returns whether the difference to the reference is so uncertain that it allows no conclusion."""
    difference = layout.difference(variant, setting, ACCURACY)
    return difference is not None and difference[1] > VAGUE


def learning(layout: Layout) -> list[str]:
    """Returns paragraphs on which variants learn, and which differ significantly from the reference."""
    paragraphs = []
    for setting in layout.settings:
        best = layout.ranking(setting)[0]
        sentences = [_with(setting, f"Best is {best} with {accuracy(layout, best, setting)}.")]
        groups = verdicts(layout, setting)
        compared = [f"{name}: {_list(group)}" for name, group in groups.items() if group and name != "diverged"]
        if compared:
            beside = f"Beside {layout.reference} ({accuracy(layout, layout.reference, setting)}), replica by replica, "
            sentences.append(f"{beside}{'; '.join(compared)}.")
        sentences += [*_diverged(layout, setting, groups["diverged"]), *_late(layout, setting)]
        paragraphs.append(" ".join(sentences))
    if len(layout.variants) > 2:
        paragraphs.append(
            "Intervals are not corrected for the number of comparisons: one in twenty excludes zero by chance alone."
        )
    return paragraphs


def learning_rates(layout: Layout) -> list[str]:
    """Returns paragraphs on the best learning rate of each variant, and on what comparing at that rate changes."""
    rates = layout.rates
    if rates is None:
        return []
    best = layout.at(rates.at_best())
    text = (
        f"Every variant was trained at {_rates(rates)}. Its best is the one with the highest validation "
        "accuracy, the mean over all replicas, where one that has diverged counts with what it guesses."
    )
    if layout.at_own_rates:
        text += " The rest of this page has each variant at its own best, and test images had no part in the choice."
    paragraphs = [text]
    for setting in best.settings:
        here = [variant for variant, s in best.run if s == setting]
        sentences = [*_best_rates(rates, here, setting)]
        if len(here) > 1 and (best.reference, setting) in best.run:
            sentences += _at_own_rates(best, layout.at(rates.at(rates.best(best.reference, setting)["rate"])), setting)
        spared = [variant for variant in here if not best.diverged(variant, setting)]
        sentences += _diverging_rates(rates, spared, setting)
        paragraphs.append(_with(setting, " ".join(sentences)))
    return paragraphs


def _best_rates(rates: LearningRates, variants: Sequence[str], setting: str) -> Iterator[str]:
    """Says between which learning rates the best ones are, and which of them may not be the best there are."""
    hopeless = [variant for variant in variants if rates.hopeless(variant, setting)]
    trained = {v: rates.best(v, setting)["rate"] for v in variants if v not in hopeless}
    if trained:
        groups = {best: [v for v in trained if trained[v] == best] for best in sorted({*trained.values()})}
        most = max(groups, key=lambda best: len(groups[best]))
        names = {best: _list(group) for best, group in groups.items()}
        if len(groups[most]) > SPELT_OUT:
            names[most] = f"{'the other' if len(groups) > 1 else 'all'} {len(groups[most])}"
        found = [f"{best:g} for {group}" for best, group in names.items()]
        yield f"The best learning rate is {_list(found)}."
    for end, beyond in (("smallest", "smaller"), ("largest", "larger")):
        found = [variant for variant in trained if rates.edge(variant, setting) == end]
        if found:
            yield f"That of {_list(found)} is the {end} that was tried: a {beyond} one may be better."
    if hopeless:
        yield f"All replicas of {_list(hopeless)} diverge at every learning rate."


def _diverging_rates(rates: LearningRates, variants: Sequence[str], setting: str) -> Iterator[str]:
    """Says from which learning rate on replicas diverge. variants: those that lose none at their best rate."""
    groups: dict[float, list[str]] = {}
    for variant in variants:
        if lost := rates.diverging(variant, setting):
            groups.setdefault(lost[2], []).append(variant)
    if groups:
        found = [f"from {first:g} on of {_list(group)}" for first, group in sorted(groups.items())]
        yield f"Replicas diverge {'; '.join(found)}; none does at the best rate."


def _at_own_rates(best: Layout, shared: Layout, setting: str) -> Iterator[str]:
    """Compares variants at each one's best learning rate, and says what a common one, the reference's, changes."""
    own, there = (verdicts(layout, setting) for layout in (best, shared))
    lost = [variant for variant in own["diverged"] if best.rates and not best.rates.hopeless(variant, setting)]
    if lost:
        yield f"Replicas of {_list(lost)} diverge at the best rate too, so that no difference has an interval."
    compared = [f"{name}: {_list(group)}" for name, group in own.items() if group and name != "diverged"]
    if not compared:
        return
    at = f"{best.config(best.reference, setting)['optimizer']['lr']:g}"
    reference = f"{best.reference}, with {accuracy(best, best.reference, setting)} of the test images"
    yield f"Each at its own best, beside {reference}, replica by replica: {'; '.join(compared)}."
    told = {variant: name for name, group in there.items() for variant in group}  # at the reference's rate
    changed = [
        f"{variant} ({told[variant]} there, {name} at its own)"
        for name, group in own.items()
        for variant in group
        if name != "diverged" and told.get(variant, name) != name
    ]
    if changed:
        yield f"At {best.reference}'s {at} for all, this changes for {_list(changed)}."
    else:
        yield f"At {best.reference}'s {at} for all, they compare the same."


def learning_rate_rows(layout: Layout) -> list[tuple[str, str, list[dict[str, str]]]]:
    """Returns (setting, reference, one row per variant, best first): best learning rate, accuracies, differences."""
    if layout.rates is None:
        return []
    best, found = layout.at(layout.rates.at_best()), []
    for setting in best.settings:
        shared = best
        if (best.reference, setting) in best.run:
            shared = layout.at(layout.rates.at(layout.rates.best(best.reference, setting)["rate"]))
        rows = [
            {
                "variant": variant,
                "rate": rate(layout.rates, variant, setting),
                "alike": layout.rates.spread(variant, setting),
                "score": score(layout.rates.best(variant, setting)),
                "accuracy": accuracy(best, variant, setting),
                "own": points(best.difference(variant, setting, ACCURACY)),
                "shared": points(shared.difference(variant, setting, ACCURACY)),
            }
            for variant in best.ranking(setting)
        ]
        found.append((setting, best.reference, rows))
    return found


def rate(rates: LearningRates, variant: str, setting: str) -> str:
    """Formats a variant's best learning rate: 0.1, or 3 (largest tried), or none if all replicas diverge at all."""
    if rates.hopeless(variant, setting):
        return "none"
    edge = rates.edge(variant, setting)
    return f"{rates.best(variant, setting)['rate']:g}" + (f" ({edge} tried)" if edge else "")


def inside(layout: Layout) -> list[str]:
    """Returns paragraphs on dead units, and on what the shift does to the mean of activations."""
    paragraphs = []
    for setting in layout.settings:
        dead = {v: layout.dead(v, s) for v, s in layout.run if s == setting}
        dead = {variant: share for variant, share in dead.items() if isfinite(share)}
        if not dead:
            continue
        most = max(dead, key=lambda v: dead[v])
        share = f"is {most}'s: {100 * dead[most]:.1f}{SPACE}%."
        text = f"The largest share of dead units, saturated on every image of the probe, {share}"
        text = _with(setting, text if dead[most] > 0 else "No unit is dead at the end.")
        first, *others = layout.pair(setting)
        for other in others:
            if not all(layout.survivors(v, setting, "layer1/act_mean").size for v in (first, other)):
                continue
            ours, theirs = (layout.steps(v, setting, "layer1/act_mean")["mean"] for v in (other, first))
            text += (
                f" Layer 1's mean activation is {ours.iloc[0]:.2f} with {other} and {theirs.iloc[0]:.2f} with {first} "
                f"at the start, {ours.iloc[-1]:.2f} and {theirs.iloc[-1]:.2f} at the end."
            )
        paragraphs.append(text)
    return paragraphs


def lesson(table: pd.DataFrame) -> list[str]:
    """Returns sentences on how many of the lesson's printed numbers agree, and how many of its claims hold."""
    printed, said = table[table["source"] != "C"], table[table["source"] == "C"]
    counts = printed["verdict"].value_counts()
    agree = int((printed["printed"] == printed["ours"]).sum())
    zeros = counts.get("exact", 0) - agree
    outside, refuted = printed[printed["verdict"] == "outside"], said[said["verdict"] == "outside"]
    doubt = f"outside: {_list(list(outside['expression']))}" if len(outside) else "none lies outside"
    claims = f"; these do not: {_list([f'“{quantity}”' for quantity in refuted['quantity']])}" if len(refuted) else ""
    return [
        f"Of {len(printed)} printed numbers {agree} are functions of the data and agree to the last printed digit, "
        f"{zeros} are zero but for float32's rounding, {counts.get('inside', 0)} are random and lie in the central "
        f"99{SPACE}% of our draws; {doubt}.",
        f"Of {len(said)} claims {len(said) - len(refuted)} hold{claims}.",
    ]


def conclusions(layout: Layout) -> list[str]:
    """Returns what to take away, in a sentence or two per point."""
    takeaways = []
    for setting in layout.settings:
        groups = verdicts(layout, setting)
        unhurt = [v for v in groups["not told apart"] if not vague(layout, v, setting)] + groups["better"]
        harmless = [v for v in scale_groups(layout, setting)[LOST] if v in unhurt]
        if harmless:
            lost = (
                f"The scale that activations lose from layer to layer with {_list(harmless)} does not show in the end"
            )
            takeaways.append(_with(setting, f"{lost}: accuracy can't be told from {layout.reference}'s."))
        takeaways += [_with(setting, sentence) for sentence in _late(layout, setting)]
        takeaways += [_with(setting, sentence) for sentence in _cause(layout, setting, groups["diverged"])]
        first, *others = layout.pair(setting)
        for other in others:
            difference = layout.difference(other, setting, ACCURACY)
            change = layout.shift(other, setting) - layout.shift(first, setting)
            scores = f"{accuracy(layout, other, setting)} against {accuracy(layout, first, setting)}"
            if layout.search is not None and difference is not None:
                takeaways.append(f"{other}, beside {first}, {_effect(difference)} of the test images: {scores}.")
            elif change and difference is not None and layout.same_function(other, first, setting):
                takeaways.append(
                    _with(setting, f"Taking {change:g} off the activation ({other}) {_effect(difference)}: {scores}.")
                )
    return takeaways or ["Nothing here tells one variant from another."]


def accuracy(layout: Layout, variant: str, setting: str, name: str = ACCURACY) -> str:
    """Formats an accuracy over the replicas that have not diverged, and how many have: 97.05 ± 0.11 %.

    name: of the metric; by default accuracy on the test images.
    """
    alive, lost = layout.survivors(variant, setting, name), layout.diverged(variant, setting)
    count = f"{lost} of {lost + len(alive)} diverged"
    if not len(alive):
        return count
    mean, ci95 = mean_ci95(100 * alive)
    text = f"{mean:.2f}" + (f"{SPACE}±{SPACE}{ci95:.2f}" if ci95 is not None else "") + f"{SPACE}%"
    return f"{text} ({count})" if lost else text


def ranked(layout: Layout, setting: str) -> list[dict[str, str]]:
    """Returns one row per variant, best first: accuracy, its difference to the reference's, losses."""
    rows = []
    for variant in layout.ranking(setting):
        row = {"variant": variant, "accuracy": accuracy(layout, variant, setting)}
        row["score"] = accuracy(layout, variant, setting, SCORE)
        row["difference"] = points(layout.difference(variant, setting, ACCURACY))
        for name in ("val/loss", "train/loss"):
            alive = layout.survivors(variant, setting, name)
            if not len(alive):
                row[name] = ""
                continue
            mean, ci95 = mean_ci95(alive)
            row[name] = f"{mean:.4f}" + ("" if ci95 is None else f" ± {ci95:.4f}")
        rows.append(row)
    return rows


def points(difference: tuple[float, float] | None) -> str:
    """Formats a difference of accuracies in percentage points: +0.11 ± 0.16."""
    return "" if difference is None else f"{100 * difference[0]:+.2f}{SPACE}±{SPACE}{100 * difference[1]:.2f}"


def _diverged(layout: Layout, setting: str, variants: Sequence[str]) -> Iterator[str]:
    if variants:
        counts = [
            f"{layout.diverged(v, setting)} of {len(layout.replicas(v, setting, ACCURACY))} of {v}" for v in variants
        ]
        yield f"Replicas that diverged to nan: {_list(counts)}."


def _late(layout: Layout, setting: str) -> Iterator[str]:
    """Names the variants that are no better than guessing after the first epoch, but learn later."""
    for variant in layout.ranking(setting):
        steps = layout.steps(variant, setting, "val/accuracy")
        curve, chance = steps["mean"][steps["step"] > 0], layout.chance(variant, setting)
        if len(curve) > 1 and curve.iloc[0] <= chance + GUESSING * (1 - chance) < curve.iloc[-1]:
            yield f"{variant} starts late: {100 * curve.iloc[0]:.0f}{SPACE}% after its first epoch."


def _cause(layout: Layout, setting: str, diverged: Sequence[str]) -> Iterator[str]:
    """Says whether the variants that diverged are those with the largest gradients."""
    size = {v: layout.first_gradient(v, s) for v, s in layout.run if s == setting}
    rest = [size[v] for v in size if v not in diverged]
    if diverged and rest:
        least, most = min(size[v] for v in diverged), max(rest)
        if least > most:
            found = f"at least {least:.2g}" if isfinite(least) else "too large for float32"
            yield (
                f"Replicas diverged of {_list(diverged)}: the variants whose first layer has the largest gradients at "
                f"the start (standard deviation of dL/dW {found}, elsewhere at most {most:.2g})."
            )
        else:
            yield f"Replicas diverged of {_list(diverged)}; the size of the first gradients does not set them apart."


def _effect(difference: tuple[float, float]) -> str:
    mean, ci95 = difference
    if abs(mean) <= ci95:
        return f"makes no difference that shows ({points(difference)} percentage points)"
    return f"{'gains' if mean > 0 else 'loses'} {points((abs(mean), ci95))[1:]} percentage points"


def _rates(rates: LearningRates) -> str:
    tried = rates.rates
    return f"{len(tried)} learning rates from {tried[0]:g} to {tried[-1]:g}"


def _shape(layout: Layout, variant: str, setting: str) -> str:
    hidden = layout.config(variant, setting)["model"]["hidden"]
    return "-".join(map(str, [layout.inputs, *hidden, layout.outputs(variant, setting)]))


def _with(setting: str, text: str) -> str:
    """Puts the setting before a sentence, if there are several settings."""
    return f"With {setting}: {text[:1].lower()}{text[1:]}" if setting else text


def _same(values: Iterable[object]) -> str:
    """Formats the value, or all values if there are several."""
    return " or ".join(dict.fromkeys(f"{value:g}" if isinstance(value, float) else str(value) for value in values))


def _call(config: dict[str, Any]) -> str:
    """Formats a configuration as the call that it makes: ReLU(leak=0, shift=0.5, scale=1)."""
    shown = {key: f"{value:.4g}" if isinstance(value, float) else value for key, value in config.items()}
    values = ", ".join(f"{key}={value}" for key, value in shown.items() if key != "_target_")
    return f"{config['_target_'].rpartition('.')[2]}({values})"


def _percent(share: float) -> str:
    return f"{100 * share:.2g}{SPACE}%"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _list(items: Sequence[str]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"
