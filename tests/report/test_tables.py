"""The tables of a sweep, from values small enough to check by hand."""

import csv
import json
from io import StringIO
from pathlib import Path

import pandas as pd
import pytest
import yaml
from conftest import ROOT
from dvc_render import VegaRenderer

from initlab.report import tables

NAN, INF = float("nan"), float("inf")


def replicas(losses: dict[int, list[float]], run: str = "init=a") -> pd.DataFrame:
    """A run of two replicas with these validation losses; layers are measured at other steps than losses."""
    rows = []
    for step, values in losses.items():
        for replica, loss in enumerate(values):
            final = step == max(losses)
            accuracy = 0.5 + 0.1 * replica
            rows.append(
                {"run": run, "init": run[5:], "step": step, "replica": replica, "layer1/act_std": 2.0 + replica}
                | {"val/loss": loss, "val/accuracy": accuracy, "train/loss": loss}
                | {"test/accuracy": accuracy if final else NAN}
            )
    return pd.DataFrame(rows)


def test_comparison_is_best_first_with_intervals() -> None:
    """Of 1 and 3 the mean is 2; the half-width is t_{0.975, 1} s / sqrt(2) = 12.7062 * sqrt(2) / sqrt(2)."""
    worse, better = replicas({5: [1.0, 3.0]}), replicas({5: [1.0, 1.0]}, run="init=b")
    better["test/accuracy"] += 0.1
    files = tables.tables(pd.concat([worse, better], ignore_index=True))
    comparison = pd.read_csv(StringIO(files["comparison.csv"]))
    assert list(comparison["init"]) == ["b", "a"]
    row = comparison.set_index("run").loc["init=a"]
    assert row["val/loss"] == 2
    assert row["val/loss.ci95"] == pytest.approx(12.7062047, rel=1e-6)
    assert "| init=a | 0.5500 ± 0.6353 |" in files["comparison.md"]


@pytest.mark.parametrize("last", [[NAN, 1.0], [INF, 1.0]])
def test_a_diverged_replica_is_counted_and_left_out(last: list[float]) -> None:
    """Its last loss is not a number: no earlier, better one stands in for it."""
    files = tables.tables(replicas({5: [1.0, 3.0], 10: last}))
    metrics = json.loads(files["metrics/init=a.json"])
    assert metrics["diverged"] == 1
    assert metrics["val/loss"] == 1.0
    assert metrics["test/accuracy"] == pytest.approx(0.6)  # of the replica that is left; of both it is 0.55
    assert metrics["test/accuracy.ci95"] is None
    assert "2.0000" not in files["comparison.md"]
    assert files["comparison.md"].endswith("| 1 of 2 |\n")
    curves = pd.read_csv(StringIO(files["validation.csv"]))
    assert list(curves["diverged"]) == [0, 1]
    assert list(curves["val/loss"]) == [2, 1]
    assert list(curves["val/accuracy"]) == pytest.approx([0.55, 0.6])


def test_a_run_of_diverged_replicas_has_no_values_and_is_last() -> None:
    """JSON has no NaN, so it says null. What guesses well by chance does not come before what learns."""
    found = pd.concat([replicas({5: [1.0, 3.0], 10: [NAN, INF]}), replicas({5: [1.0, 3.0]}, run="init=b")])
    found.loc[found["run"] == "init=b", "test/accuracy"] += 0.1
    files = tables.tables(found.reset_index(drop=True))
    metrics = json.loads(files["metrics/init=a.json"])
    assert metrics.pop("diverged") == 2
    assert set(metrics.values()) == {None}
    comparison = pd.read_csv(StringIO(files["comparison.csv"]))
    assert list(comparison["run"]) == ["init=b", "init=a"]
    assert list(comparison["diverged"]) == [0, 2]
    assert comparison.loc[1, ["test/accuracy", "val/accuracy", "val/loss", "train/loss"]].isna().all()


def test_runs_are_ranked_with_their_diverged_replicas() -> None:
    """As on the page: one good replica beside one that guesses is behind two fair ones."""
    risky, safe = replicas({5: [NAN, 1.0]}), replicas({5: [1.0, 1.0]}, run="init=b")
    risky["test/accuracy"], safe["test/accuracy"] = [0.1, 0.99], [0.9, 0.9]
    comparison = pd.read_csv(StringIO(tables.tables(pd.concat([risky, safe], ignore_index=True))["comparison.csv"]))
    assert list(comparison["test/accuracy"]) == [0.9, 0.99]


def test_names_of_files_are_the_runs_own_where_every_system_takes_them() -> None:
    runs = ["init=a,lr=0.1", "init=a,data.folder=x/y", "init=a,data.folder=x_y", "s=A", "s=a"]
    runs += ["a" * 300, "a" * 301, "é" * 90]
    names = tables.file_names(runs)
    assert names["init=a,lr=0.1"] == "init=a,lr=0.1"
    assert len({name.casefold() for name in names.values()}) == len(runs)
    assert max(len(name.encode()) for name in names.values()) <= 130
    assert tables.file_names(runs[:2])[runs[1]] == names[runs[1]]  # the same name, whatever else was swept


def test_one_replica_beside_several_has_no_interval() -> None:
    table = pd.concat([replicas({5: [1.0, 3.0]}), replicas({5: [1.0]}, run="init=b")], ignore_index=True)
    text = tables.tables(table)["comparison.md"]
    assert "| init=b | 0.5000 |" in text
    assert "nan" not in text


def test_layers_and_validation_are_tidy() -> None:
    files = tables.tables(replicas({5: [1.0, 3.0], 10: [1.0, 2.0]}))
    layers = pd.read_csv(StringIO(files["layers.csv"]))
    assert list(layers.columns[:5]) == ["run", "init", "step", "layer", "act_std"]
    assert list(layers["act_std"]) == [2.5, 2.5]
    assert list(pd.read_csv(StringIO(files["validation.csv"]))["val/loss"]) == [2, 1.5]


def test_plots_of_dvc_leave_out_what_has_diverged() -> None:
    """DVC reads empty cells as "", which Vega-Lite draws as 0 unless they are filtered; no axis of accuracies has 0."""
    files = tables.tables(replicas({5: [1.0, 3.0], 10: [NAN, INF]}))
    plots = {
        title: plot
        for entry in yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["plots"]
        for title, plot in entry.items()
    }
    assert len(plots) == 3
    for title, plot in plots.items():
        ((path, y),) = plot["y"].items()
        rows = list(csv.DictReader(StringIO(files[Path(path).name])))
        value = y if y in ("val/accuracy", "val/loss") else plot["x"]
        assert [row[value] for row in rows if row["diverged"] == "2"] == [""]
        words = {"template": plot["template"], "template_dir": str(ROOT / ".dvc" / "plots"), "title": title}
        spec = VegaRenderer(rows, title, **words, x=plot["x"], y=y).get_filled_template()
        assert {"calculate": f"toNumber(datum['{value}'])", "as": "mean"} in spec["transform"]
        assert {"calculate": f"toNumber(datum['{value}.ci95'])", "as": "ci95"} in spec["transform"]
        drawn = [layer for layer in spec["layer"] if any("field" in layer["encoding"].get(axis, {}) for axis in "xy")]
        assert len(drawn) == 2  # points, and intervals
        for layer in drawn:
            (first, *_) = layer.get("transform", spec["transform"])
            assert first["filter"] in (f"isValid(toNumber(datum['{value}']))", "isValid(datum.mean)")
        x = drawn[0]["encoding"].get("x", {"scale": {"type": "log"}})
        assert x["scale"]["type"] == "log"  # which has no 0
