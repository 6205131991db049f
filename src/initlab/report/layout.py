"""The layout of a report: which run is shown as which variant and setting, and the numbers of each."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from initlab.confidence_intervals import mean_ci95
from initlab.report import tables
from initlab.report.learning_rates import KEY, LearningRates, swept_rates
from initlab.report.search import SCORE, SPACE, Search, searched
from initlab.tracking.results import Results

MOST_SETTINGS = 4  # each has figures of its own: if there are more, they become variants
SEED = "seed"
NUMBERS = ["no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
CHANCE = 0.1  # accuracy of guessing one of ten classes: of runs that do not record it
ACCURACY = "test/accuracy"
ONE = "all runs", ""  # variant and setting of runs that differ in the learning rate alone


@dataclass(frozen=True)
class Layout:
    """A sweep as the report shows it: its runs arranged as variants by settings, and the numbers of each.

    recorded: the results as they are recorded.  results: the same, with runs that differ in nothing but their seed
    pooled into one; also of runs that are not shown.  pooled: {run: the recorded runs it stands for}.  varied: the
    swept keys that have several values, without the seed.  run: {(variant, setting): name of the run}. Variants are the
    init schemes, if several were swept, and settings are whatever else differs.  starts: means and intervals at step 0,
    by run.  ends, rows: values of each replica after the last step, and at all steps, by run.  search: the sweep as a
    search, if it is one; the runs are then its best ones and the first, which is the reference.  rates: the sweep as
    curves over the learning rate, if it has enough of them; if there are several curves, the run of each is the one at
    its best rate.  left_out: number of variants that are not shown.
    """

    recorded: Results
    results: Results
    pooled: dict[str, list[str]]
    varied: list[str]
    run: dict[tuple[str, str], str]
    starts: pd.DataFrame
    ends: dict[str, pd.DataFrame]
    rows: dict[str, pd.DataFrame]
    search: Search | None = None
    rates: LearningRates | None = None
    left_out: int = 0

    @cached_property
    def variants(self) -> list[str]:
        """The variants, in order of the runs."""
        return list(dict.fromkeys(variant for variant, _ in self.run))

    @cached_property
    def settings(self) -> list[str]:
        """The settings, in order of the runs."""
        return list(dict.fromkeys(setting for _, setting in self.run))

    @property
    def reference(self) -> str:
        """The variant that others are compared with: `kaiming`, if it is there."""
        return "kaiming" if "kaiming" in self.variants else self.variants[0]

    def named(self, setting: str) -> str:
        """Returns the setting as a title, "eight hidden layers" if that says it all; nothing if it is the only one."""
        if len(self.settings) == 1:
            return ""
        depths = {s: {self.hidden(v, here) for v, here in self.run if here == s} for s in self.settings}
        alike = all(len(found) == 1 for found in depths.values())
        if not alike or len({min(found) for found in depths.values()}) < len(depths):
            return setting
        depth = min(depths[setting])
        number = NUMBERS[depth] if depth < len(NUMBERS) else str(depth)
        return f"{number} hidden {'layer' if depth == 1 else 'layers'}"

    @property
    def inputs(self) -> int:
        """Pixels per image."""
        return next(iter(self.results.tensors.values()))["layer1/weight"].shape[-1]

    @property
    def side(self) -> int | None:
        """The side of an image in pixels, if images are square."""
        side = round(self.inputs**0.5)
        return side if side**2 == self.inputs else None

    def best(self, most: int) -> "Layout":
        """Returns the layout with only the `most` variants of highest test accuracy, in any setting, and kaiming."""
        reached: dict[str, float] = {}
        for variant, setting in self.run:
            mean = float(np.nan_to_num(self.replicas(variant, setting, ACCURACY).mean()))
            reached[variant] = max(mean, reached.get(variant, mean))
        kept = {"kaiming", *sorted(reached, key=lambda variant: -reached[variant])[:most]}
        if not reached.keys() - kept:
            return self
        run = {key: name for key, name in self.run.items() if key[0] in kept}
        rates = self.rates and LearningRates({key: curve for key, curve in self.rates.curves.items() if key[0] in kept})
        return replace(self, run=run, rates=rates, left_out=len(reached.keys() - kept))

    @property
    def counted(self) -> set[str]:
        """Names of all runs, or of those of the variants that are shown, if others are left out."""
        if not self.left_out:
            return set(self.results.runs)
        curves = self.rates.curves.values() if self.rates else ()
        return {*self.run.values(), *(run for curve in curves for run in curve["run"])}

    @property
    def at_own_rates(self) -> bool:
        """Whether the run of each variant is the one at its best learning rate."""
        return self.rates is not None and self.run == self.rates.at_best()

    def at(self, run: dict[tuple[str, str], str]) -> "Layout":
        """Returns the layout with other runs: those at certain learning rates."""
        return replace(self, run=run, search=None)

    def config(self, variant: str, setting: str) -> dict[str, Any]:
        """Returns the run's configuration, resolved; of pooled runs the first one's, with `seed` a list of all."""
        return self.results.runs[self.run[variant, setting]]["config"]

    def tensor(self, variant: str, setting: str, name: str) -> Tensor:
        """Returns a tensor of the run: see `LayerStatistics.tensors`."""
        return self.results.tensors[self.run[variant, setting]][name]

    def hidden(self, variant: str, setting: str) -> int:
        """Returns the number of hidden layers."""
        return len(self.config(variant, setting)["model"]["hidden"])

    def deepest(self, setting: str | None = None) -> int:
        """Returns the largest number of hidden layers of a run, of one setting or of all."""
        return max(self.hidden(v, s) for v, s in self.run if setting in (None, s))

    def shift(self, variant: str, setting: str) -> float:
        """Returns the constant that the activation subtracts."""
        return float(self.config(variant, setting)["activation"].get("shift", 0))

    def same_function(self, variant: str, other: str, setting: str) -> bool:
        """Returns whether two variants have the same activation, up to its constants."""
        return len({self.config(v, setting)["activation"].get("_target_") for v in (variant, other)}) == 1

    def replicas(self, variant: str, setting: str, name: str) -> np.ndarray:
        """Returns the values of a metric after the last step, one per replica (R,)."""
        return self.ends[self.run[variant, setting]][name].to_numpy()

    def survivors(self, variant: str, setting: str, name: str) -> np.ndarray:
        """Returns the values of a metric after the last step, of the replicas that have not diverged."""
        values = self.replicas(variant, setting, name)
        return values[np.isfinite(self.replicas(variant, setting, "val/loss"))]

    def diverged(self, variant: str, setting: str) -> int:
        """Returns how many replicas end with a validation loss that is infinite or NaN."""
        return int((~np.isfinite(self.replicas(variant, setting, "val/loss"))).sum())

    def accuracy(self, variant: str, setting: str, name: str = ACCURACY) -> str:
        """Formats an accuracy over the replicas that have not diverged, and how many have: 97.05 ± 0.11 %.

        name: of the metric; by default accuracy on the test images.
        """
        alive, lost = self.survivors(variant, setting, name), self.diverged(variant, setting)
        count = f"{lost} of {lost + len(alive)} diverged"
        if not len(alive):
            return count
        mean, ci95 = mean_ci95(100 * alive)
        text = f"{mean:.2f}" + (f"{SPACE}±{SPACE}{ci95:.2f}" if ci95 is not None else "") + f"{SPACE}%"
        return f"{text} ({count})" if lost else text

    def ranking(self, setting: str) -> list[str]:
        """Returns the variants by mean test accuracy, best first; for a search, by the score that was searched for."""
        here = [variant for variant, s in self.run if s == setting]
        score = ACCURACY if self.search is None else SCORE
        return sorted(here, key=lambda v: -np.nan_to_num(self.replicas(v, setting, score).mean()))

    def difference(self, variant: str, setting: str, name: str) -> tuple[float, float] | None:
        """Returns mean and 95 % half-width of the difference to the reference, paired by replica: they share batches.

        None if they can't be paired: no such run, other batches, another number of replicas, or a diverged replica.
        """
        if variant == self.reference or (variant, setting) not in self.run or not self.paired(variant, setting):
            return None
        if self.diverged(variant, setting) or self.diverged(self.reference, setting):
            return None
        ours, theirs = (self.replicas(v, setting, name) for v in (variant, self.reference))
        if len(ours) != len(theirs):
            return None
        mean, ci95 = mean_ci95(ours - theirs)
        return None if ci95 is None else (mean, ci95)

    def paired(self, variant: str, setting: str) -> bool:
        """Returns whether replica r of the run sees the same batches as replica r of the reference."""
        if (self.reference, setting) not in self.run:
            return False
        ours, theirs = (self.config(v, setting) for v in (variant, self.reference))
        return (ours["seed"], ours["data"]) == (theirs["seed"], theirs["data"])

    def outputs(self, variant: str, setting: str) -> int:
        """Returns the number of outputs of the networks. Older records have it among the settings of the loss."""
        known = self.config(variant, setting)["loss"] | self._start(variant, setting)[1]
        return int(known.get("outputs", round(1 / self.chance(variant, setting))))

    def steps(self, variant: str, setting: str, name: str) -> pd.DataFrame:
        """Returns a metric over training, of the replicas that have not diverged: columns step, mean, ci95.

        ci95 is NaN for a single replica.
        """
        rows = self.rows[self.run[variant, setting]]
        alive = rows["val/loss" if name == "val/accuracy" else name]  # a network of NaNs still predicts a class
        taken = rows[np.isfinite(alive)].groupby("step")[name]
        found = [(step, *mean_ci95(values.to_numpy())) for step, values in taken]
        return pd.DataFrame(found, columns=["step", "mean", "ci95"], dtype=float)

    def dead(self, variant: str, setting: str) -> float:
        """Returns the share of dead hidden units after the last step; NaN without any, or if all replicas diverged."""
        layers = range(1, self.hidden(variant, setting) + 1)
        ends = [self.survivors(variant, setting, f"layer{n}/dead_fraction") for n in layers]
        return float(np.mean(ends)) if ends and ends[0].size else np.nan

    def layers(self, variant: str, setting: str, name: str) -> pd.DataFrame:
        """Returns a statistic of each hidden layer at step 0: columns layer, mean, ci95, theory.

        theory is NaN if theory expects nothing of this statistic.
        """
        start, expected = self._start(variant, setting)
        metrics = {n: f"layer{n}/{name}" for n in range(1, self.hidden(variant, setting) + 1)}
        rows = [(n, start[m], start.get(f"{m}.ci95", np.nan), expected.get(m, np.nan)) for n, m in metrics.items()]
        return pd.DataFrame(rows, columns=["layer", "mean", "ci95", "theory"])

    def gradients(self, variant: str, setting: str) -> pd.DataFrame:
        """Returns delta_std as `layers` does. Theory starts at the measured value of the output layer and goes down."""
        found = self.layers(variant, setting, "delta_std")
        start, expected = self._start(variant, setting)
        ratios = np.array([expected.get(f"layer{n}/backward_ratio", np.nan) for n in found["layer"]])
        found["theory"] = start[f"layer{len(found) + 1}/delta_std"] * np.sqrt(ratios[::-1].cumprod()[::-1])
        return found

    def first_gradient(self, variant: str, setting: str) -> float:
        """Returns the standard deviation of dL/dW of the first layer at step 0, mean over replicas.

        It is infinite if activations or gradients overflow, whether that makes it infinite or NaN.
        """
        found = float(self._start(variant, setting)[0]["layer1/grad_std"])
        return found if np.isfinite(found) else np.inf

    def probe(self, variant: str, setting: str) -> int:
        """Returns the number of images that statistics were taken on; in older records, what was asked for."""
        asked = self.config(variant, setting)["stats"]["probe"]
        return int(self.results.runs[self.run[variant, setting]]["theory"].get("probe", asked))

    def chance(self, variant: str, setting: str) -> float:
        """Returns the accuracy of guessing: one over the number of classes."""
        return float(self.results.runs[self.run[variant, setting]]["theory"].get("chance", CHANCE))

    def pair(self, setting: str) -> list[str]:
        """Returns the two variants that are shown side by side; one, if there is no other.

        They are the reference and the first variant with another shift, or else any other; in a search, the first trial
        and the best.
        """
        if self.search is not None:
            return list(dict.fromkeys([self.reference, self.ranking(setting)[0]]))
        here = [variant for variant, s in self.run if s == setting]
        first = self.reference if self.reference in here else here[0]
        others = [variant for variant in here if variant != first]
        shifted = [variant for variant in others if self.shift(variant, setting) != self.shift(first, setting)]
        return [first, *(shifted or others)[:1]]

    def _start(self, variant: str, setting: str) -> tuple[pd.Series, dict[str, float]]:
        run = self.run[variant, setting]
        return self.starts.loc[run], self.results.runs[run]["theory"]


def lay_out(recorded: Results) -> Layout:
    """Arranges the runs of a sweep for its report."""
    results, pooled = pool_seeds(recorded)
    varied = [key for key in _varied(results) if key != SEED]
    search = searched(results, varied)
    # Grouped once instead of for each number: a sweep may have thousands of runs.
    first = results.replicas["step"] == results.replicas.groupby("run", sort=False)["step"].transform("first")
    starts = tables.over_replicas(results.replicas[first]).set_index("run")
    last = tables.last_step(results.replicas)
    ends, rows = (dict(iter(rows.groupby("run", sort=False))) for rows in (last, results.replicas))
    others = [key for key in varied if key != KEY]
    rates = swept_rates(results.runs, ends, _names(results, others) if others else dict.fromkeys(results.runs, ONE))
    if search is not None:
        run = {(search.label(name), ""): name for name in search.shown()}
    elif rates is not None and len(rates.curves) > 1:
        run = rates.at_best()
    else:
        run = {key: name for name, key in _names(results, varied).items()}
    return Layout(recorded, results, pooled, varied, run, starts, ends, rows, search, rates)


def pool_seeds(recorded: Results) -> tuple[Results, dict[str, list[str]]]:
    """Pools the replicas of runs that differ in nothing but their seed: five seeds of 8 replicas are one run of 40.

    Returns the results, and {run: the recorded runs that it stands for}. A pooled run has the configuration, theory and
    tensors of its first one, but all replicas, numbered through, and the list of seeds. Its name is what is left of the
    overrides. Runs that were measured at different steps stay apart.
    """
    steps = recorded.replicas.groupby("run", sort=False)["step"].unique()
    groups: dict[tuple[Any, ...], list[str]] = {}
    for run, record in recorded.runs.items():
        rest = tuple((key, value) for key, value in record["overrides"].items() if key != SEED)
        groups.setdefault((rest, tuple(steps[run]) if SEED in record["overrides"] else run), []).append(run)
    if all(len(group) == 1 for group in groups.values()):
        return recorded, {run: [run] for run in recorded.runs}
    names: dict[str, list[str]] = {}
    for (rest, _), group in groups.items():
        name = ",".join(f"{key}={value}" for key, value in rest) or "all seeds"
        names[group[0] if len(group) == 1 or name in names else name] = group
    tables_, runs, tensors = [], {}, {}
    for name, group in names.items():
        records = [recorded.runs[run] for run in group]
        config = records[0]["config"]
        if len(group) > 1:
            counts = [record["config"]["replicas"] for record in records]
            config = config | {"replicas": sum(counts), SEED: [record["config"][SEED] for record in records]}
        runs[name] = records[0] | {"config": config}
        tensors[name] = recorded.tensors[group[0]]
        first = 0
        for run in group:
            rows = recorded.replicas[recorded.replicas["run"] == run]
            tables_.append(rows.assign(run=name, replica=rows["replica"] + first))
            first += recorded.runs[run]["config"]["replicas"]
    replicas = pd.concat(tables_, ignore_index=True)
    order = pd.Categorical(replicas["run"], categories=[*names])
    replicas = replicas.iloc[np.lexsort((replicas["replica"], replicas["step"], order.codes))]
    replicas = replicas.drop(columns=SEED, errors="ignore").reset_index(drop=True)
    return Results(replicas, runs, tensors), names


def _names(results: Results, varied: list[str]) -> dict[str, tuple[str, str]]:
    """Returns {run: (variant, setting)}.

    Variants are the schemes, and settings what else varies; or variants are all that varies, in one setting.
    """
    runs = results.runs
    schemes = {run: str(record["overrides"].get("init", run)) for run, record in runs.items()}
    settings = {run: _label(results, run, [key for key in varied if key != "init"]) for run in runs}
    if "init" in varied and len(set(settings.values())) <= MOST_SETTINGS:
        return {run: (str(record["overrides"].get("init")), settings[run]) for run, record in runs.items()}
    return {run: (_label(results, run, varied) or schemes[run], "") for run in runs}


def _label(results: Results, run: str, keys: list[str]) -> str:
    overrides = results.runs[run]["overrides"]
    return ", ".join(f"{key}={overrides[key]}" for key in keys if key in overrides)


def growth(values: pd.Series) -> float:
    """Returns the factor per layer: exp of the least-squares slope of log(value) by depth; NaN for a single layer."""
    if len(values) < 2 or not (np.isfinite(values) & (values > 0)).all():
        return np.nan
    return float(np.exp(np.polyfit(np.arange(len(values)), np.log(values.to_numpy()), 1)[0]))


def _varied(results: Results) -> list[str]:
    """Returns the overridden keys that have several values over the runs."""
    overrides = [run["overrides"] for run in results.runs.values()]
    keys = dict.fromkeys(key for run in overrides for key in run)
    return [key for key in keys if len({run.get(key) for run in overrides}) > 1]
