"""The report's sentences. They are written from the numbers, so that another result reads differently."""

from collections.abc import Iterable, Iterator, Sequence
from math import isfinite
from typing import Any

import numpy as np
import pandas as pd

from initlab.confidence_intervals import mean_ci95
from initlab.nn import init
from initlab.report.layout import ACCURACY, Layout, growth
from initlab.report.learning_rates import LearningRates
from initlab.report.search import SCORE, SPACE, score

KEPT = 0.9, 1.1  # factors per layer that count as keeping the scale
LOST, GROWN = "shrinks with", "grows with"
GUESSING = 1 / 9  # share of the way from chance to 100 % that counts as guessing: up to 20 % with ten classes
VERDICTS = {
    "better": "significantly better",
    "worse": "significantly worse",
    "not told apart": "not significantly different",
}
VAGUE = 0.01  # half-width above which a difference of accuracies is inconclusive
SPELT_OUT = 3  # how many such differences are written out
SETTLED = 0.93, 1.07  # factors per layer, over the later half of the layers, that count as having settled


def where(layout: Layout, setting: str) -> str:
    """Returns words for a setting: "With eight hidden layers"; nothing if it is the only one."""
    named = layout.named(setting)
    return f"With {named}" if named else ""


def sentence(layout: Layout, setting: str, text: str) -> str:
    """Puts the setting before a text, if there are several settings, and makes a sentence of it."""
    place = where(layout, setting)
    return f"{place}, {text}." if place else f"{text[:1].upper()}{text[1:]}."


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
        " Replica r of every run sees the same batches in the same order, and where schemes scale one another's draws "
        "it starts from the same random numbers, so runs are compared replica by replica."
        if paired
        else " Runs with different seeds or data are not paired, and their difference has no interval."
    )
    seeds = sorted({len(group) for group in layout.pooled.values()})
    pooled = f" Each variant pools the replicas of {_same(seeds)} seeds." if seeds[-1] > 1 else ""
    return [
        f"{count(len(layout.variants), 'variant')}, {count(len(runs), 'run')} of "
        f"{_same(count(c['replicas'], 'replica') for c in runs)}: {total} networks, each from a draw of its own. "
        f"Widths: {widths}.{pooled}{batches if len(configs) > 1 else ''}",
        f"Data: {_same(c['data']['folder'].rpartition('/')[2] for c in configs)}. Loss: {losses}. Optimiser: "
        f"{optimizers} with learning rate {_same(c['optimizer'].get('lr', 'its default') for c in configs)} and "
        f"batches of {_same(c['data']['batch_size'] for c in configs)}, for "
        f"{_same(_epochs(c['trainer'].get('max_epochs')) for c in configs)}. Forward and backward passes are written "
        f"by hand. Statistics of layers are measured on {_same(layout.probe(*key) for key in layout.run)} validation "
        "images, always the same ones.",
    ]


def _epochs(most: int | None) -> str:
    return "as many epochs as it takes" if most is None or most < 0 else count(most, "epoch")


def definitions(layout: Layout) -> list[tuple[str, str, str, str]]:
    """Returns (name, what the scheme draws, weights, activation) of each variant, from its configuration."""
    rows = []
    for variant in layout.variants:
        setting = next(s for v, s in layout.run if v == variant)
        config = layout.config(variant, setting)
        weights = config["init"]["weights"]
        rows.append((variant, _summary(weights["_target_"]), _call(weights), _call(config["activation"])))
    return rows


def _summary(target: str) -> str:
    """Returns the first line of the documentation of a scheme of ours; nothing for others, which may not be here."""
    module, _, name = target.rpartition(".")
    scheme = getattr(init, name, None) if module == init.__name__ else None
    return (scheme.__doc__ or "").partition("\n")[0].replace("`", "") if scheme is not None else ""


