"""The report's sentences, written from the numbers it shows: another result reads differently."""

from collections.abc import Iterable, Iterator, Sequence

import pandas as pd

from initlab.report.view import ACCURACY, CHANCE, View, growth
from initlab.stats import mean_ci95

SPACE = "\N{NO-BREAK SPACE}"
KEPT = 0.9, 1.1  # factors a layer that count as keeping the scale


def lead(view: View) -> str:
    """The result, a sentence a setting."""
    sentences = []
    for setting in view.settings:
        ranked = view.ranking(setting)
        best, last = (f"{v}, at {accuracy(view, v, setting)} of the test images" for v in (ranked[0], ranked[-1]))
        same = verdicts(view, setting)["not told apart"]
        rest = f"; {_count(len(same), 'variant')} can't be told from {view.reference}" if same else ""
        sentence = f"best is {best}, last {last}{rest}." if len(ranked) > 1 else f"{best}."
        sentences.append(_with(setting, sentence))
    return " ".join(sentences)


def method(view: View) -> list[str]:
    """What was run, from the runs' own configurations."""
    configs = [run["config"] for run in view.results.runs.values()]
    total = sum(config["replicas"] for config in configs)
    variants, runs = _count(len(view.variants), "variant"), _count(len(configs), "run")
    shapes = {setting: _same(_shape(view, v, s) for v, s in view.run if s == setting) for setting in view.settings}
    widths = "; ".join(f"{setting} {shape}".strip() for setting, shape in shapes.items())
    optimizers = _same(config["optimizer"]["_target_"].rpartition(".")[2] for config in configs)
    return [
        f"{variants}, {runs} of {_same(c['replicas'] for c in configs)} replicas: {total} networks, each from its own "
        f"draw. Widths: {widths}. Replica r of every run sees the same batches in the same order, so runs are compared "
        f"replica by replica.",
        f"Data: {_same(c['data']['folder'].rpartition('/')[2] for c in configs)}. {optimizers}, learning rate "
        f"{_same(c['optimizer']['lr'] for c in configs)}, batches of {_same(c['data']['batch_size'] for c in configs)}"
        f", {_same(c['trainer']['max_epochs'] for c in configs)} epochs. Forward and backward are written by hand. "
        f"A value is the mean over replicas; ± and bands are 95{SPACE}% t-intervals of that mean. Statistics are taken "
        f"on a fixed probe of {_same(c['stats']['probe'] for c in configs)} validation images.",
    ]


def at_the_start(view: View) -> list[str]:
    """Whether theory and measurement agree at step 0, and who keeps the scale."""
    found = pd.concat([view.layers(*key, "act_std") for key in view.run]).dropna()
    inside = int((abs(found["mean"] - found["theory"]) <= found["ci95"]).sum())
    sentences = []
    if len(found):
        width = _same(w for run in view.results.runs.values() for w in run["config"]["model"]["hidden"])
        sentences.append(
            f"Of {len(found)} measured standard deviations of activations {inside} have theory within their 95{SPACE}% "
            f"interval. Theory is that of infinitely wide layers; at width {width} a network's scale wanders from it, "
            f"the more the deeper it is."
        )
    for setting in view.settings:
        rates = {v: growth(view.layers(v, s, "act_std")["mean"]) for v, s in view.run if s == setting}
        low, high = KEPT
        groups = {
            "keeps the scale of activations within a tenth a layer": [v for v, r in rates.items() if low <= r <= high],
            "loses it": [v for v, r in rates.items() if r < low],
            "blows it up": [v for v, r in rates.items() if r > high],
        }
        clauses = [f"{_list(variants)} {_verb(what, variants)}" for what, variants in groups.items() if variants]
        if clauses:
            sentences.append(_with(setting, f"{'; '.join(clauses)}."))
    return sentences


def growth_table(view: View, setting: str) -> pd.DataFrame | None:
    """Factor a layer of the activations' std, forward, and of the gradient's, backward; None in shallow networks."""
    rows = []
    for variant, here in view.run:
        if here == setting:
            forward, backward = view.layers(variant, setting, "act_std"), view.gradients(variant, setting)[::-1]
            rows.append(
                (variant, *(growth(found[column]) for found in (forward, backward) for column in ("mean", "theory")))
            )
    table = pd.DataFrame(rows, columns=["variant", "forward", "forward, theory", "backward", "backward, theory"])
    return None if table.iloc[:, 1:].isna().all(axis=None) else table


