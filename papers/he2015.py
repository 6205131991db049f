"""He et al. (2015), "Delving Deep into Rectifiers": thirty layers of ReLU learn from Kaiming's scheme alone."""

import altair as alt
import pandas as pd

from initlab.tracking.results import Results
from papers import charts, measured, pages

KEYS = ("init", "optimizer.lr")
PUBLISHED = {"kaiming": True, "xavier": False}  # whether the 30-layer network starts to learn: figure 3, right
NAMES = {"kaiming": "Kaiming", "xavier": "Xavier"}


def counts(results: Results) -> pd.DataFrame:
    """Returns one row per run: init, rate, replicas, how many of them learned, estimate of validation accuracy in %."""
    found = []
    for (init, rate), rows in measured.last(results).groupby(list(KEYS), sort=False):
        accuracies = rows["val/accuracy"]
        learned = int((accuracies >= measured.LEARNED).sum())
        found.append((init, float(rate), len(rows), learned, measured.estimate(100 * accuracies)))
    return pd.DataFrame(found, columns=["init", "rate", "replicas", "learned", "accuracy"])


def section(results: Results) -> str:
    """Returns how many replicas learned from each scheme at each rate, and whether the paper's claim holds."""
    found = counts(results)
    rows = [
        {
            "`init=`": f"`{row.init}`",
            "learning rate": f"{row.rate:g}",
            "paper": "learns" if PUBLISHED[row.init] else "does not start to learn",
            "ours: replicas that learned": f"{row.learned} of {row.replicas}",
            "validation accuracy, %": row.accuracy.text(),
        }
        for row in found.itertuples()
    ]
    return "\n".join([measured.setup(results), "", *pages.table(rows), "", *pages.bullets(_claims(found))])


def _claims(found: pd.DataFrame) -> list[str]:
    claims = []
    for init, claimed in PUBLISHED.items():
        runs = found[found["init"] == init]
        best = runs.loc[runs["learned"].idxmax()]
        agrees = (best["learned"] > best["replicas"] / 2) if claimed else (best["learned"] == 0)
        outcome = (
            f"at {best['rate']:g}, {best['learned']} of {best['replicas']} replicas learned"
            if best["learned"]
            else f"no replica learned at any of {len(runs)} rates"
        )
        claims.append(
            f"**Does it learn from {NAMES[init]}'s scheme?** In the paper it {'does' if claimed else 'does not'}. Here "
            f"{outcome}. {'As in the paper.' if agrees else 'Not as in the paper.'}"
        )
    return claims


def figure(results: Results) -> alt.TopLevelMixin:
    """Returns the training loss over steps, one panel per learning rate."""
    curves = [
        measured.curve(rows, "train/loss").assign(scheme=NAMES[init], panel=f"learning rate {float(rate):g}")
        for (init, rate), rows in results.replicas.groupby(list(KEYS), sort=False)
    ]
    return charts.curves(pd.concat(curves), "training loss (nats)", colour="scheme", panel="panel")
