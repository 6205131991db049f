"""What the edge of chaos gives a network of fifty layers: `init=critical` beside Xavier's and Kaiming's schemes."""

import altair as alt
import pandas as pd

from initlab.tracking.results import Results
from papers import charts, measured, pages

KEYS = ("activation", "init", "optimizer.lr")
OURS = "critical"

Runs = dict[tuple[str, str], pd.DataFrame]  # {(activation, init): rows of the replicas}


def section(results: Results) -> str:
    """Returns the accuracy of each scheme with each activation, and the differences between them."""
    found = measured.at_best_rate(results)
    claims = [_claim(activation, found) for activation, init in found if init == OURS]
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
                "`critical` minus it, points": _gap_text(activation, init, found),
            }
        )
    return rows


def _gap_text(activation: str, other: str, found: Runs) -> str:
    known = other != OURS and (activation, OURS) in found
    return _gap(activation, other, found).text(sign="+") if known else ""


def _gap(activation: str, other: str, found: Runs) -> measured.Estimate:
    return measured.difference(found[activation, OURS], found[activation, other], "test/accuracy")


def _claim(activation: str, found: Runs) -> str:
    verdicts = []
    for other in (init for other, init in found if other == activation and init != OURS):
        gap = _gap(activation, other, found)
        low, high = gap.interval
        verdict = "better than" if low > 0 else "worse than" if high < 0 else "not significantly different from"
        verdicts.append(f"{verdict} `{other}` ({gap.text(sign='+')} points)")
    return f"**`activation={activation}`:** `{OURS}` is {' and '.join(verdicts) or 'alone'}."


def figure(results: Results) -> alt.TopLevelMixin:
    """Returns the training loss over steps, at the best rate of each scheme, one panel per activation."""
    table, curves = results.replicas, []
    for (activation, init), rows in measured.at_best_rate(results).items():
        curve = measured.curve(table[table["run"] == rows["run"].iloc[0]], "train/loss")
        curves.append(curve.assign(scheme=init, panel=f"activation={activation}"))
    return charts.curves(pd.concat(curves), "training loss (nats)", colour="scheme", panel="panel")
