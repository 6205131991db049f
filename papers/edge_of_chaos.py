"""Schoenholz et al. (2017), "Deep information propagation": how deep a network of tanh can be, and still train."""

from functools import cache
from math import isclose
from typing import NamedTuple

import altair as alt
import numpy as np
import pandas as pd

from initlab.nn import theory
from initlab.tracking.results import Results
from papers import measured, pages, verdicts

KEYS = ("model.depth", "init.weights.sigma_w")


class Published(NamedTuple):
    """Figure 5. multiple: of xi_c, the depth up to which networks train.  sigma_b2: variance of the biases."""

    multiple: int
    sigma_b2: float


PUBLISHED = Published(multiple=6, sigma_b2=0.05)
PHI = theory.Phi("Tanh")
CRITICAL = theory.critical(PHI, PUBLISHED.sigma_b2).weight  # sigma_w^2
OTHER_SHARES = (0.3, 0.7)  # of accuracy, from which a network might count as having learned
MULTIPLES = (1, 2, 3, 4, 6, 8, 10)  # of xi_c, among which the one that fits best is looked for


@cache
def xi_c(gain: float) -> float:
    """Depth scale of the correlation between two images, in layers, at sigma_w^2 = gain."""
    return theory.propagation(gain, PHI, PUBLISHED.sigma_b2).xi_c


def cells(results: Results) -> pd.DataFrame:
    """Returns one row per run: depth, gain = sigma_w^2, accuracy (mean over replicas), xi_c, and whether it learned.

    Raises ValueError for a sweep of another activation or sigma_b, which these depth scales are not of.
    """
    for run in results.runs.values():
        activation, sigma_b = run["config"]["activation"], run["config"]["init"]["weights"].get("sigma_b", 0)
        if theory.Phi.of(activation) != PHI or not isclose(sigma_b**2, PUBLISHED.sigma_b2):
            raise ValueError(f"the sweep has {activation} and sigma_b={sigma_b}; expected tanh and sigma_b^2 = 0.05")
    means = measured.last(results).astype(dict.fromkeys(KEYS, float)).groupby(list(KEYS))["val/accuracy"].mean()
    found = means.rename_axis(["depth", "gain"]).rename("accuracy").reset_index()
    found["gain"] = (found["gain"] ** 2).round(3)
    scales = {gain: xi_c(float(gain)) for gain in found["gain"].unique()}
    return found.assign(xi_c=found["gain"].map(scales), learned=found["accuracy"] >= measured.LEARNED)


def agreement(found: pd.DataFrame, multiple: float, share: float) -> int:
    """Returns of how many runs `depth <= multiple xi_c` says whether their accuracy is at least `share`."""
    return int(((found["depth"] <= multiple * found["xi_c"]) == (found["accuracy"] >= share)).sum())


def section(results: Results) -> str:
    """Returns the sigma_w^2 that learned at each depth, and whether the paper's claims hold."""
    found = cells(results)
    return "\n".join(
        [measured.setup(results), "", *pages.table(_rows(found)), "", *pages.bullets([_where(found), _limit(found)])]
    )


def _rows(found: pd.DataFrame) -> list[dict[str, str]]:
    rows = []
    for depth, runs in found.groupby("depth"):
        best = runs.loc[runs["accuracy"].idxmax()]
        rows.append(
            {
                "depth": f"{depth:g}",
                "paper: sigma_w^2 with 6 xi_c >= depth": _range(runs, depth <= PUBLISHED.multiple * runs["xi_c"]),
                "ours: sigma_w^2 that learned": _range(runs, runs["learned"]),
                "highest accuracy, %": f"{100 * best['accuracy']:.1f}",
                "at sigma_w^2": f"{best['gain']:g}",
            }
        )
    return rows


def _range(runs: pd.DataFrame, chosen: pd.Series) -> str:
    """Formats the sigma_w^2 of the runs that are chosen: as a range, if no other run lies in it."""
    gains = runs[chosen]["gain"].tolist()
    if len(gains) > 1 and len(gains) == runs["gain"].between(min(gains), max(gains)).sum():
        return f"{min(gains):g} to {max(gains):g}"
    return ", ".join(f"{gain:g}" for gain in gains) or "none"


def _where(found: pd.DataFrame) -> str:
    learned = found[found["learned"]]
    if learned.empty:
        return f"No run reaches a validation accuracy of {100 * measured.LEARNED:.0f} %."
    deepest = found[found["depth"] == learned["depth"].max()]
    gains = deepest[deepest["learned"]]["gain"]
    around = gains.min() <= CRITICAL <= gains.max()
    return (
        f"**Where are the deepest networks that learn?** Those of {deepest['depth'].iloc[0]:g} layers learned at "
        f"sigma_w^2 = {_range(deepest, deepest['learned'])}. The critical point is {CRITICAL:.3f}, "
        f"{'inside' if around else 'outside'} of this range. {verdicts.outcome(around)}"
    )


