"""`initlab theory`: its numbers, that it needs neither torch nor data, and its refusals."""

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, environment

from initlab.cli import main
from initlab.theory_table import describe


@pytest.fixture(autouse=True)
def in_the_project(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def test_the_numbers_of_kaiming() -> None:
    """q = 2, E[phi] = 1/sqrt(pi) = 0.564, std sqrt(1 - 1/pi) = 0.826, cosine 1/pi = 0.318 of uncorrelated images."""
    lines = describe(["init=kaiming", "model=deep"]).splitlines()
    assert lines[5].split() == ["1", "50", "1.414", "0.5642", "0.8256", "50.0", "%", "0.318", "1.000"]
    assert lines[13].split() == ["9", "10", "1.414", "0", "1.414"]
    assert "sigma_w^2 = 2, sigma_b^2 = 0" in lines[15]
    assert [line.split()[:2] for line in lines[16:]] == [
        ["q*", "any"],
        ["xi_q", "-"],
        ["chi_1", "1"],
        ["c*", "1"],
        ["xi_c", "inf"],
    ]


def test_the_edge_of_chaos_of_tanh() -> None:
    """Schoenholz et al. (2017): sigma_w^2 of about 1.76 at sigma_b^2 = 0.05, where xi_c is infinite."""
    text = describe(["init=critical", "activation=tanh", "init.weights.sigma_b=0.22360679775"])
    assert "sigma_w^2 = 1.761, sigma_b^2 = 0.05" in text
    assert text.splitlines()[-1].split()[:2] == ["xi_c", "inf"]


def test_weights_whose_mean_is_not_zero() -> None:
    assert describe(["init=constant"]).endswith("Theory is of weights with mean zero: it says nothing about these.")
    assert describe(["init=zeros"]).endswith("Every pre-activation is 0, whatever the image.")


def test_inputs_are_those_of_the_data_if_they_are_here(tmp_path: Path) -> None:
    (tmp_path / "facts.json").write_text('{"inputs": 64, "classes": 26}', encoding="utf-8")
    assert "64-50-26;" in describe([f"data.folder={tmp_path}"])
    assert "784-50-10;" in describe(["data.folder=nowhere"])
    assert "784-50-1;" in describe(["data.folder=nowhere", "loss=mse"])


def test_it_is_at_hand_without_torch() -> None:
    """Nor what else takes seconds to import. Of all it does, half a second is the start of Python and Hydra."""
    code = (
        "import sys\nfrom initlab.cli import main\nmain(['theory', 'init=critical', 'activation=selu'])\n"
        "print({'torch', 'mlflow', 'pandas', 'pytorch_lightning'} & sys.modules.keys())"
    )
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, env=environment(), capture_output=True, encoding="utf-8", timeout=60, check=True)
    assert done.stdout.startswith("Gaussian(sigma_w=0.69")
    assert done.stdout.endswith("set()\n")
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("word", "message"),
    [
        (
            "activation=swish",
            "Could not find 'activation/swish' Available options in 'activation': elu",
        ),
        ("activation.scale=0", "scale is 0; expected a positive number"),
        ("+activation.leek=1", "leak, leek: ReLU has no such constant"),
        ("init.weights.gain=-2", "gain is -2; expected a positive number"),
        ("init.weights.gian=2", "Could not override 'init.weights.gian'"),
        ("init.weights=null", "init.weights is None; expected initlab.nn.init.Scheme"),
        ("model.hidden=5", "model.hidden is 5; expected a list of widths"),
        ("model.hidden=[0]", "width is 0; expected a whole number of at least 1"),
        ("init=kaiming,lecun", "Ambiguous value for argument 'init=kaiming,lecun'"),
    ],
)
def test_a_refusal_is_one_line(word: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["theory", word]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"error: {message}") or f": {message}" in printed.err
    assert printed.err.count("\n") == 1


def test_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["theory"]) == 1
    assert capsys.readouterr().err.endswith("conf holds no config.yaml; type this in the project's folder\n")
