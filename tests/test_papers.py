"""The presets of papers compose, and sections and verdicts are what the numbers say."""

import sys
from collections.abc import Mapping
from math import sqrt
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, command
from helpers.sweeps import run, sweep
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from initlab.nn import theory
from initlab.sweep import config as configs
from initlab.tracking import results
from initlab.training.build import build
from papers import __main__ as papers
from papers import critical, edge_of_chaos, glorot2010, he2015, measured, pages, verdicts

SPREAD = (-0.002, 0.0, 0.002)  # of three replicas around their mean: an interval of ± 0.50 points


def composed(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("config", list(overrides), return_hydra_config=True)


@pytest.mark.parametrize("name", papers.PAPERS)
def test_every_value_of_a_preset_can_be_built(name: str, normalized: Path, tmp_path: Path) -> None:
    params = composed(f"experiment={name}").hydra.sweeper.params
    swept = {key: str(values).split(",") for key, values in params.items()}
    assert set(papers.PAPERS[name].KEYS) <= set(swept)
    first = {key: values[0] for key, values in swept.items()}
    for job in [first | {key: value} for key, values in swept.items() for value in values]:
        words = [f"{key}={value}" for key, value in job.items()]
        config = composed(f"experiment={name}", *words, f"data.folder={normalized}", "data.pin=null", "trainer=cpu")
        assert build(config, tmp_path).network.hidden == [config.model.width] * config.model.depth
    wide = composed(f"experiment={name}", "model.width=1000").model  # the paper's size by one override
    assert wide.hidden == [1000] * wide.depth


def test_presets_are_of_the_papers_networks() -> None:
    glorot, he, edge = (composed(f"experiment={name}") for name in ("glorot2010", "he2015", "edge_of_chaos"))
    assert (glorot.model.depth, he.hydra.sweeper.params["model.depth"].split(",")[0]) == (5, "30")
    assert edge.init.weights.sigma_b**2 == pytest.approx(0.05)
    gains = [float(value) ** 2 for value in edge.hydra.sweeper.params["init.weights.sigma_w"].split(",")]
    assert gains == pytest.approx(np.arange(1, 4.01, 0.25), abs=1e-5)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("model.depth=-1",), "model.depth is -1; expected a whole number of at least 0"),
        (("model.width=wide",), "model.width is 'wide'; expected a whole number of at least 1"),
        (("model.depth=1000000000",), "model.depth is 1000000000; expected at most 10,000 hidden layers"),
    ],
)
def test_a_network_of_one_width_is_refused_in_one_line(words: tuple[str, ...], message: str, project: Path) -> None:
    done = command([sys.executable, "train.py", "model=uniform", *words], project, check=False)
    assert f"error: model.hidden: {message}" in done.stderr.splitlines()


def test_networks_of_one_width_are_recorded_with_every_width() -> None:
    assert configs.run_config(composed("model=uniform", "model.depth=3", "model.width=20"))["model"] == {
        "width": 20,
        "depth": 3,
        "hidden": [20, 20, 20],
    }


def test_published_numbers_are_those_of_the_papers() -> None:
    """Table 1 of Glorot & Bengio (2010), MNIST; figure 3, right, of He et al. (2015); figure 5 of Schoenholz et al."""
    assert glorot2010.PUBLISHED == {
        ("tanh", "standard"): 1.76,
        ("tanh", "xavier"): 1.64,
        ("softsign", "standard"): 1.64,
        ("softsign", "xavier"): 1.72,
        ("sigmoid", "standard"): 2.21,
    }
    assert all(glorot2010.PUBLISHED[worse] > glorot2010.PUBLISHED[better] for worse, better in glorot2010.COMPARED)
    assert he2015.PUBLISHED == {(30, "kaiming"): True, (30, "xavier"): False}
    assert edge_of_chaos.PUBLISHED == (6, 0.05)
    assert pytest.approx(1.761, abs=5e-4) == edge_of_chaos.CRITICAL


def test_the_critical_points_that_the_page_names() -> None:
    tanh, gelu = (theory.critical(theory.Phi(name)) for name in ("Tanh", "GELU"))
    assert (tanh.weight, tanh.bias) == pytest.approx((1, 0), abs=1e-6)
    assert (gelu.weight, gelu.bias) == pytest.approx((1.98, 0.175), abs=5e-3)
    assert 2 * theory.act_second(1e-8, theory.Phi("GELU")) == pytest.approx(0.5e-8, rel=1e-3)  # Kaiming's variance


