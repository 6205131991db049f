"""A search: Optuna's trials as a sweep, the same each time, gone on with when interrupted; what its report says."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from conftest import ROOT, Train, started, wait_for
from helpers import sweeps
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from mlflow import MlflowClient
from mlflow.entities import Run
from omegaconf import DictConfig, OmegaConf, open_dict

from initlab import report
from initlab.nn import init
from initlab.report.layout import lay_out
from initlab.sweep import launchers, preflight, search

pytestmark = pytest.mark.engines

SMALL = ("replicas=1", "trainer.max_epochs=1", "+trainer.limit_train_batches=128", "hydra.callbacks.sweep.report=false")
# Gains up to 1000: in eight layers some trials overflow. After two random ones TPE chooses.
SEARCH = (
    *("-m", "experiment=search", "init.weights.gain=tag(log,interval(1,1000))", *SMALL),
    *("hydra.sweeper.n_trials=5", "hydra.sweeper.sampler.n_startup_trials=2"),
)
KEYS = "activation.shift", "init.weights.gain"


def client(project: Path) -> MlflowClient:
    return MlflowClient(f"sqlite:///{project}/mlflow.db")


def the_search(project: Path) -> tuple[Run, list[dict[str, Any]]]:
    """The parent run, and facts of its trials in their order."""
    runs = client(project).search_runs(["1"], order_by=["attributes.start_time ASC"])
    (parent,) = (run for run in runs if "sweep" in run.data.tags)
    trials = [
        {
            "id": run.info.run_id,
            "name": run.info.run_name,
            "numbers": [float(run.data.params[key]) for key in KEYS],
            "accuracy": run.data.metrics.get("val/accuracy"),
            "diverged": np.isnan(run.data.metrics.get("val/loss", 0)),
            "weights": run.data.tags.get("weights.sha256"),
        }
        for run in runs
        if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id and "init.weights.gain" in run.data.params
    ]
    return parent, trials


def test_a_search_that_is_killed_goes_on_and_records_the_best(train: Train, project: Path) -> None:
    """A trial that has finished is proposed again to the bit, or would be refused; one that overflows counts as bad."""
    with started(*SEARCH, cwd=project) as process:
        wait_for("job 4 of 5", process)
    parent, trials = the_search(project)
    before = [trial for trial in trials if trial["accuracy"] is not None]
    assert parent.info.status == "RUNNING"
    assert len(before) == 3

    output = train(*SEARCH, "resume=true").stdout
    assert output.count("has finished before: nothing to do") == 3
    assert "job 5 of 5" in output
    again, trials = the_search(project)
    assert again.info.run_id == parent.info.run_id
    assert again.info.status == "FINISHED"
    assert len(trials) == 5
    assert trials[:3] == before
    assert trials[0]["numbers"] == [0.5, 2]  # what the configuration has
    assert all(float(f"{number:.3g}") == number for trial in trials for number in trial["numbers"])
    lost = [trial for trial in trials if trial["diverged"]]
    assert lost
    assert lost[0] != trials[-1]
    assert all(trial["accuracy"] < 0.9 for trial in lost)

    best = max(trials, key=lambda trial: trial["accuracy"])
    assert again.data.tags["best"] == best["name"]
    assert f"runs/{best['id']}" in again.data.tags["mlflow.note.content"]
    kept = OmegaConf.load(client(project).download_artifacts(again.info.run_id, "optimization_results.yaml"))
    assert kept.best_value == best["accuracy"]
    assert [kept.best_params[key] for key in KEYS] == best["numbers"]
    shift, gain = best["numbers"]
    assert f"Best by validation accuracy is shift={shift:g}, gain={gain:g} with" in " ".join(output.split())


def test_the_sampler_begins_where_it_is_told_and_finds_better() -> None:
    """On a bowl with its lowest point at (1, 2); the same numbers each time, of three digits."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)

    def trials() -> list[optuna.trial.FrozenTrial]:
        sampler = search.Sampler({"x": 0.1234567, "y": 99.0, "z": "b"}, seed=3, multivariate=True)
        study = optuna.create_study(direction="maximize", sampler=sampler)

        def objective(trial: optuna.Trial) -> float:
            x, y = trial.suggest_float("x", 0, 4), trial.suggest_float("y", 0.01, 10, log=True)
            trial.suggest_categorical("z", ["a", "b"])
            trial.suggest_float("step", 0, 1, step=0.1)
            return -((x - 1) ** 2) - np.log(y / 2) ** 2

        study.optimize(objective, 40)
        return study.trials

    found = trials()
    first, *others = (trial.params for trial in found)
    assert first["x"] == 0.1234567  # what it was told; 99 is outside of y's interval
    assert first["z"] == "b"
    assert all(params[key] == float(f"{params[key]:.3g}") for params in others for key in "xy")
    assert all(len(str(params["step"])) <= 3 for params in others)
    assert max(trial.value for trial in found) > -0.05 > found[0].value
    assert [trial.params for trial in trials()] == [first, *others]


def composed(*overrides: str, **sweeper: object) -> DictConfig:
    config = compose("config", ["experiment=search", *overrides], return_hydra_config=True)
    with open_dict(config):
        config.hydra.sweeper.update(sweeper)
    return config