def verdicts(view: View, setting: str) -> dict[str, list[str]]:
    """Variants beside the reference, pair by pair: better, worse, not told apart; those that diverge stand aside."""
    found: dict[str, list[str]] = {"better": [], "worse": [], "not told apart": [], "diverged": []}
    for variant in view.ranking(setting):
        difference = view.difference(variant, setting, ACCURACY)
        if view.diverged(variant, setting):
            found["diverged"].append(variant)
        elif difference is not None:
            mean, ci95 = difference
            found["better" if mean > ci95 else "worse" if mean < -ci95 else "not told apart"].append(variant)
    return found


def learning(view: View) -> list[str]:
    """Who learns, and who can be told from the reference."""
    paragraphs = []
    for setting in view.settings:
        best = view.ranking(setting)[0]
        sentences = [_with(setting, f"{best} is best with {accuracy(view, best, setting)}.")]
        groups = verdicts(view, setting)
        compared = [f"{name}: {_list(group)}" for name, group in groups.items() if group and name != "diverged"]
        if compared:
            beside = f"Beside {view.reference} ({accuracy(view, view.reference, setting)}), replica by replica, "
            sentences.append(f"{beside}{'; '.join(compared)}.")
        sentences += [*_diverged(view, setting, groups["diverged"]), *_late(view, setting)]
        paragraphs.append(" ".join(sentences))
    if len(view.variants) > 2:
        paragraphs.append(
            "Each interval is of one comparison: of twenty between equals, one is expected to exclude zero."
        )
    return paragraphs


def inside(view: View) -> list[str]:
    """Dead units, and what the shift does to the mean of activations."""
    paragraphs = []
    for setting in view.settings:
        dead = {v: view.dead(v, s) for v, s in view.run if s == setting and view.hidden(v, s)}
        if not dead:
            continue
        most = max(dead, key=lambda v: dead[v])
        share = f"the largest share of dead units, active on no image of the probe, is {most}'s: {100 * dead[most]:.1f}"
        text = _with(setting, f"{share}{SPACE}%." if dead[most] > 0 else "no unit is dead at the end.")
        first, *others = view.pair(setting)
        for other in others:
            ours, theirs = (view.steps(v, setting, "layer1/act_mean")["mean"] for v in (other, first))
            text += (
                f" Layer 1's mean activation is {ours.iloc[0]:.2f} with {other} and {theirs.iloc[0]:.2f} with {first} "
                f"at the start, {ours.iloc[-1]:.2f} and {theirs.iloc[-1]:.2f} at the end."
            )
        paragraphs.append(text)
    return paragraphs


def lesson(table: pd.DataFrame) -> list[str]:
    """How the printed numbers and the claims stand."""
    printed, said = table[table["source"] != "C"], table[table["source"] == "C"]
    counts = printed["verdict"].value_counts()
    outside, refuted = printed[printed["verdict"] == "outside"], said[said["verdict"] == "outside"]
    doubt = f"outside: {_list(list(outside['expression']))}" if len(outside) else "none lies outside"
    claims = f"; these do not: {_list([f'“{quantity}”' for quantity in refuted['quantity']])}" if len(refuted) else ""
    return [
        f"Of {len(printed)} printed numbers {counts.get('exact', 0)} are functions of the data and agree to the last "
        f"printed digit, or the table says why they can't; {counts.get('inside', 0)} are random and lie in the central "
        f"99{SPACE}% of our draws; {doubt}.",
        f"Of {len(said)} claims {len(said) - len(refuted)} hold{claims}.",
    ]