def at_the_start(layout: Layout) -> list[str]:
    """Returns sentences on how near theory is at step 0, and on which variants keep the scale."""
    return [
        _with(layout, setting, text)
        for setting in layout.settings
        for text in (*_nearness(layout, setting), *_scale(layout, setting))
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
            text += f" and within {_percent(off.iloc[-1])} in layer {off.index[-1]}. Theory assumes infinitely wide "
            text += "layers, and networks of finite width deviate from it as depth grows"
        low, high = min(first, key=lambda v: first[v]), max(first, key=lambda v: first[v])
        ends = f" to {first[high]:.2g} ({named(high)})" if low != high else ""
        yield f"{text}. In layer 1 they range from {first[low]:.2g} ({named(low)}){ends}." if ends else f"{text}."
    overflowing = [variant for variant, layers in found.items() if not np.isfinite(layers["mean"]).all()]
    if overflowing:
        yield f"Activations overflow float32 with {names(overflowing)}."


def _scale(layout: Layout, setting: str) -> Iterator[str]:
    clauses = [f"{what} {names(group)}" for what, group in scale_groups(layout, setting).items() if group]
    if clauses:
        yield f"From layer to layer, the scale of activations {'; '.join(clauses)}."


def scale_groups(layout: Layout, setting: str) -> dict[str, list[str]]:
    """Returns {what becomes of the scale from layer to layer: variants}."""
    groups: dict[str, list[str]] = {
        "stays within 10 % with": [],
        "settles at another value with": [],
        LOST: [],
        GROWN: [],
    }
    for variant, here in layout.run:
        std = layout.layers(variant, here, "act_std")["mean"]
        rate, late = growth(std), growth(std[len(std) // 2 :])
        if here != setting or len(std) < 3:
            continue
        if std.iloc[-1] == 0 or not np.isfinite(std).all():  # beyond what float32 holds, at either end
            groups[LOST if std.iloc[-1] == 0 else GROWN].append(variant)
        elif KEPT[0] <= rate <= KEPT[1]:
            groups["stays within 10 % with"].append(variant)
        elif SETTLED[0] <= late <= SETTLED[1]:
            groups["settles at another value with"].append(variant)
        else:
            groups[LOST if rate < 1 else GROWN].append(variant)
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
        best, groups = layout.ranking(setting)[0], verdicts(layout, setting)
        told = [
            _with(layout, setting, f"The best test accuracy is {layout.accuracy(best, setting)}, with {named(best)}.")
        ]
        compared = [f"{VERDICTS[name]}: {names(group)}" for name, group in groups.items() if group and name in VERDICTS]
        if compared:
            reference = f"{named(layout.reference)} ({layout.accuracy(layout.reference, setting)})"
            told.append(f"Compared with {reference}, replica by replica, {'; '.join(compared)}.")
        if groups["diverged"]:
            lost = [
                f"{layout.diverged(v, setting)} of {len(layout.replicas(v, setting, ACCURACY))} of {named(v)}"
                for v in groups["diverged"]
            ]
            told.append(f"Networks that diverged, their loss NaN or infinite: {listed(lost)}.")
        paragraphs.append(" ".join(told))
    if len(layout.variants) > 2:
        paragraphs.append(
            "The intervals are not corrected for the number of comparisons: where there is no difference, one interval "
            "in twenty still excludes zero."
        )
    return paragraphs


def learning_rates(layout: Layout) -> list[str]:
    """Returns paragraphs on the best learning rate of each variant, and on what comparing at that rate changes."""
    rates = layout.rates
    if rates is None:
        return []
    best = layout.at(rates.at_best())
    text = (
        f"Every variant was trained at {swept_rates_in_words(rates)}. Its best rate is the one with the highest mean "
        "validation accuracy over all its networks; one that has diverged counts with the accuracy of its guesses."
    )
    if layout.at_own_rates:
        text += " The rest of this page shows each variant at its best rate. Test images played no part in the choice."
    paragraphs = [text]
    for setting in best.settings:
        here = [variant for variant, s in best.run if s == setting]
        told = [*_best_rates(rates, here, setting)]
        if len(here) > 1 and (best.reference, setting) in best.run:
            told += _at_own_rates(best, layout.at(rates.at(rates.best(best.reference, setting)["rate"])), setting)
        spared = [variant for variant in here if not best.diverged(variant, setting)]
        told += _diverging_rates(rates, spared, setting)
        paragraphs.append(_with(layout, setting, " ".join(told)))
    return paragraphs


def _best_rates(rates: LearningRates, variants: Sequence[str], setting: str) -> Iterator[str]:
    """Says between which learning rates the best ones are, and which of them may not be the best there are."""
    hopeless = [variant for variant in variants if rates.hopeless(variant, setting)]
    trained = {v: rates.best(v, setting)["rate"] for v in variants if v not in hopeless}
    if trained:
        groups = {best: [v for v in trained if trained[v] == best] for best in sorted({*trained.values()})}
        most = max(groups, key=lambda best: len(groups[best]))
        who = {best: names(group) for best, group in groups.items()}
        if len(groups[most]) > SPELT_OUT:
            who[most] = f"{'the other' if len(groups) > 1 else 'all'} {len(groups[most])}"
        found = [f"{best:g} for {group}" for best, group in who.items()]
        yield f"The best learning rate is {listed(found)}."
    for end, beyond in (("smallest", "smaller"), ("largest", "larger")):
        found = [variant for variant in trained if rates.edge(variant, setting) == end]
        if found:
            yield f"For {names(found)} it is the {end} that was tried, so a {beyond} one may be better."
    if hopeless:
        yield f"All networks of {names(hopeless)} diverge at every learning rate."


def _diverging_rates(rates: LearningRates, variants: Sequence[str], setting: str) -> Iterator[str]:
    """Says from which learning rate on replicas diverge. variants: those that lose none at their best rate."""
    groups: dict[float, list[str]] = {}
    for variant in variants:
        if lost := rates.diverging(variant, setting):
            groups.setdefault(lost[2], []).append(variant)
    if groups:
        found = [f"{first:g} ({names(group)})" for first, group in sorted(groups.items())]
        yield f"Above their best rate, networks diverge from these rates on: {', '.join(found)}."


def _at_own_rates(best: Layout, shared: Layout, setting: str) -> Iterator[str]:
    """Compares variants at each one's best learning rate, and says what a common one, the reference's, changes."""
    own, there = (verdicts(layout, setting) for layout in (best, shared))
    lost = [variant for variant in own["diverged"] if best.rates and not best.rates.hopeless(variant, setting)]
    if lost:
        yield f"Networks of {names(lost)} diverge even at the best rate, so there is no interval for their difference."
    compared = [f"{VERDICTS[name]}: {names(group)}" for name, group in own.items() if group and name in VERDICTS]
    if not compared:
        return
    reference, at = named(best.reference), f"{best.config(best.reference, setting)['optimizer']['lr']:g}"
    beside = f"{reference} ({best.accuracy(best.reference, setting)})"
    yield f"With each at its best, compared with {beside}: {'; '.join(compared)}."
    told = {variant: name for name, group in there.items() for variant in group}  # at the reference's rate
    words = {**VERDICTS, "diverged": "diverging"}
    changed = [
        f"{named(variant)} ({words[told[variant]]} there, {words[name]} at its own)"
        for name, group in own.items()
        for variant in group
        if name != "diverged" and told.get(variant, name) != name
    ]
    if changed:
        yield f"At {at}, the best rate of {reference}, for all, the result is another for {listed(changed)}."
    else:
        yield f"At {at}, the best rate of {reference}, for all, the result is the same."


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
                "accuracy": best.accuracy(variant, setting),
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
        text = "No unit is dead after training."
        if dead[most] > 0:
            text = (
                f"{named(most)} has the largest share of dead units, {100 * dead[most]:.1f}{SPACE}%: they are saturated"
            )
            text += " on every one of the validation images that are measured on."
        text = _with(layout, setting, text)
        first, *others = layout.pair(setting)
        for other in others:
            if not all(layout.survivors(v, setting, "layer1/act_mean").size for v in (first, other)):
                continue
            ours, theirs = (layout.steps(v, setting, "layer1/act_mean")["mean"] for v in (other, first))
            text += (
                f" The mean activation in layer 1 is {ours.iloc[0]:.2f} with {named(other)} and {theirs.iloc[0]:.2f} "
                f"with {named(first)} before training, {ours.iloc[-1]:.2f} and {theirs.iloc[-1]:.2f} after it."
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
    doubt = f"Outside are {listed(list(outside['expression']))}." if len(outside) else "None lies outside."
    claims = f"; these do not: {listed([f'“{quantity}”' for quantity in refuted['quantity']])}" if len(refuted) else ""
    return [
        f"Of {len(printed)} printed numbers, {agree} are functions of the data and agree to the last printed digit, "
        f"{zeros} are zero up to float32's rounding, and {counts.get('inside', 0)} are random and lie within the "
        f"central 99{SPACE}% of our draws. {doubt}",
        f"Of {len(said)} claims, {len(said) - len(refuted)} hold{claims}.",
    ]


def ranked(layout: Layout, setting: str) -> list[dict[str, str]]:
    """Returns one row per variant, best first: accuracy, its difference to the reference's, losses."""
    rows = []
    for variant in layout.ranking(setting):
        row = {"variant": variant, "accuracy": layout.accuracy(variant, setting)}
        row["score"] = layout.accuracy(variant, setting, SCORE)
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


def difference_in_points(difference: tuple[float, float]) -> str:
    """Formats the size of a difference of accuracies: 1.13 ± 0.45 points."""
    return f"{points((abs(difference[0]), difference[1]))[1:]} points"


def swept_rates_in_words(rates: LearningRates) -> str:
    tried = rates.rates
    return f"{len(tried)} learning rates from {tried[0]:g} to {tried[-1]:g}"


def _shape(layout: Layout, variant: str, setting: str) -> str:
    hidden = layout.config(variant, setting)["model"]["hidden"]
    return "-".join(map(str, [layout.inputs, *hidden, layout.outputs(variant, setting)]))


def _with(layout: Layout, setting: str, text: str) -> str:
    """Puts the setting before a sentence, if there are several settings."""
    place = where(layout, setting)
    return f"{place}, {text[:1].lower()}{text[1:]}" if place else text


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


def count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def named(variant: str) -> str:
    """Marks a name as one: `kaiming`, as Markdown does."""
    return f"`{variant}`"


def names(variants: Sequence[str]) -> str:
    return listed([named(variant) for variant in variants])


def listed(items: Sequence[str]) -> str:
    """Formats a list: a, b and c."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"