@pytest.mark.parametrize(
    ("sweeper", "message"),
    [
        ({"direction": "minimize"}, "direction: expected maximize"),
        ({"n_trials": 0}, "n_trials is 0; expected a whole number of at least 1"),
        ({"n_jobs": 1.5}, "n_jobs is 1.5; expected a whole number of at least 1"),
        ({"storage": "sqlite:///a.db"}, "storage: expected null"),
        ({"params": None}, "nothing to search: give a key an interval"),
        ({"params": {"seed": "interval(2,1)"}}, r"seed=interval\(2,1\): expected interval\(low,high\)"),
        ({"params": {"init.weights.gain": "interval(-1,2)"}}, "gain is -1.0; expected a positive number"),
    ],
)
def test_what_a_search_refuses(sweeper: dict, message: str, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = composed(**sweeper)
        with pytest.raises(Exception, match=message):
            preflight.check_sweep(config, project)


def test_what_the_page_types_composes() -> None:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        found = compose("config", ["init=shifted_relu", "activation.shift=0.839", "init.weights.gain=1.28"])
        activation = instantiate(found.activation)
        assert instantiate(found.init.weights).for_activation(activation) == init.VarianceScaling(1.28)
        assert activation.shift == 0.839
        other = compose("config", ["hydra/sweeper=search"], return_hydra_config=True).hydra.sweeper
        search.check_settings(other, ["optimizer.lr"])
        assert instantiate(other.sampler, start={"optimizer.lr": 0.05})._start == {"optimizer.lr": 0.05}


def test_a_plugin_that_is_missing_is_named() -> None:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        launchers.check_plugin("hydra/sweeper=search", composed().hydra.sweeper._target_)
    missing = "hydra_plugins.hydra_nowhere_sweeper.nowhere_sweeper.NowhereSweeper"
    with pytest.raises(ValueError, match=r'^hydra/sweeper=any needs packages .*: pip install .*"\.\[nowhere\]"$'):
        launchers.check_plugin("hydra/sweeper=any", missing)


def made_up(shifts: list[float], **others: str) -> sweeps.Results:
    """A search for a shift, best at 0.8."""
    return sweeps.sweep(
        *(
            sweeps.run(
                {"init": "shifted_relu", "activation.shift": str(shift)} | others,
                accuracies=[0.95 - (shift - 0.8) ** 2 / 10 + replica / 100 for replica in (0, 1, 2)],
                shift=shift,
                diverged=shift > 3,
            )
            for shift in shifts
        )
    )


def test_its_report_shows_the_best_and_the_first() -> None:
    found = made_up([0.3, 3.5, *(round(0.1 * n, 1) for n in range(5, 16)), 0.81])
    view = lay_out(found)
    assert view.reference == "shift=0.3"
    assert view.ranking("")[0] == "shift=0.8"
    assert len(view.variants) == 9
    assert report.best_run(lay_out(found)) == "init=shifted_relu,activation.shift=0.8"

    text = report.terminal_table(lay_out(found), {})
    assert [line.split()[0] for line in text.splitlines()[1:4]] == ["shift=0.8", "shift=0.81", "shift=0.7"]
    assert "and 5 more, in report/comparison.md" in text
    lead, table = report.summary(lay_out(found), {})
    assert "14 trials, activation.shift from 0.3 to 3.5. Best by validation accuracy is shift=0.8 with" in lead
    assert "the first, shift=0.3, has 93.50" in lead
    assert table.count("\n") == 2 + 9


def test_a_replica_that_diverges_late_is_counted() -> None:
    """Its last finite loss does not stand in for the last one, nor its best accuracy for what it guesses at the end."""
    shifts = [0.5, 0.6, 0.7, 0.8, 0.9]
    found = made_up(shifts)
    late = (found.replicas["activation.shift"] == "0.7") & (found.replicas["replica"] == 2)
    last = found.replicas["step"] == found.replicas["step"].max()
    found.replicas.loc[late & last, "val/loss"] = np.nan
    found.replicas.loc[late & last, "val/accuracy"] = np.nan
    search = lay_out(found).search
    assert search is not None
    row = search.runs.set_index("activation.shift").loc[0.7]
    assert (row["diverged"], row["replicas"], row["alike"]) == (1, 3, False)
    found.replicas.loc[late & last, "val/accuracy"] = 0.1
    view = lay_out(found)
    assert view.search is not None
    assert view.search.runs["mean"][2] == pytest.approx((0.949 + 0.959 + 0.1) / 3)
    assert view.ranking("")[-1] == "shift=0.7"
    found.replicas.loc[last & ~late, "val/accuracy"] -= 0.9
    assert "Best by validation accuracy is shift=0.7 with" in report.summary(lay_out(found), {})[0]
    assert "(with 1 of 3 diverged)" in report.summary(lay_out(found), {})[0]


def test_its_page_has_a_figure_of_all_trials(tmp_path: Path) -> None:
    found = made_up([0.5, 0.7, 0.8, 0.9, 3.5])
    names = report.write(lay_out(found), tmp_path)
    assert "figures/search.svg" in names
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "Best by validation accuracy is shift=0.8 with" in page
    assert (
        len(json.loads((tmp_path / "metrics" / f"{report.best_run(lay_out(found))}.json").read_text(encoding="utf-8")))
        > 1
    )
    assert (tmp_path / "comparison.md").read_text(encoding="utf-8").count("\n") == 2 + 5


def test_two_numbers_are_a_search_too_and_other_sweeps_are_none() -> None:
    shifts = [0.5, 0.6, 0.7]
    both = sweeps.sweep(*(made_up(shifts, **{"model.shift": gain}) for gain in ("2", "3")))
    view = lay_out(both)
    assert view.search is not None
    assert view.search.keys == ["activation.shift", "model.shift"]
    assert view.variants[0] == "activation.shift=0.5, model.shift=2"  # their last words are the same
    for other in (
        made_up(shifts),  # few
        sweeps.sweep(*(made_up(shifts, seed=seed) for seed in ("0", "1"))),
        sweeps.sweep(*(made_up(shifts, **{"optimizer": name}) for name in ("sgd", "adam"))),
    ):
        assert lay_out(other).search is None
        assert report.best_run(lay_out(other)) is None
