"""What the edge of chaos gives a network of fifty layers: `init=critical` beside Xavier's and Kaiming's schemes."""

import altair as alt
import pandas as pd

from initlab.tracking.results import Results
from papers import charts, measured, pages

KEYS = ("activation", "init", "optimizer.lr")
OURS, OTHERS = "critical", ("xavier", "kaiming")
NAMES = {"critical": "critical", "xavier": "Xavier", "kaiming": "Kaiming"}

Runs = dict[tuple[str, str], pd.DataFrame]  # {(activation, init): rows of the replicas}


def section(results: Results) -> str:
    """Returns the accuracy of each scheme with each activation, and the differences between them."""
    found = measured.at_best_rate(results)
    claims = [_claim(activation, found) for activation in dict.fromkeys(activation for activation, _ in found)]
    return "\n".join([measured.setup(results), "", *pages.table(_rows(found, results)), "", *pages.bullets(claims)])


def _rows(found: Runs, results: Results) -> list[dict[str, str]]:
    rows = []
    for (activation, init), replicas in found.items():
        learned = int((replicas["val/accuracy"] >= measured.LEARNED).sum())
        rows.append(
            {
                "`activation=`": f"`{activation}`",
                "`init=`": f"`{init}`",
                "best learning rate": measured.rate(replicas, results),
                "replicas that learned": f"{learned} of {len(replicas)}",
                "test accuracy, %": measured.estimate(100 * replicas["test/accuracy"]).text(),
                "`critical` minus it, points": "" if init == OURS else _gap(activation, init, found).text(sign="+"),
            }
        )
    return rows


def _gap(activation: str, other: str, found: Runs) -> measured.Estimate:
    return measured.difference(found[activation, OURS], found[activation, other], "test/accuracy")


def _claim(activation: str, found: Runs) -> str:
    verdicts = []
    for other in OTHERS:
        gap = _gap(activation, other, found)
        low, high = gap.interval
        verdict = "better than" if low > 0 else "worse than" if high < 0 else "not significantly different from"
        verdicts.append(f"{verdict} {NAMES[other]}'s scheme ({gap.text(sign='+')} points)")
    return f"**`activation={activation}`:** the edge of chaos is {' and '.join(verdicts)}."


def figure(results: Results) -> alt.TopLevelMixin:
    """Returns the training loss over steps, at the best rate of each scheme, one panel per activation."""
    table, curves = results.replicas, []
    for (activation, init), rows in measured.at_best_rate(results).items():
        curve = measured.curve(table[table["run"] == rows["run"].iloc[0]], "train/loss")
        curves.append(curve.assign(scheme=NAMES[init], panel=f"activation={activation}"))
    return charts.curves(pd.concat(curves), "training loss (nats)", colour="scheme", panel="panel")
