"""A sweep of very many jobs: what it shows is bounded, and a store's answers are asked for a page at a time."""

import json
import sqlite3
import sys
from pathlib import Path

import pytest
from conftest import command
from helpers.sweeps import run, sweep

from benchmarks import tracker
from initlab import report
from initlab.report import findings, sentences
from initlab.report.layout import lay_out
from initlab.tracking import results

MEASURED = """
import json, sys
from pathlib import Path
from benchmarks import stores, tracker
from initlab.tracking import store
from initlab.tracking.parent_run import load_results

folder = Path(sys.argv[1])
model = stores.real_run(folder, "experiment=smoke", "model.hidden=[5]", "+trainer.limit_train_batches=128")
stores.real_run = lambda *_: model
rates = tracker.table(1, kinds=["sqlite"], writers=[1, 2], seconds=0.1)
store.PAGE = 7
with stores.place("sqlite", folder / "filled") as place:
    parent = stores.sweep_of(place, model, folder / "sweep", range(1, 20))
    assert len(store.search_runs(parent.client, parent.experiment_id, "tags.init = 'kaiming'")) == 20
    jobs = [job.name for job in store.finished_jobs(parent.client, parent.experiment_id, parent.run_id)]
    found = load_results(place.uri, parent.run_id)
    for job in store.finished_jobs(parent.client, parent.experiment_id, parent.run_id)[-5:]:
        parent.client.delete_run(job.run.info.run_id)
print(json.dumps({"rates": rates.to_dict("records"), "jobs": jobs, "runs": len(found.runs)}))
"""


@pytest.fixture(scope="module")
def many() -> results.Results:
    """Forty variants, the later the better, with kaiming the worst of all."""
    found = [run({"init": "kaiming"}, (0.1, 0.1))]
    found += [run({"init": f"v{number}"}, (0.5 + number / 100, 0.6 + number / 100)) for number in range(39)]
    return sweep(*found)


def test_a_page_has_the_best_variants_and_the_one_they_are_compared_with(many: results.Results) -> None:
    view = lay_out(many).best(3)
    assert view.variants == ["kaiming", "v36", "v37", "v38"]
    assert view.left_out == 36
    assert findings.lead(view).startswith("Of 40 variants, the 4 best are shown; comparison.csv has all of them. ")
    assert sentences.method(view)[0].startswith("4 variants, 4 runs of 2 replicas: 8 networks")
    assert lay_out(many).best(40).left_out == lay_out(many).left_out == 0
    assert len(lay_out(many).variants) == 40


def test_a_long_table_ends_at_the_best_ten(many: results.Results) -> None:
    lines = report.terminal_table(lay_out(many), {}).splitlines()
    assert len(lines) == 1 + 10 + 1
    assert [line.split()[0] for line in lines[1:3]] == ["v38", "v37"]
    assert lines[-1] == "and 30 more"
    few = sweep(run({"init": "kaiming"}), run({"init": "normal"}))
    assert "more" not in report.terminal_table(lay_out(few), {})


def test_many_differences_that_decide_nothing_are_counted() -> None:
    """Intervals of two replicas are far wider than what would be told apart."""
    noisy = sweep(run({"init": "kaiming"}, (0.6, 0.5)), *(run({"init": name}, (0.3, 0.9)) for name in "abcd"))
    told = findings.lead(lay_out(noisy))
    assert "2 networks each are too few to compare `kaiming` with `a`" in told
    assert "and 1 more." in told


@pytest.mark.slow
def test_what_a_tracker_takes_is_measured(project: Path, tmp_path: Path) -> None:
    """Each kind of write, by one process and by two; then a store of a real run's copies, read in pages."""
    printed = command([sys.executable, "-c", MEASURED, str(tmp_path)], project).stdout
    found = json.loads(printed.splitlines()[-1])
    assert [line["what"] for line in found["rates"]] == list(tracker.WRITES)
    assert all(line["1"] > 0 and line["2"] > 0 and line["failed"] == 0 for line in found["rates"])
    assert found["jobs"] == [f"init=kaiming,seed={number}" for number in range(20)]
    assert found["runs"] == 20
    uri = f"sqlite:///{tmp_path}/filled/mlflow.db"
    mlflow = str(Path(sys.executable).with_name("mlflow"))
    command([mlflow, "gc", "--backend-store-uri", uri, "--tracking-uri", uri], tmp_path)
    with sqlite3.connect(tmp_path / "filled" / "mlflow.db") as database:
        assert database.execute("SELECT count(DISTINCT run_uuid) FROM metrics").fetchone() == (15,)