def test_verdicts_at_their_borders() -> None:
    """An interval contains its ends; a difference is significant once its interval leaves zero."""
    ours = measured.Estimate(2.0, 0.25)
    assert [verdicts.contains(ours, published) for published in (1.75, 2.25)] == ["contains it"] * 2
    assert verdicts.contains(ours, 1.5) == "above, by 0.50"
    assert verdicts.contains(ours, 2.5) == "below, by 0.50"
    signs = {ci95: [verdicts.order(measured.Estimate(1.0, ci95), sign) for sign in (0.1, -0.1)] for ci95 in (0.9, 1.0)}
    assert signs[0.9] == ["as in the paper", "not as in the paper"]
    assert signs[1.0] == ["no significant difference"] * 2
    single = measured.estimate([0.5])
    assert single.text() == "0.50"
    assert verdicts.order(single, 1) == "no significant difference"  # of one replica there is no interval


def glorot(errors: Mapping[tuple[str, str], float], saturated_at: int | None = None) -> results.Results:
    """Test errors in per cent. saturated_at: the step at which the last layer of sigmoids has a mean of 0.01."""
    found = sweep(
        *(
            run(
                {"activation": activation, "init": init, "optimizer.lr": lr},
                [1 - error / 100 - worse + more for more in SPREAD],
                hidden=5,
            )
            for (activation, init), error in errors.items()
            for lr, worse in (("0.1", 0.0), ("0.5", 0.1))
        )
    )
    table = found.replicas
    sigmoids = table["activation"] == "sigmoid"
    table.loc[sigmoids, "layer5/act_mean"] = 0.5
    table.loc[sigmoids & (table["step"] == saturated_at), "layer5/act_mean"] = 0.01
    return found


def test_glorots_section_reads_as_the_numbers_say() -> None:
    same = glorot2010.section(glorot(glorot2010.PUBLISHED, saturated_at=200))
    assert same.count("contains it") == 5
    assert "| `tanh` | `standard` | 0.1 (smallest tried) | 1.76 | 1.76 ± 0.50 | contains it |" in same
    assert "`sigmoid` from `standard` minus `tanh` from `standard`:** +0.45" in " ".join(same.split())
    assert " ".join(same.split()).count("here: as in the paper.") == 4
    assert "at 0.1 it is there by step 200 and leaves it by step 400" in " ".join(same.split())
    assert "stays there" in glorot2010.section(glorot(glorot2010.PUBLISHED, saturated_at=400))
    assert "Layer 1, with 36 % saturated units after training; the others have at most 29 %. As in" in " ".join(
        same.split()
    )
    other = " ".join(glorot2010.section(glorot(dict.fromkeys(glorot2010.PUBLISHED, 4.0))).split())
    assert "above, by 1.79" in other
    assert "contains it" not in other
    assert other.count("no significant difference.") == 4
    assert "at a rate of 0.1 it does not" in other
    swapped = {**glorot2010.PUBLISHED, ("sigmoid", "standard"): 0.5}
    assert " ".join(glorot2010.section(glorot(swapped)).split()).count("here: not as in the paper.") == 2


def he(kaiming: float, xavier: float, deeper: float = 0.1) -> results.Results:
    """deeper: accuracy of sixty layers, from either scheme."""
    return sweep(
        *(
            run({"model.depth": depth, "optimizer.lr": lr, "init": init}, [mean * share + more for more in SPREAD])
            for init, accuracy in (("kaiming", kaiming), ("xavier", xavier))
            for depth, mean in (("30", accuracy), ("60", deeper))
            for lr, share in (("0.01", 1.0), ("0.1", 0.2))
        )
    )


def test_hes_section_reads_as_the_numbers_say() -> None:
    made_up = he(0.9, 0.1)
    same = " ".join(he2015.section(made_up).split())
    assert "| 30 | `kaiming` | 0.01 | learns | 200 | 3 of 3 | 90.00 ± 0.50 |" in same
    assert same.count("As in the paper.") == 2
    assert "Do 30 layers learn from `xavier`?** Here no replica learned at any of 2 rates. As" in same
    assert "Do 60 layers learn from `xavier`?** Here no replica learned at any of 2 rates." in same
    other = " ".join(he2015.section(he(0.1, 0.5)).split())  # xavier: one replica below a half, and one at it
    assert "2 of 3 replicas learned at a rate of 0.01. Not as in the paper." in other
    assert other.count("Not as in the paper.") == 2
    made_up.replicas["train/loss"] = 2.3
    assert he2015.section(made_up).count("| never |") == 8


