"""What the pages say works as they say it."""

import doctest
import inspect
import re
import shutil
import sys
from pathlib import Path
from pkgutil import resolve_name
from textwrap import indent

import pytest
import torch
import yaml
from conftest import ROOT, command, warm_path
from helpers.pages import NOTEBOOK, PAGES, blocks, read, shell_blocks
from helpers.projects import small_clone
from hydra import compose, initialize_config_dir
from mlflow import MlflowClient
from omegaconf import OmegaConf

from initlab.nn import init, layer_stats
from initlab.training.build import build

# Why blocks are not run here; a new reason is added to this list on purpose.
NOT_RUN = {
    "it installs packages",
    "it clones the project and installs packages",
    "it serves until it is stopped",
    "it downloads data",
    "it asks the package registry",
    "it takes about ten minutes",
    "it takes half an hour or more",
    "it needs Docker",
    "it needs several GPUs",
    "it needs the results of dvc repro",
    "it needs Slurm",
    "it needs a Ray cluster",
    "FOLDER and OTHER_FOLDER stand for two sweeps",
    "SAME OVERRIDES stands for what was typed before",
    "tests/data/test_other_data_sets.py runs it",
    "tests/docs/test_notebook.py runs it",
    "tests/pipeline/test_dvc.py runs it",
    "tests/reproduction/test_reproduce.py runs it",
    "tests/tracking/test_servers.py runs it",
}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small project with a finished sweep of two variants."""
    clone = small_clone(tmp_path_factory.mktemp("small"))
    command([sys.executable, "train.py", "-m", "init=kaiming,pytorch", "experiment=smoke"], clone)
    return clone


@pytest.mark.docs
@pytest.mark.parametrize("page", [page for page in PAGES if any(block.reason is None for block in shell_blocks(page))])
def test_shell_blocks_run(page: str, small: Path, tmp_path: Path) -> None:
    """One after the other, as they stand, in a copy of the small project.

    RUN_ID is the id of the newest run that finished there, and SWEEP_ID that of the newest sweep.
    """
    project = shutil.copytree(small, tmp_path / "project", symlinks=True)
    client = MlflowClient(f"sqlite:///{project}/mlflow.db")
    for block in shell_blocks(page):
        if block.reason is None:
            runs = client.search_runs(["1"], "attributes.status = 'FINISHED'")
            sweeps = [run.info.run_id for run in runs if "sweep" in run.data.tags]
            jobs = [run.info.run_id for run in runs if "sweep" not in run.data.tags]
            text = block.text.replace("SWEEP_ID", sweeps[0]).replace("RUN_ID", jobs[0])
            command(["env", f"PATH={warm_path()}", "bash", "-ec", text], project)


def test_blocks_that_are_not_run_say_why() -> None:
    reasons = {block.reason for page in PAGES for block in shell_blocks(page) if block.reason is not None}
    assert reasons <= NOT_RUN


@pytest.mark.docs
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "pycon")])
def test_what_is_typed_prints_what_the_page_says(page: str, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All `>>>` of a page as one session, in the project's root; what lies outside of its blocks is no output."""
    inside, lines = False, []
    for line in (ROOT / page).read_text(encoding="utf-8").splitlines():
        fence = line.startswith("```")
        inside = line == "```pycon" if fence else inside
        lines.append(line if inside and not fence else "")  # line numbers stay
    monkeypatch.chdir(project)
    session = doctest.DocTestParser().get_doctest("\n".join(lines), {}, page, page, 0)
    said: list[str] = []
    assert doctest.DocTestRunner().run(session, out=said.append).failed == 0, "".join(said)


def test_quoted_code_is_the_codes() -> None:
    """A block of docs/maths.md names a function in its first line; the others are in that function, as they stand."""
    for block in blocks("docs/maths.md", "python"):
        name, code = re.fullmatch(r"# ([\w.]+)\n(.*)", block, re.DOTALL).groups()
        source = inspect.getsource(resolve_name(f"initlab.{name}"))
        assert any(indent(code, " " * depth) in source for depth in (4, 8, 12, 16)), f"{name} has no\n{code}"


def test_links_within_the_pages_lead_somewhere() -> None:
    """To a file that is there, and to one of its headings."""
    for page in [*PAGES, NOTEBOOK]:
        for link in re.findall(r"\]\((?!https?://)([^)]+)\)", read(page)):
            name, _, heading = link.partition("#")
            target = (ROOT / page).parent / name if name else ROOT / page
            assert target.exists(), f"{page}: {link}"
            headings = re.findall(r"^#+ (.*)", target.read_text(encoding="utf-8"), re.MULTILINE) if heading else []
            anchors = [re.sub(r"[^\w -]", "", words.lower()).replace(" ", "-") for words in headings]
            assert not heading or heading in anchors, f"{page}: {link}"


