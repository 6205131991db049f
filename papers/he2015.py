"""He et al. (2015), "Delving Deep into Rectifiers": thirty layers of ReLU from Kaiming's and from Xavier's scheme."""

import altair as alt
import pandas as pd

from initlab.tracking.results import Results
from papers import charts, measured, pages, verdicts

KEYS = ("model.depth", "init", "optimizer.lr")
PUBLISHED = {
    (30, "kaiming"): True,
    (30, "xavier"): False,
}  # (layers, init): whether it starts to learn: figure 3, right
STARTED = 2.0  # training loss in nats, below which a run has started to learn; guessing has log 10 = 2.30


def runs(results: Results) -> pd.DataFrame:
    """Returns one row per run: depth, init, rate, replicas, how many learned, their validation accuracy, the start.

    accuracy: an estimate, in per cent.  start: first measured step at which the mean training loss is below STARTED;
    NaN if there is none.
    """
    table, found = results.replicas, []
    for run, rows in measured.last(results).groupby("run", sort=False):
        depth, init, rate = rows[list(KEYS)].iloc[0]
        accuracies = rows["val/accuracy"]
        losses = measured.curve(table[table["run"] == run], "train/loss")
        found.append(
            {
                "depth": int(depth),
                "init": init,
                "rate": float(rate),
                "replicas": len(rows),
                "learned": int((accuracies >= measured.LEARNED).sum()),
                "accuracy": measured.estimate(100 * accuracies),
                "start": losses[losses["mean"] < STARTED]["step"].min(),
            }
        )
    return pd.DataFrame(found)


def section(results: Results) -> str:
    """Returns how many replicas learned from each scheme at each rate, and whether the paper's claims hold."""
    found = runs(results)
    rows = [
        {
            "layers": f"{run.depth}",
            "`init=`": f"`{run.init}`",
            "learning rate": f"{run.rate:g}",
            "paper": _claimed(run.depth, run.init),
            f"ours: loss below {STARTED:g} by step": "never" if pd.isna(run.start) else f"{run.start:,.0f}",
            "replicas that learned": f"{run.learned} of {run.replicas}",
            "validation accuracy, %": run.accuracy.text(),
        }
        for run in found.itertuples()
    ]
    claims = [_claim(depth, init, group) for (depth, init), group in found.groupby(["depth", "init"], sort=False)]
    return "\n".join([measured.setup(results), "", *pages.table(rows), "", *pages.bullets(claims)])


def _claimed(depth: int, init: str) -> str:
    claimed = PUBLISHED.get((depth, init))
    return "" if claimed is None else "learns" if claimed else "does not start to learn"


def _claim(depth: int, init: str, group: pd.DataFrame) -> str:
    best = group.loc[group["learned"].idxmax()]
    rates = f"at any of {len(group)} rates" if len(group) > 1 else f"at a rate of {best['rate']:g}"
    outcome = (
        f"{best['learned']} of {best['replicas']} replicas learned at a rate of {best['rate']:g}"
        if best["learned"]
        else f"no replica learned {rates}"
    )
    text = f"**Do {depth} layers learn from `{init}`?** Here {outcome}."
    claimed = PUBLISHED.get((depth, init))
    if claimed is None:
        return text
    agrees = best["learned"] > best["replicas"] / 2 if claimed else best["learned"] == 0
    return f"{text} {verdicts.outcome(bool(agrees))}"


def figure(results: Results) -> alt.TopLevelMixin:
    """Returns the training loss over steps, one panel per depth and learning rate."""
    curves = [
        measured.curve(rows, "train/loss").assign(scheme=init, panel=f"{depth} layers, rate {float(rate):g}")
        for (depth, init, rate), rows in results.replicas.groupby(list(KEYS), sort=False)
    ]
    return charts.curves(pd.concat(curves), "training loss (nats)", colour="scheme", panel="panel", columns=2)
