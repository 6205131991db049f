"""Glorot & Bengio (2010), "Understanding the difficulty of training deep feedforward neural networks"."""

import altair as alt
import pandas as pd

from initlab.tracking.results import Results
from papers import charts, measured, pages, verdicts

KEYS = ("activation", "init", "optimizer.lr")
# Test error on MNIST in per cent, of five hidden layers of 1,000 units: table 1. `xavier` is what they call normalised.
PUBLISHED = {
    ("tanh", "standard"): 1.76,
    ("tanh", "xavier"): 1.64,
    ("softsign", "standard"): 1.64,
    ("softsign", "xavier"): 1.72,
    ("sigmoid", "standard"): 2.21,
}
COMPARED = (  # pairs of the table, the first of which has the larger error there
    (("tanh", "standard"), ("tanh", "xavier")),
    (("softsign", "xavier"), ("softsign", "standard")),
    (("sigmoid", "standard"), ("tanh", "standard")),
    (("sigmoid", "standard"), ("softsign", "standard")),
)
SATURATED = 0.05  # mean activation of sigmoid units, below which a layer counts as saturated at 0: section 3.1
PANELS = (("tanh", "standard"), ("tanh", "xavier"), ("softsign", "standard"))  # of the figure's second row
SIGMOID = ("sigmoid", "standard")

Variant = tuple[str, str]


def section(results: Results) -> str:
    """Returns test errors beside those of table 1, and whether their order and the saturation are as in the paper."""
    found = measured.at_best_rate(results)
    rows = []
    for (activation, init), replicas in found.items():
        ours = measured.estimate(measured.error(replicas["test/accuracy"]))
        published = PUBLISHED.get((activation, init))
        rows.append(
            {
                "`activation=`": f"`{activation}`",
                "`init=`": f"`{init}`",
                "best learning rate": measured.rate(replicas, results),
                "paper: test error, %": "" if published is None else f"{published:.2f}",
                "ours, %": ours.text(),
                "our interval": "" if published is None else verdicts.contains(ours, published),
            }
        )
    claims = [_ordered(*pair, found) for pair in COMPARED if set(pair) <= set(found)]
    claims += [*_saturation(results), *_first_layer(results, found)]
    return "\n".join([measured.setup(results), "", *pages.table(rows), "", *pages.bullets(claims)])


def _ordered(worse: Variant, better: Variant, found: dict[Variant, pd.DataFrame]) -> str:
    gap = measured.difference(found[better], found[worse], "test/accuracy")
    published = PUBLISHED[worse] - PUBLISHED[better]
    return (
        f"**{_name(worse)} minus {_name(better)}:** {published:+.2f} points of error in the paper, "
        f"{gap.text(sign='+')} here: {verdicts.order(gap, published)}."
    )


def _name(variant: Variant) -> str:
    return f"`{variant[0]}` from `{variant[1]}`"


def _saturation(results: Results) -> list[str]:
    """Says whether the last hidden layer of sigmoids saturates at 0, at each rate, and whether it leaves that again."""
    outcomes, saturates = [], False
    for rate, rows in _runs(results, SIGMOID).items():
        means = measured.curve(rows, f"layer{_layers(results)}/act_mean").set_index("step")["mean"]
        low = means[means < SATURATED]
        if low.empty:
            outcomes.append(f"at a rate of {rate} it does not")
            continue
        saturates = True
        after = means[(means.index > low.index[0]) & (means >= SATURATED)]
        end = "stays there" if after.empty else f"leaves it by step {after.index[0]:,}"
        outcomes.append(f"at {rate} it is there by step {low.index[0]:,} and {end}")
    if not outcomes:
        return []
    return [
        f"**Does the last hidden layer of sigmoids saturate at 0?** Its mean activation starts near 0.5. Counted below "
        f"{SATURATED}, {'; '.join(outcomes)}. {verdicts.outcome(saturates)}"
    ]


def _first_layer(results: Results, found: dict[Variant, pd.DataFrame]) -> list[str]:
    """Says which layer of tanh has most saturated units after training: in the paper the first, section 3.2."""
    if PANELS[0] not in found:
        return []
    last = found[PANELS[0]]
    shares = {n: last[f"layer{n}/saturated_fraction"].mean() for n in range(1, _layers(results) + 1)}
    most = max(shares, key=lambda n: shares[n])
    others = max(share for n, share in shares.items() if n != most)
    return [
        f"**Which layer of tanh saturates most?** Layer {most}, with {100 * shares[most]:.0f} % saturated units after "
        f"training; the others have at most {100 * others:.0f} %. {verdicts.outcome(most == 1)}"
    ]


def _runs(results: Results, variant: Variant) -> dict[str, pd.DataFrame]:
    """Returns {learning rate: all rows} of a variant."""
    table = results.replicas
    chosen = table[(table["activation"] == variant[0]) & (table["init"] == variant[1])]
    return {f"{float(rate):g}": rows for rate, rows in chosen.groupby("optimizer.lr", sort=False)}


def _layers(results: Results) -> int:
    return min(len(run["config"]["model"]["hidden"]) for run in results.runs.values())


def figure(results: Results) -> alt.TopLevelMixin:
    """Returns the mean activation of layers of sigmoids at each rate; below, the share of saturated units of others."""
    layers = range(1, _layers(results) + 1)
    means, shares = [], []
    for rate, rows in _runs(results, SIGMOID).items():
        means += _curves(rows, layers, "act_mean", f"{', '.join(SIGMOID)}, rate {rate}")
    for variant, trained in measured.at_best_rate(results).items():
        if variant in PANELS:
            rate = f"{float(trained['optimizer.lr'].iloc[0]):g}"
            panel = f"{', '.join(variant)}, rate {rate}"
            shares += _curves(_runs(results, variant)[rate], layers, "saturated_fraction", panel)
    rows_of_panels = ((means, "mean activation"), (shares, "share of saturated units"))
    return alt.vconcat(
        *(
            charts.curves(pd.concat(parts), title, colour="layer", panel="panel", colours=charts.ORDERED, highest=1)
            for parts, title in rows_of_panels
            if parts
        )
    )


def _curves(rows: pd.DataFrame, layers: range, statistic: str, panel: str) -> list[pd.DataFrame]:
    """Returns the curves of a statistic of each hidden layer, to be drawn in this panel."""
    return [measured.curve(rows, f"layer{n}/{statistic}").assign(layer=f"layer {n}", panel=panel) for n in layers]