def chaos(
    multiple: float, around: float = edge_of_chaos.CRITICAL, activation: str = "Tanh", sigma_b: float = sqrt(0.05)
) -> results.Results:
    """Networks that learn up to this multiple of the depth scale, which is infinite at a gain of `around`."""
    phi, moved = theory.Phi("Tanh"), edge_of_chaos.CRITICAL / around
    found = sweep(
        *(
            run({"model.depth": str(depth), "init.weights.sigma_w": f"{sqrt(gain):.6f}"}, [0.9 if learns else 0.1] * 2)
            for depth in (5, 20, 80)
            for gain in (1.0, 1.5, 2.0, 3.0, 4.0)
            for learns in [depth <= multiple * theory.propagation(gain * moved, phi, 0.05).xi_c]
        )
    )
    for record in found.runs.values():
        record["config"]["activation"] = {"_target_": f"initlab.nn.activations.{activation}", "shift": 0, "scale": 1}
        record["config"]["init"]["weights"]["sigma_b"] = sigma_b
    return found


def test_the_edge_of_chaos_reads_as_the_numbers_say() -> None:
    same = " ".join(edge_of_chaos.section(chaos(6)).split())
    assert "| 80 | 1.5 to 2 | 1.5 to 2 |" in same
    assert "Those of 80 layers learned at sigma_w^2 = 1.5 to 2. The critical point is 1.761, inside" in same
    assert "right about 15 of 15 runs. Of 1, 2, 3, 4, 6, 8, 10 times xi_c, 6 is right about most, 15;" in same
    assert "it would be 6 xi_c if a network counted from 30 % on (15 of 15) and 6 xi_c" in same
    assert same.count("As in the paper.") == 2
    fewer = " ".join(edge_of_chaos.section(chaos(1)).split())
    assert "1 is right about most, 15;" in fewer
    assert fewer.endswith("Not as in the paper.")
    gap = chaos(6)
    gap.replicas.loc[gap.replicas["run"] == "model.depth=20,init.weights.sigma_w=1.224745", "val/accuracy"] = 0.1
    assert "| 20 | 1 to 4 | 1, 2, 3, 4 |" in edge_of_chaos.section(gap)
    moved = " ".join(edge_of_chaos.section(chaos(6, around=3.0)).split())
    assert "outside of this range. Not as in the paper." in moved
    assert "No run reaches a validation accuracy of 50 %." in edge_of_chaos.section(chaos(0))
    for other in (chaos(6, activation="Softsign"), chaos(6, sigma_b=0.3)):
        with pytest.raises(ValueError, match=r"expected tanh and sigma_b\^2 = 0\.05"):
            edge_of_chaos.section(other)


def fifty(**accuracies: float) -> results.Results:
    return sweep(
        *(
            run({"activation": "tanh", "init": init, "optimizer.lr": lr}, [accuracy - worse + more for more in SPREAD])
            for init, accuracy in accuracies.items()
            for lr, worse in (("0.01", 0.05), ("0.1", 0.0))
        )
    )


def test_the_section_on_fifty_layers_reads_as_the_numbers_say() -> None:
    text = " ".join(critical.section(fifty(critical=0.9, xavier=0.9, kaiming=0.8)).split())
    assert "| `tanh` | `critical` | 0.1 (largest tried) | 3 of 3 | 90.00 ± 0.50 | |" in text
    assert "not significantly different from `xavier` (+0.00 ± 0.00 points) and better than `kaiming`" in text
    assert "`critical` minus it" in critical.section(fifty(xavier=0.9))  # what one leaves out is not compared
    assert "worse than `kaiming`" in " ".join(critical.section(fifty(critical=0.8, xavier=0.8, kaiming=0.9)).split())


MADE_UP = {
    "glorot2010": lambda: glorot(glorot2010.PUBLISHED),
    "he2015": lambda: he(0.9, 0.1),
    "edge_of_chaos": lambda: chaos(6),
    "critical": lambda: fifty(critical=0.9, xavier=0.9, kaiming=0.8),
}


