"""What the pages say works as they say it."""

import doctest
import importlib
import inspect
import re
import shlex
import sys
from functools import reduce
from pathlib import Path
from textwrap import indent

import pytest
import torch
from conftest import ROOT, command
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from initlab.nn import init, layer_stats
from initlab.training.build import build


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)


PAGES = sorted(str(path.relative_to(ROOT)) for path in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "pycon")])
def test_what_is_typed_prints_what_the_page_says(page: str, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All `>>>` of a page as one session, in the project's root; what lies outside of its blocks is no output."""
    inside, lines = False, []
    for line in (ROOT / page).read_text().splitlines():
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
        package, module, *path = name.split(".")
        source = inspect.getsource(reduce(getattr, path, importlib.import_module(f"initlab.{package}.{module}")))
        assert any(indent(code, " " * depth) in source for depth in (4, 8, 12, 16)), f"{name} has no\n{code}"


def test_links_within_the_pages_lead_somewhere() -> None:
    """To a file that is there, and to one of its headings."""
    for page in PAGES:
        for link in re.findall(r"\]\((?!https?://)([^)]+)\)", (ROOT / page).read_text()):
            name, _, heading = link.partition("#")
            target = (ROOT / page).parent / name if name else ROOT / page
            assert target.exists(), f"{page}: {link}"
            headings = re.findall(r"^#+ (.*)", target.read_text(), re.MULTILINE) if heading else []
            anchors = [re.sub(r"[^\w -]", "", words.lower()).replace(" ", "-") for words in headings]
            assert not heading or heading in anchors, f"{page}: {link}"


def test_ci_runs_the_readmes_two_commands() -> None:
    first, second = (block.strip() for block in blocks("README.md", "sh")[:2])
    assert first.endswith("dvc repro")
    assert second.endswith("pytest")
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    assert first in lines
    assert second in lines


def test_every_variant_has_its_row() -> None:
    rows = re.findall(r"^\| `(\w+)` \|", (ROOT / "docs" / "variants.md").read_text(), re.MULTILINE)
    assert sorted(rows) == sorted(path.stem for path in (ROOT / "conf" / "init").glob("*.yaml"))


def test_a_new_variant_as_the_page_adds_it(tmp_path: Path, normalized: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file as it stands makes a network; the class as it stands, pasted into init.py, draws."""
    (text,) = blocks("docs/variants.md", "yaml")
    (tmp_path / "init").mkdir()
    (tmp_path / "init" / "half.yaml").write_text(text)
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
        overrides = [word.strip("'").replace("glob(*)", "kaiming").split(",")[0] for word in line.split()]
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            assert OmegaConf.is_dict(compose("config", overrides))


def test_a_new_statistic_as_the_page_adds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an orthogonal matrix times g, every singular value is g."""
    (code,) = blocks("docs/statistics.md", "python")
    monkeypatch.setattr(layer_stats, "ALL_LAYERS", dict(layer_stats.ALL_LAYERS))
    exec(code, vars(layer_stats))
    (W,), _ = init.draw(init.Orthogonal(gain=1.5), [784, 50], replicas=2, seed=0)
    z = torch.ones(2, 50, 3)
    found = layer_stats.measure([layer_stats.LayerTensors(z, z, z, W, W)])["layer1/spectral_norm"]
    torch.testing.assert_close(found, torch.tensor([1.5, 1.5]), rtol=1e-5, atol=0)  # float32


def test_the_quickstarts_commands_do_what_it_says(project: Path) -> None:
    """Those that train, as they stand; its table reads as the page has it."""
    lines = "\n".join(blocks("docs/quickstart.md", "sh")).splitlines()
    commands = [shlex.split(line, comments=True) for line in lines if line.startswith("python train.py")]
    assert len(commands) == 4
    printed = [command([sys.executable, *words[1:]], project).stdout for words in commands]
    table = printed[1][printed[1].index("variant ") :].splitlines()
    assert [line.split()[0] for line in table[1:4]] == ["kaiming", "pytorch", "normal"]
    assert "4 of 4 diverged" in table[3]
    assert re.search(r"^report: .*index.html$", printed[1], re.MULTILINE)