def test_ci_installs_as_the_readme_says() -> None:
    lines = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    for command_line in ("pip install -c constraints.txt -e .", "dvc repro"):
        assert command_line in "\n".join(blocks("README.md", "sh")).splitlines()
        assert command_line in lines


def test_commands_are_quoted_for_every_shell() -> None:
    """cmd, in which DVC runs stages on Windows, has no single quotes; PowerShell makes lists of words with commas."""
    for line in (ROOT / "dvc.yaml").read_text(encoding="utf-8").splitlines():
        assert "'" not in line.partition("cmd:")[2]
    for page in ("README.md", "docs/quickstart.md", "docs/troubleshooting.md"):
        for line in "\n".join(block.text for block in shell_blocks(page)).splitlines():
            assert not line.endswith("\\"), line
            assert "&&" not in line, line
            if line.startswith("python train.py"):
                assert "," not in re.sub('"[^"]*"', "", line), line


def test_ci_runs_everything_on_linux_and_a_sweep_elsewhere() -> None:
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))["jobs"]
    lines = {name: [step["run"] for step in job["steps"] if "run" in step] for name, job in jobs.items()}
    assert "bash .ci/run" in lines["linux"]
    assert jobs["smoke"]["strategy"]["matrix"]["os"] == ["macos-latest", "windows-latest"]
    assert "pip install -c constraints.txt -e ." in lines["smoke"]
    assert "dvc repro normalize" in lines["smoke"]
    (words,) = [line.split()[3:] for line in lines["smoke"] if line.startswith("python train.py -m ")]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        assert compose("config", [word.strip('"').split(",")[0] for word in words]).trainer.max_epochs == 1


def test_every_variant_has_its_row() -> None:
    rows = re.findall(r"^\| `(\w+)` \|", (ROOT / "docs" / "variants.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(rows) == sorted(path.stem for path in (ROOT / "conf" / "init").glob("*.yaml"))


def test_every_activation_is_in_both_pages() -> None:
    names = {path.stem for path in (ROOT / "conf" / "activation").glob("*.yaml")}
    rows = re.findall(
        r"^\| ((?:`\w+`,? ?)+)\| .* \| .* \|$", (ROOT / "docs" / "maths.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert names <= {name for row in rows for name in re.findall(r"\w+", row)}
    text = (ROOT / "docs" / "variants.md").read_text(encoding="utf-8")
    assert names <= set(re.findall(r"`(\w+)`", text.partition("## Another activation")[2].partition("\n## ")[0]))


def test_a_new_variant_as_the_page_adds_it(tmp_path: Path, normalized: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file as it stands makes a network; the class as it stands, pasted into init.py, draws."""
    (text,) = blocks("docs/variants.md", "yaml")
    (tmp_path / "init").mkdir()
    (tmp_path / "init" / "half.yaml").write_text(text, encoding="utf-8")
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose(
            "config", [f"data.folder={normalized}", "trainer=cpu", f"hydra.searchpath=[{tmp_path}]", "init=half"]
        )
    network = build(config, tmp_path).network
    assert network.scheme.variance(50, 784) == 0.5 / 784

    (code,) = blocks("docs/variants.md", "python")
    monkeypatch.setattr(sys.modules["initlab.nn.init"], "Laplace", None, raising=False)
    exec(code, vars(init))
    weights, _ = init.draw(vars(init)["Laplace"](), [784, 500], replicas=1, seed=0)
    # Of Laplace draws the kurtosis is 6: the standard error of their variance is sqrt(5 / n) of it.
    assert abs(weights[0].square().mean().item() / (2 / 784) - 1) < 4 * (5 / weights[0].numel()) ** 0.5


def test_the_readmes_commands_compose() -> None:
    """Every `python train.py ...` line of the README, without -m and with the first of each sweep's values."""
    lines = re.findall(
        r"^python train\.py (?:-m )?(.*?)(?:\s+#.*)?$", "\n".join(blocks("README.md", "sh")), re.MULTILINE
    )
    assert len(lines) >= 3
    for line in lines:
        overrides = [word.strip("\"'").replace("glob(*)", "kaiming").split(",")[0] for word in line.split()]
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            assert OmegaConf.is_dict(compose("config", overrides))


def test_a_new_statistic_as_the_page_adds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an orthogonal matrix times g, every singular value is g."""
    (code,) = blocks("docs/statistics.md", "python")
    monkeypatch.setattr(layer_stats, "ALL_LAYERS", dict(layer_stats.ALL_LAYERS))
    exec(code, vars(layer_stats))
    (W,), _ = init.draw(init.Orthogonal(gain=1.5), [784, 50], replicas=2, seed=0)
    z = torch.ones(2, 50, 3)
    found = layer_stats.measure([layer_stats.LayerTensors(z, z, z, W, W, z > 0)])["layer1/spectral_norm"]
    torch.testing.assert_close(found, torch.tensor([1.5, 1.5]), rtol=1e-5, atol=0)  # float32
