"""The tables of a sweep, from values small enough to check by hand."""

import json
from io import StringIO

import pandas as pd
import pytest

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
def test_a_diverged_run_shows_it(last: list[float]) -> None:
    """Its last loss is not a number: no earlier, better one stands in for it, and JSON says null."""
    files = tables.tables(replicas({5: [1.0, 3.0], 10: last}))
    assert json.loads(files["metrics/init=a.json"])["val/loss"] is None
    assert json.loads(files["metrics/init=a.json"])["test/accuracy"] == pytest.approx(0.55)
    assert "2.0000" not in files["comparison.md"]


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