@pytest.mark.parametrize("name", papers.PAPERS)
def test_a_finished_sweep_becomes_a_section_and_a_figure(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Written from its folder, by the command: the rest of the page stays, and the figure has the same bytes again."""
    results.save(MADE_UP[name]()._replace(tensors={}), tmp_path)
    page, figure = tmp_path / "papers.md", tmp_path / "papers" / f"{name}.svg"
    page.write_text(f"before\n<!-- {name} -->\nold\n<!-- end of {name} -->\nafter\n", encoding="utf-8")
    words = [name, "--results", str(tmp_path), "--docs", str(tmp_path)]
    papers.main(words)
    text = page.read_text(encoding="utf-8")
    assert text.startswith(f"before\n<!-- {name} -->\nMeasured: ")
    assert text.endswith(f"\n<!-- end of {name} -->\nafter\n")
    assert "old" not in text
    assert text.split(" -->\n")[1].split("\n<!--")[0] in capsys.readouterr().out
    svg = figure.read_bytes()
    papers.main(words)
    assert figure.read_bytes() == svg
    assert b"NaN" not in svg
    assert max(map(len, text.splitlines())) <= 160


@pytest.mark.slow
def test_the_command_trains_a_preset_and_writes_its_section(project: Path) -> None:
    small = (
        "replicas=2",
        "model.width=5",
        "model.depth=2,3",
        "optimizer.lr=0.1",
        "stats.every=3",
        "trainer.max_epochs=1",
    )
    words = [sys.executable, "-m", "papers", "he2015", *small, "+trainer.limit_train_batches=5", "trainer=cpu"]
    done = command(words, project)
    said = "Measured: 4 runs of 2 replicas; hidden layers of 5 units; 1 epoch in batches of 64 images."
    assert said in done.stdout
    assert said in (project / "docs" / "papers.md").read_text(encoding="utf-8")
    assert (project / "docs" / "papers" / "he2015.svg").is_file()
    assert "Left out" not in done.stdout + done.stderr
    refused = command([*words, "model.depth=-1"], project, check=False)
    assert refused.returncode == 1
    assert "model.depth is -1; expected a whole number of at least 0" in refused.stderr


def test_what_cannot_be_used_is_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "papers.md").write_text("no marks\n", encoding="utf-8")
    words = ["he2015", "--results", str(tmp_path), "--docs", str(tmp_path)]
    with pytest.raises(SystemExit, match=r"holds no replicas\.csv"):
        papers.main(words)
    results.save(MADE_UP["edge_of_chaos"](), tmp_path)
    expected = r"the sweep varied init\.weights\.sigma_w, model\.depth; expected model\.depth, init, optimizer\.lr"
    with pytest.raises(SystemExit, match=expected):
        papers.main(words)
    results.save(MADE_UP["he2015"](), tmp_path)
    with pytest.raises(SystemExit, match="the page has no section between <!-- he2015 --> and <!-- end of he2015 -->"):
        papers.main(words)
    assert not (tmp_path / "papers").exists()
    with pytest.raises(SystemExit):
        papers.main([*words, "model.width=1000"])
    assert "--results takes a sweep that is finished" in capsys.readouterr().err


def test_the_page_has_every_section() -> None:
    page = (ROOT / "docs" / "papers.md").read_text(encoding="utf-8")
    for name in papers.PAPERS:
        assert pages.replaced(page, name, "new") != page
        assert f"python -m papers {name}\n" in page
        assert (ROOT / "docs" / "papers" / f"{name}.svg").is_file()


def test_a_number_keeps_its_unit_where_a_line_ends() -> None:
    for words in range(30):
        (lines,) = pages.bullets([f"{'five ' * words}at most 4 % of 12.34 ± 5.67 points, and {'five ' * 9}"])
        assert "4 %" in lines
        assert "12.34 ± 5.67" in lines
        assert max(map(len, lines.splitlines())) <= 120


def test_bands_end_where_the_interval_does() -> None:
    rows = run({"init": "a"}, [0.8, 0.9]).replicas
    (last,) = measured.curve(rows, "val/accuracy").query("step == 400").itertuples()
    assert (last.mean, last.ci95) == pytest.approx((0.85, 12.706 * 0.05), rel=1e-3)
    assert (last.low, last.high) == pytest.approx((last.mean - last.ci95, last.mean + last.ci95))