def conclusions(view: View) -> list[str]:
    """What to take away, a sentence or two a point."""
    points = []
    for setting in view.settings:
        learned = [v for v in view.ranking(setting) if not view.diverged(v, setting)]
        means = [100 * view.replicas(v, setting, ACCURACY).mean() for v in learned]
        if len(learned) > 1:
            spread = f"{means[0] - means[-1]:.1f} percentage points lie between {learned[0]} and {learned[-1]}"
            ends = f"the best and the last of {len(learned)} variants in which no replica diverges."
            points.append(_with(setting, f"{spread}, {ends}"))
        groups = verdicts(view, setting)
        points += [_with(setting, sentence) for sentence in _cause(view, setting, groups["diverged"])]
        first, *others = view.pair(setting)
        for other in others:
            difference = view.difference(other, setting, ACCURACY)
            change = view.shift(other, setting) - view.shift(first, setting)
            if change and difference is not None:
                scores = f"{accuracy(view, other, setting)} against {accuracy(view, first, setting)}"
                points.append(
                    _with(setting, f"taking {change:g} off the activation ({other}) {_effect(difference)}: {scores}.")
                )
    return points


def accuracy(view: View, variant: str, setting: str) -> str:
    """Of the test images, 97.05 ± 0.11 %."""
    mean, ci95 = mean_ci95(100 * view.replicas(variant, setting, ACCURACY))
    return f"{mean:.2f}" + (f"{SPACE}±{SPACE}{ci95:.2f}" if ci95 is not None else "") + f"{SPACE}%"


def points(difference: tuple[float, float] | None) -> str:
    """A difference of accuracies in percentage points: +0.11 ± 0.16."""
    return "" if difference is None else f"{100 * difference[0]:+.2f}{SPACE}±{SPACE}{100 * difference[1]:.2f}"


def _diverged(view: View, setting: str, variants: Sequence[str]) -> Iterator[str]:
    if variants:
        counts = [f"{view.diverged(v, setting)} of {len(view.replicas(v, setting, ACCURACY))} of {v}" for v in variants]
        yield f"Replicas that diverge, end as nan and guess: {_list(counts)}."


def _late(view: View, setting: str) -> Iterator[str]:
    """Variants that are no better than guessing for an epoch, and learn after all."""
    for variant in view.ranking(setting):
        curve = view.steps(variant, setting, "val/accuracy")["mean"]
        if len(curve) > 1 and curve.iloc[0] <= 2 * CHANCE < curve.iloc[-1]:
            yield f"{variant} starts late: {100 * curve.iloc[0]:.0f}{SPACE}% after its first epoch."


def _cause(view: View, setting: str, diverged: Sequence[str]) -> Iterator[str]:
    """Whether those that diverge are those with the largest gradients."""
    size = {v: view.first_gradient(v, s) for v, s in view.run if s == setting}
    rest = [size[v] for v in size if v not in diverged]
    if diverged and rest:
        least, most = min(size[v] for v in diverged), max(rest)
        if least > most:
            yield (
                f"replicas diverge of {_list(diverged)}: the variants whose first layer has the largest gradients at "
                f"the start (standard deviation of dL/dW at least {least:.2g}, elsewhere at most {most:.2g})."
            )
        else:
            yield f"replicas diverge of {_list(diverged)}; the size of the first gradients does not set them apart."


def _effect(difference: tuple[float, float]) -> str:
    mean, ci95 = difference
    if abs(mean) <= ci95:
        return f"makes no difference that shows ({points(difference)} percentage points)"
    return f"{'gains' if mean > 0 else 'loses'} {points((abs(mean), ci95))[1:]} percentage points"


def _shape(view: View, variant: str, setting: str) -> str:
    config = view.config(variant, setting)
    return "-".join(map(str, [view.inputs, *config["model"]["hidden"], config["loss"]["outputs"]]))


def _with(setting: str, text: str) -> str:
    """The text, after its setting where there are several."""
    return f"With {setting}: {text}" if setting else text


def _same(values: Iterable[object]) -> str:
    """The value, or all there are."""
    return " or ".join(dict.fromkeys(f"{value:g}" if isinstance(value, float) else str(value) for value in values))


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _verb(phrase: str, subjects: Sequence[str]) -> str:
    """The phrase, whose verb is in the singular, for these subjects: "loses it" -> "lose it"."""
    verb, _, rest = phrase.partition(" ")
    return phrase if len(subjects) == 1 else f"{verb.removesuffix('s')} {rest}"


def _list(items: Sequence[str]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"
