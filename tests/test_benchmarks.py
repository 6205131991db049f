"""The peers of the benchmark do the same work, and its tables say what was measured."""

import json
import sys
from pathlib import Path

import pandas as pd
import pytest
from conftest import ROOT, command

from benchmarks import __main__ as benchmarks
from benchmarks import measure

pytestmark = pytest.mark.slow  # it needs the packages of the extras `bench` and `dev`


@pytest.mark.parametrize("module", ["autograd", "handwritten", "func_ensemble", "jax_ensemble", "sklearn_mlp", "bare"])
def test_every_peer_learns_the_same(module: str, project: Path) -> None:
    """An epoch of plain SGD brings 784-50-10 to about 95 % of the validation images, whoever computes it; seldom
    below 90 %, by the noise of a last step on 16 images, where a peer takes that.
    """
    words = [sys.executable, "-m", "benchmarks.peers", module, "--epochs=1", "--replicas=2"]
    found = json.loads(command(words, project).stdout.splitlines()[-1])
    assert len(found["seconds"]) == 1
    assert 0.85 < found["accuracies"][0] < 0.97
    assert found["memory"] > 100


def test_multiplications_are_those_of_the_step() -> None:
    """784-50-10: forward 39,700, dL/dW as many, dL/da of the last layer alone 500; an image to validate, forward."""
    assert measure.multiplications([50], validate=False) == 50_000 * (2 * 39_700 + 500)
    assert measure.multiplications([50]) == 50_000 * 79_900 + 10_000 * 39_700


def test_a_table_goes_between_its_marks() -> None:
    page = "before\n<!-- a -->\nold\n<!-- end of a -->\nafter\n"
    table = benchmarks.markdown(pd.DataFrame({"what": ["x"], "s": [1.234], "of the GEMM peak": [0.876]}))
    assert table == "| what | s | of the GEMM peak |\n| --- | --- | --- |\n| x | 1.23 | 88% |"
    assert benchmarks.replaced(page, "a", table) == f"before\n<!-- a -->\n{table}\n<!-- end of a -->\nafter\n"
    pages = {
        name: benchmarks.PAGES.get(name, benchmarks.PAGE).read_text(encoding="utf-8") for name in benchmarks.TABLES
    }
    assert all(f"<!-- {name} -->" in page for name, page in pages.items())


def test_the_figure_is_drawn(tmp_path: Path) -> None:
    benchmarks.draw(pd.read_csv(ROOT / "benchmarks" / "results" / "side_by_side.csv"), tmp_path / "figure.svg")
    assert "initlab, train.py (8)" in (tmp_path / "figure.svg").read_text(encoding="utf-8")
