"""The verdict: whether results are those of a reference, to the bit, or within rounding and chance.

What must agree, from sharp to statistical:

    data       the bytes of the normalised images
    step 0     draws and layer statistics, within the bounds of rounding (`bounds`)
    early      training losses of the same replica on the same batches, as long as rounding has not grown (`growth`)
    final      test accuracy and loss, paired by replica, and the number of diverged replicas: equal but for chance
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from initlab.confidence_intervals import mean_ci95
from initlab.reproduction.bounds import OPERANDS, U, needed_statistics, product_error, step0_bounds

SAME, WITHIN, DIFFERS = "same bits", "within bounds", "differs"
UNDECIDED, NOT_COMPARED = "undecided", "not compared"
RESULTS = (SAME, WITHIN, DIFFERS, UNDECIDED, NOT_COMPARED)
LEVELS = ("data", "step 0", "early", "final")
DIVERGED = "diverged"  # number of replicas
SIGNS = "saturated_fraction"
STEPS = 400  # optimiser steps whose losses are early ones
COARSE = 0.25  # a relative bound above it says nothing about a statistic at step 0
LOSS = "train/loss"
FACTOR = 10  # early losses may differ by this times the growth that was measured
FLOOR = 4 * U  # of that growth: a loss is rounded too
SHARP = 1e-2  # a relative bound above it says too little about an early loss
FEWEST = 5  # replicas that a quartile is taken of
NO_GROWTH = "how fast rounding grows is not known"
T_LEVEL = 0.001  # probability that any t-test rejects results that do agree: see docs/reliability.md
EXACT_LEVEL = 0.01  # that any exact test does
POINTS = 1.0  # percentage points of accuracy: runs whose means may differ by more are undecided


Digests = Mapping[str, Mapping[str, str]]
Growth = Mapping[int, float]


class Numbers(NamedTuple):
    """What is compared of results, or of a reference.

    replicas: one row per (run, step, replica).  runs: {run: {"overrides", "config", "inputs", "outputs", "probe"}}.
    data: {folder: {split: SHA-256}}.  growth: {run: {step: how much rounding changes the training loss, relative}}.
    """

    replicas: pd.DataFrame
    runs: Mapping[str, Mapping[str, Any]]
    data: Digests
    growth: Mapping[str, Growth]


class Row(NamedTuple):
    """One comparison: a line of reproduction.csv.

    what: a statistic, a setting, or what is not compared.  step, replica, reference, here: where the difference is
    largest against its bound.  difference, bound: relative, of fractions and accuracies absolute; of final values, the
    mean difference and the half-width of its 95 % interval.  p: of the test of final values, before Holm's correction.
    """

    run: str
    level: str
    what: str
    result: str
    step: int | None = None
    replica: int | None = None
    reference: float | None = None
    here: float | None = None
    difference: float | None = None
    bound: float | None = None
    p: float | None = None
    note: str = ""


def compare(reference: Numbers, here: Numbers) -> list[Row]:
    """Compares all runs of `here` with those of the reference. Returns the rows, run by run, from sharp to chance."""
    rows: list[Row] = []
    first, second = _by_run(reference), _by_run(here)
    for run, record in here.runs.items():
        match = find_run(reference.runs, run, record["config"])
        if match is None:
            rows.append(Row(run, "run", "all", NOT_COMPARED, note="the reference has no such run"))
            continue
        known = reference.runs[match]
        if known["config"]["model"] != record["config"]["model"]:
            rows.append(Row(run, "run", "all", NOT_COMPARED, note="its model is another one in the reference"))
            continue
        a, b = (table.set_index(["step", "replica"]) for table in (first[match], second[run]))
        rows += _settings(run, known["config"], record["config"])
        rows += _data(run, reference.data, here.data, known["config"], record["config"])
        if len(a.loc[0]) != len(b.loc[0]):
            note = f"{len(b.loc[0])}, in the reference {len(a.loc[0])}; those that both have are compared"
            rows.append(Row(run, "run", "replicas", NOT_COMPARED, note=note))
        a, b = a.align(b, join="inner", axis=0)
        rows += _step0(run, a, b, known, record["config"])
        rows += _early(run, a, b, reference.growth.get(match, {}), known, record["config"])
        rows += _final(run, a, b, last_step(first[match]), last_step(second[run]))
    return _corrected(rows)


def find_run(runs: Mapping[str, Mapping[str, Any]], name: str, config: Mapping[str, Any]) -> str | None:
    """Returns the run of this name or, if there is none, the first with the same configuration."""
    if name in runs:
        return name
    parts = ("init", "activation", "model", "optimizer", "loss", "data", "seed")
    same = (run for run, known in runs.items() if all(known["config"][part] == config[part] for part in parts))
    return next(same, None)


def last_step(table: pd.DataFrame) -> int:
    """Returns the number of steps after which a run was tested; 0 if it was not."""
    return int(table.loc[table["test/accuracy"].notna(), "step"].max()) if "test/accuracy" in table else 0


def sentence(rows: Sequence[Row]) -> str:
    """Returns the verdict in one line."""
    runs = list(dict.fromkeys(row.run for row in rows))
    by_result = {result: list(dict.fromkeys(r.run for r in rows if r.result == result)) for result in RESULTS}
    if by_result[DIFFERS]:
        return f"NOT reproduced: {_wrong(rows)}"
    compared = {row.run for row in rows if row.level in LEVELS[1:] and row.result != NOT_COMPARED}
    left = [run for run in runs if run in compared and run not in by_result[UNDECIDED]]
    said = [f"reproduced: {len(left)} of {len(runs)} runs{_how_far([row for row in rows if row.run in left])}"]
    others = (UNDECIDED, by_result[UNDECIDED]), (NOT_COMPARED, [run for run in runs if run not in compared])
    return "; ".join([*(said if left else []), *(f"{what}: {_first(names)}" for what, names in others if names)])


def _first(names: Sequence[str]) -> str:
    return names[0] + (f", and {len(names) - 1} more" if len(names) > 1 else "")


def _how_far(rows: Sequence[Row]) -> str:
    """Says how far the runs that are reproduced agree: to the bit, or within what."""
    compared = [row for row in rows if row.level in LEVELS and row.result in (SAME, WITHIN)]
    finals = any(row.level == "final" for row in compared)
    if all(row.result == SAME for row in compared):
        return ", to the bit" + ("" if finals else " (final values not compared)")
    parts = []
    for level, name in (("step 0", "step 0"), ("early", "early losses")):
        found = [row for row in compared if row.level == level]
        if found and all(row.result == SAME for row in found):
            parts.append(f"{name} to the bit")
        elif found:
            parts.append(f"{name} within {max(U, *(row.difference or 0.0 for row in found)):.0e}".replace("e-0", "e-"))
    return f" ({'; '.join([*parts, 'accuracies within chance' if finals else 'final values not compared'])})"


def _wrong(rows: Sequence[Row]) -> str:
    """Says what is wrong: with the data and, of the first run that differs otherwise, what differs most."""
    wrong = [row for row in rows if row.result == DIFFERS]
    data = list(dict.fromkeys(row.what for row in wrong if row.level == "data"))
    wrong = [row for row in wrong if row.level != "data"]
    said = [f"data: other {' and '.join(data)} images or labels, by their SHA-256"] if data else []
    runs = list(dict.fromkeys(row.run for row in wrong))
    if runs:
        first = [row for row in wrong if row.run == runs[0]]
        level = next(level for level in LEVELS if any(row.level == level for row in first))
        worst = max(
            (row for row in first if row.level == level),
            key=lambda row: abs(row.difference or 0) / row.bound if row.bound else np.inf,
        )
        other = [f"{row.what} is {row.note}" for row in rows if row.level == "configuration" and row.run == worst.run]
        said.append(f"{worst.run}: {describe(worst)}" + (f" ({'; '.join(other[:3])})" if other else ""))
        said += [f"{len(runs) - 1} more of {len({row.run for row in rows})} runs differ"] if len(runs) > 1 else []
    return "; ".join(said)


def describe(row: Row) -> str:
    """Says what differs, by how much, and where."""
    what = re.sub(r"^layer(\d+)/", r"layer \1 ", row.what)
    there, here, difference, bound = (x if x is not None else np.nan for x in row[6:10])
    if row.what == DIVERGED:
        return f"{here:.0f} replicas diverged, in the reference {there:.0f}"
    if row.level == "final":
        size, unit = (100, " points") if what.endswith("accuracy") else (1, "")
        return f"{what} differs by {size * difference:+.2g} \u00b1 {size * bound:.2g}{unit}"
    if not np.isfinite(difference):
        return f"{what} at step {row.step} is {here:.3g}, in the reference {there:.3g}"
    by = f"{100 * difference:.2g} %" if difference > 1e-3 else f"{difference:.1e}"
    return f"{what} at step {row.step} differs by {by}"


def _by_run(side: Numbers) -> dict[str, pd.DataFrame]:
    names = [name for name in side.replicas if name.startswith(("layer", "train/", "val/", "test/"))]
    table = side.replicas[["run", "step", "replica", *names]].astype(dict.fromkeys(names, np.float32))
    return dict(iter(table.groupby("run", sort=False)))


def _settings(run: str, there: Mapping[str, Any], here: Mapping[str, Any]) -> Iterator[Row]:
    """Yields the settings that differ, but for those of the trainer: they explain a difference, and are none."""
    a, b = (_flat({key: config[key] for key in config if key != "trainer"}) for config in (there, here))
    for key in sorted(a.keys() | b.keys()):
        there, here = (flat.get(key, "not set") for flat in (a, b))
        if there != here and key not in ("data.folder", "data.pin"):
            yield Row(run, "configuration", key, "other", note=f"{here}, in the reference {there}")


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def _data(
    run: str, there: Digests, here: Digests, known: Mapping[str, Any], config: Mapping[str, Any]
) -> Iterator[Row]:
    a, b = there.get(known["data"]["folder"]), here.get(config["data"]["folder"])
    if not a or not b:
        yield Row(run, "data", config["data"]["folder"], NOT_COMPARED, note="no facts.json of the data is here")
        return
    for split in a:
        yield Row(run, "data", split, SAME if a[split] == b.get(split) else DIFFERS, note=f"SHA-256 {b.get(split)}")


def _step0(
    run: str, a: pd.DataFrame, b: pd.DataFrame, known: Mapping[str, Any], config: Mapping[str, Any]
) -> Iterator[Row]:
    """Compares draws and layer statistics at step 0. Bounds are of both results, and so added."""
    names = [name for name in a if name.startswith("layer") and name in b and a.loc[0, name].notna().any()]
    there, here = ({name: table.loc[0, name].to_numpy() for name in names} for table in (a, b))
    widths = [known["inputs"], *config["model"]["hidden"], known["outputs"]]
    missing = [name for name in needed_statistics(len(widths) - 1) if name not in names]
    if missing:
        yield Row(run, "step 0", "all", NOT_COMPARED, 0, note=f"{missing[0]} is not in both results")
        return
    same = [there[f"layer{n}/{SIGNS}"] == here[f"layer{n}/{SIGNS}"] for n in range(1, len(widths) - 1)]
    with np.errstate(all="ignore"):  # values may be infinite or NaN, and so may bounds
        pairs = [step0_bounds(there, each, widths, known["probe"], same) for each in (known["config"], config)]
        for name in names:
            scale = np.ones(1) if name.endswith("fraction") else np.abs(there[name.replace("_mean", "_std")])
            bound = sum(pair.get(name, np.inf) for pair in pairs)  # none is derived for some statistics
            yield _row(run, "step 0", name, 0, there[name], here[name], scale, bound, COARSE)


def _early(
    run: str, a: pd.DataFrame, b: pd.DataFrame, growth: Growth, known: Mapping[str, Any], config: Mapping[str, Any]
) -> Iterator[Row]:
    """Compares the first training losses. The error that grows is the larger of those that the two runs begin with."""
    precisions = [each["matmul_precision"] for each in (known["config"], config)]
    begin, measured = (product_error(known["inputs"], p) for p in (max(precisions, key=OPERANDS.get), precisions[0]))  # type: ignore[arg-type]
    for step in sorted({step for step, _ in a.index if 0 < step <= STEPS}):
        there, here = (table.loc[step, LOSS].to_numpy() if LOSS in table else np.full(1, np.nan) for table in (a, b))
        if np.isnan(there).all() and np.isnan(here).all():
            continue
        difference = typical_difference(there, here)
        row = Row(run, "early", LOSS, SAME, step, None, float(np.nanmean(there)), float(np.nanmean(here)), difference)
        grown = [growth[s] for s in growth if s <= step]
        bound = FACTOR * max(*grown, FLOOR) * begin / measured if step in growth else np.inf
        if np.array_equal(there, here, equal_nan=True):
            yield row
        elif not growth or len(there) < FEWEST:
            yield row._replace(result=NOT_COMPARED, note=NO_GROWTH if not growth else f"fewer than {FEWEST} replicas")
        elif not bound <= SHARP:
            yield row._replace(result=NOT_COMPARED, bound=bound, note="rounding has grown too large")
        else:
            yield row._replace(result=WITHIN if difference <= bound else DIFFERS, bound=bound)


def typical_difference(there: np.ndarray, here: np.ndarray) -> float:
    """Returns the lower quartile of the relative differences between the values of replicas (R,).

    A replica is far off as soon as one of its units flips. The quartile is not, as long as a quarter of the replicas
    has no flip, and it hardly varies from one machine to another. What is wrong is wrong for all of them. Replicas that
    lack a value in both are left out; NaN if none has one.
    """
    with np.errstate(all="ignore"):
        difference = np.abs(here.astype(float) - there) / np.abs(there)
    difference = np.where(there == here, 0, np.nan_to_num(difference, nan=np.inf))
    return _quartile(difference[~(np.isnan(there) & np.isnan(here))])


def _quartile(values: np.ndarray) -> float:
    return float(np.quantile(values, 0.25, method="lower")) if len(values) else float("nan")


def _row(
    run: str,
    level: str,
    what: str,
    step: int,
    there: np.ndarray,
    here: np.ndarray,
    scale: np.ndarray,
    bound: np.ndarray | float,
    coarse: float,
) -> Row:
    """Compares the values of a statistic, each (R,), and returns the row of the replica that is nearest to its bound.

    scale: what differences are relative to.  coarse: relative bounds above it are not used.
    """
    alike = (there == here) | (np.isnan(there) & np.isnan(here))
    if alike.all():
        return Row(run, level, what, SAME, step, difference=0.0)
    difference = np.where(alike, 0, np.abs(there.astype(float) - here) / scale)
    relative = bound / scale
    compared = (relative <= coarse) | (np.isfinite(there) != np.isfinite(here))
    if not compared.any():
        return Row(run, level, what, NOT_COMPARED, step, note="rounding may change it by more than a bound could tell")
    ratio = np.where(compared, np.where(alike, 0, np.nan_to_num(difference / relative, nan=np.inf)), -1)
    r = int(ratio.argmax())
    result = WITHIN if ratio[r] <= 1 else DIFFERS
    values = [float(each[r]) for each in (there, here, difference, relative)]
    return Row(run, level, what, result, step, r, values[0], values[1], values[2], values[3])


def _final(run: str, a: pd.DataFrame, b: pd.DataFrame, steps: int, here: int) -> Iterator[Row]:
    """Compares the final values, but for the correction for the number of tests."""
    if steps != here or not steps:
        note = f"{here} optimiser steps, in the reference {steps}"
        yield Row(run, "final", "all", NOT_COMPARED, note=note)
        return
    first, second = a.loc[steps], b.loc[steps]
    alive = [np.isfinite(table["val/loss"].to_numpy()) for table in (first, second)]
    lost = [int((~each).sum()) for each in alive]
    table = [[count, len(first) - count] for count in lost]
    p = float(stats.fisher_exact(table).pvalue)
    result = SAME if (alive[0] == alive[1]).all() else WITHIN
    yield Row(run, "final", DIVERGED, result, steps, None, lost[0], lost[1], lost[1] - lost[0], p=p)
    both = alive[0] & alive[1]
    for name in ("test/accuracy", "test/loss"):
        there, now = (table[name].to_numpy()[both].astype(float) for table in (first, second))
        row = Row(run, "final", name, SAME, steps, difference=0.0)
        if len(there) < 2:
            yield row._replace(result=NOT_COMPARED, difference=None, note=f"{len(there)} replicas survive in both")
        elif (there == now).all():
            yield row._replace(reference=there.mean(), here=now.mean(), p=1.0)
        else:
            yield _paired(row, there, now)


def _paired(row: Row, there: np.ndarray, here: np.ndarray) -> Row:
    """Tests whether the mean of paired differences is 0, and whether it is too uncertain to say so."""
    gap = here - there
    mean, half = mean_ci95(gap)
    assert half is not None
    p = float(stats.ttest_1samp(gap, 0).pvalue) if half else 0.0
    result, note = WITHIN, ""
    if row.what.endswith("accuracy") and abs(mean) + half > POINTS / 100:
        result, note = UNDECIDED, f"the interval is not within {POINTS:g} point of 0"
    return row._replace(
        result=result, reference=there.mean(), here=here.mean(), difference=mean, bound=half, p=p, note=note
    )


def _corrected(rows: Sequence[Row]) -> list[Row]:
    """Marks the tests that Holm's procedure rejects, over all runs: the t-tests, and apart from them the exact ones.

    Source: Holm (1979), "A simple sequentially rejective multiple test procedure".
    """
    rows = list(rows)
    for exact, level in ((False, T_LEVEL), (True, EXACT_LEVEL)):
        tests = [(row.p, n) for n, row in enumerate(rows) if row.p is not None and (row.what == DIVERGED) is exact]
        tests = sorted((p, number) for p, number in tests if rows[number].result != SAME)
        for rank, (p, number) in enumerate(tests):
            if p > level / (len(tests) - rank):
                break
            rows[number] = rows[number]._replace(result=DIFFERS)
    return rows