def _limit(found: pd.DataFrame) -> str:
    claimed, learned = PUBLISHED.multiple, measured.LEARNED
    best, score = _best_multiple(found, learned)
    others = [
        f"{multiple} xi_c if a network counted from {100 * share:.0f} % on ({right} of {len(found)})"
        for share in OTHER_SHARES
        for multiple, right in [_best_multiple(found, share)]
    ]
    text = (
        f"**Is the limit at {claimed} xi_c?** It is right about {agreement(found, claimed, learned)} of {len(found)} "
        f"runs. Of {', '.join(map(str, MULTIPLES))} times xi_c, {best} is right about most, {score}; "
        f"it would be {' and '.join(others)}."
    )
    return f"{text} {verdicts.outcome(best == claimed)}"


def _best_multiple(found: pd.DataFrame, share: float) -> tuple[int, int]:
    """Returns the multiple of xi_c that is right about most runs, the paper's if there are several, and its score."""
    scores = {multiple: agreement(found, multiple, share) for multiple in MULTIPLES}
    best = max(scores, key=lambda multiple: (scores[multiple], multiple == PUBLISHED.multiple))
    return best, scores[best]


def figure(results: Results) -> alt.TopLevelMixin:
    """Returns validation accuracy over depth and sigma_w^2 as a map, with multiples of xi_c over it."""
    found = cells(results)
    gains, depths = (np.sort(found[name].unique()) for name in ("gain", "depth"))
    left, low = _edges(gains), np.exp(_edges(np.log(depths)))  # depths are spaced logarithmically
    place = {name: np.searchsorted(values, found[name]) for name, values in (("gain", gains), ("depth", depths))}
    rectangles = pd.DataFrame(
        {
            "left": left[place["gain"]],
            "right": left[place["gain"] + 1],
            "low": low[place["depth"]],
            "high": low[place["depth"] + 1],
            "percent": 100 * found["accuracy"],
        }
    )
    x = alt.X(
        "left:Q",
        title="σ_w² (variance of a weight × fan_in)",  # noqa: RUF001
        scale=_scale("linear", left),
        axis=alt.Axis(tickCount=7),
    )
    y = alt.Y(
        "low:Q",
        title="depth (hidden layers)",
        scale=_scale("log", low),
        axis=alt.Axis(values=depths.tolist(), format="d", grid=False),
    )
    shade = alt.Color(
        "percent:Q",
        title=["validation", "accuracy (%)"],
        scale=alt.Scale(scheme="viridis", domain=[10, 100]),
        legend=alt.Legend(offset=50),
    )
    accuracy = alt.Chart(rectangles).mark_rect().encode(x=x, x2="right:Q", y=y, y2="high:Q", color=shade)
    return alt.layer(accuracy, *_depth_scales(left, low)).properties(width=480, height=300)


def _edges(centres: np.ndarray) -> np.ndarray:
    """Returns where cells with these centres (n,) meet and end (n + 1,)."""
    between = (centres[1:] + centres[:-1]) / 2
    return np.array([2 * centres[0] - between[0], *between, 2 * centres[-1] - between[-1]])


def _scale(kind: str, edges: np.ndarray) -> alt.Scale:
    return alt.Scale(type=kind, domain=[edges[0], edges[-1]], nice=False)  # type: ignore[arg-type]


def _depth_scales(left: np.ndarray, low: np.ndarray) -> list[alt.Chart]:
    """Returns 1, 2 and 6 xi_c as lines within the map, and their names to the right of it."""
    near = np.geomspace(0.003, 0.3, 24)  # the scale changes fastest around the critical point
    gains = np.sort([*np.linspace(left[0], left[-1], 61), *CRITICAL - near, *CRITICAL + near])
    scales = np.array([xi_c(float(gain)) for gain in gains])
    lines = pd.concat(
        pd.DataFrame({"gain": gains, "depth": multiple * scales, "name": f"{multiple} ξ_c".removeprefix("1 ")})
        for multiple in (1, 2, PUBLISHED.multiple)
    )
    inside = lines[lines["depth"].between(low[0], low[-1])].assign(side=lambda rows: rows["gain"] > CRITICAL)
    drawn = alt.Chart(inside).encode(x="gain:Q", y="depth:Q", detail=["name:N", "side:N"])
    ends = alt.Chart(inside.groupby("name").tail(1)).encode(x="gain:Q", y="depth:Q", text="name:N")
    return [
        drawn.mark_line(color="black", opacity=0.4, strokeWidth=4),  # so that white shows on bright cells too
        drawn.mark_line(color="white", strokeDash=[5, 3], strokeWidth=2),
        ends.mark_text(align="left", dx=5, fontSize=12),
    ]
