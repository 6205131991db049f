"""What docs/dvc.md and docs/data.md say, done: each command as it stands, in a clone whose data are few and made up."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import requests
from conftest import ROOT, command, environment, fresh_clone
from helpers.mirror import Quiet, server
from helpers.pages import blocks
from helpers.projects import commit, damage, dvc, edit, git, make_files, set_source, small_clone
from helpers.servers import LIMIT, free_port
from mlflow import MlflowClient
from omegaconf import OmegaConf

(BACK,) = [block for block in blocks("docs/dvc.md", "sh") if block.startswith("git checkout")]
pytestmark = pytest.mark.docs

ELEVEN = OmegaConf.load(ROOT / "params.yaml").init
COMMANDS = {"dvc": "\n".join(blocks("docs/dvc.md", "sh")), "data": blocks("docs/data.md", "sh")[-1]}


def run(folder: Path, start: str) -> str:
    """Runs the command of docs/dvc.md that starts so, as a person would type it; gives what it prints."""
    (line,) = re.findall(rf"^{re.escape(start)}.*", COMMANDS["dvc"], re.MULTILINE)
    return shell(folder, line)


def shell(folder: Path, text: str) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return command(["env", f"PATH={path}", "sh", "-ec", text], folder).stdout


def contents(folder: Path) -> dict[Path, bytes]:
    """Of all files but README.md, which DVC leaves alone."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "README.md"]
    return {path.relative_to(folder): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All variants are trained, and committed."""
    made = small_clone(tmp_path_factory.mktemp("clone"))
    dvc(made, "repro")
    commit(made)
    return made


@pytest.fixture(scope="module")
def committed(clone: Path) -> dict[str, float]:
    """Metrics of the last commit, of Kaiming's deep networks. DVC has them in its cache, and git only their hash."""
    file = clone / "report" / "metrics" / "init=kaiming,model=deep.json"
    assert git(clone, "ls-files", str(file)) == ""
    return json.loads(file.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def pair(clone: Path, committed: dict[str, float]) -> Path:
    """The clone, after the page's experiment of two variants."""
    output = run(clone, "dvc exp run -n pair")
    assert output.count("Running stage") == 3  # train, reproduce, report
    return clone


def test_an_experiment_trains_what_it_names(pair: Path) -> None:
    metrics = {path.stem for path in (pair / "report" / "metrics").iterdir()}
    assert metrics == {"init=kaiming,model=deep", "init=pytorch,model=deep"}
    runs = json.loads((pair / "results" / "runs.json").read_text(encoding="utf-8"))
    assert {run["config"]["replicas"] for run in runs.values()} == {16}
    changed = json.loads(dvc(pair, "params", "diff", "--json"))
    assert changed == {
        "params.yaml": {
            "init": {"old": ELEVEN, "new": "kaiming,pytorch"},
            "model": {"old": "shallow,deep", "new": "deep"},
        },
        "conf/config.yaml": {"replicas": {"old": 8, "new": 16, "diff": 8}},
    }


def test_the_table_of_experiments(pair: Path) -> None:
    table = run(pair, "dvc exp show").splitlines()
    header, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in table if line)
    metrics = [f"report/metrics/init={variant},model=deep.json:test/accuracy" for variant in ("kaiming", "pytorch")]
    assert header == ["Experiment", "Created", *metrics, "replicas", "init", "model"]
    (row,) = (row for row in rows if "[pair]" in row[0])
    assert all(0 < float(accuracy) < 1 for accuracy in row[2:4])
    assert row[-3:] == ["16", "kaiming,pytorch", "deep"]


def test_comparisons_with_the_last_commit(pair: Path, committed: dict[str, float]) -> None:
    shown = run(pair, "dvc metrics show").splitlines()
    assert [line.split()[0] for line in shown] == [
        "Path",
        "report/metrics/init=kaiming,model=deep.json",
        "report/metrics/init=pytorch,model=deep.json",
        "report/reproduction.json",
    ]
    for name in ("test/accuracy", "test/accuracy.ci95", "train/loss", "val/loss.ci95"):
        assert name in shown[0].split()
    (line,) = re.findall(r"^.*kaiming,model=deep.json +test/accuracy  .*$", run(pair, "dvc metrics diff"), re.M)
    old, new, change = map(float, line.split()[2:])
    assert old == pytest.approx(committed["test/accuracy"], abs=1e-5)
    assert change == pytest.approx(new - old, abs=1e-5)
    assert re.search(r"conf/config.yaml +replicas +8 +16", run(pair, "dvc params diff"))
    for what, revisions in (("show", {"workspace"}), ("diff", {"HEAD", "workspace"})):
        address = run(pair, f"dvc plots {what}").strip()
        page = Path(address.removeprefix("file://")).read_text(encoding="utf-8")
        assert page.count("vega-lite/v5.json") == 3
        assert set(re.findall(r'"rev": "(\w+)"', page)) == revisions
    assert git(pair, "status", "--porcelain", "dvc_plots") == ""


def test_there_and_back(pair: Path) -> None:
    """From an experiment to the last commit, and the other way."""
    commit(pair)
    made = contents(pair / "report"), contents(pair / "results")
    (pair / "report" / "metrics" / "init=normal,model=deep.json").write_text(
        "{}", encoding="utf-8"
    )  # as another experiment leaves it
    (pair / "results" / "replicas.csv").unlink()
    shell(pair, BACK)
    assert (contents(pair / "report"), contents(pair / "results")) == made
    assert git(pair, "status", "--porcelain") == ""
    branch = git(pair, "branch", "--show-current").strip()
    git(pair, "checkout", "--quiet", "HEAD~1")
    dvc(pair, "exp", "apply", "pair")
    assert (contents(pair / "report"), contents(pair / "results")) == made
    git(pair, "checkout", "--quiet", "--force", branch)
    assert "Data and pipelines are up to date" in dvc(pair, "status")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("init=kaimming", "Could not find 'init/kaimming'"),
        ("conf/config.yaml:replica=2", "Key 'replica' is not in struct"),
        ("init=kaiming,pytorch", "Sweep overrides can't be used without `--queue`"),
        ("conf/activation/relu.yaml:leek=0.1", "Key 'leek' is not in struct"),
    ],
)
def test_settings_that_are_refused(setting: str, message: str, pair: Path) -> None:
    done = command([sys.executable, "-m", "dvc", "exp", "run", "-S", setting], pair, check=False)
    shell(pair, BACK)
    assert done.returncode != 0
    assert message in done.stderr


# Remotes


def pulled(clone: Path, folder: Path) -> None:
    """Another clone, which lacks even mirror/, pulls, and has all that was made; nothing is left to do."""
    commit(clone)
    git(clone.parent, "clone", "--quiet", str(clone), str(folder))
    shutil.rmtree(folder / "mirror")
    run(folder, "dvc pull")
    for name in ("data/raw", "data/normalized", "results", "report"):
        assert contents(folder / name) == contents(clone / name) != {}
    assert "Data and pipelines are up to date" in dvc(folder, "repro", "--pull")


def test_a_folder_as_remote(pair: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(COMMANDS, "dvc", COMMANDS["dvc"].replace("/mnt/storage/initlab", str(tmp_path / "storage")))
    run(pair, "dvc remote add -d storage")
    assert re.search(r"\d+ files pushed", shell(pair, "dvc push"))
    pulled(pair, tmp_path / "clone")


@pytest.fixture
def s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of an S3 server on 127.0.0.1 with an empty bucket, `initlab`; and keys in the environment."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "me")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    words = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with (tmp_path / "moto.log").open("w", encoding="utf-8") as log:
        process = subprocess.Popen(words, env=environment(), stdout=log, stderr=log)
    try:
        wait_until_it_listens(process, tmp_path / "moto.log")
        requests.put(f"{address}/initlab", timeout=LIMIT).raise_for_status()
        yield address
    finally:
        process.kill()
        process.wait()


def wait_until_it_listens(process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + LIMIT
    while "Running on" not in log.read_text(encoding="utf-8"):
        if process.poll() is not None or time.monotonic() > end:
            raise RuntimeError(log.read_text(encoding="utf-8"))
        time.sleep(0.05)


def test_s3_as_remote(pair: Path, s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(COMMANDS, "dvc", COMMANDS["dvc"].replace("http://127.0.0.1:9000", s3))
    run(pair, "dvc remote add -d s3")
    run(pair, "dvc remote modify s3")
    assert re.search(r"\d+ files pushed", shell(pair, "dvc push"))
    pulled(pair, tmp_path / "clone")


# Another data set


def test_fashion_mnist_as_the_page_adds_it(tmp_path: Path) -> None:
    """Its files are made up here, and come from a server on loopback."""
    clone = fresh_clone(tmp_path / "clone")
    made = make_files(tmp_path / "served", train=1200, test=300, seed=1)
    described, config = (clone / f"conf/data/{name}fashion_mnist.yaml" for name in ("source/", ""))
    (pin,) = re.findall(r"`(pin: \S+)`", (ROOT / "docs" / "data.md").read_text(encoding="utf-8"))
    edit(config, "pin: null", pin)
    edit(config, "validation: 10000", "validation: 200")
    with server(partial(Quiet, directory=str(tmp_path / "served"))) as mirror:
        set_source(described, mirror, made)
        output = shell(clone, COMMANDS["data"])
    assert re.search(r"fashion_mnist: .* 10 classes\n +train +1000 x 784", output)
    assert "recorded as run" in output
    commit(clone)

    pin = OmegaConf.load(clone / "data" / "fashion_mnist_raw.dvc").outs[0].md5
    client = MlflowClient(f"sqlite:///{clone}/mlflow.db")
    (run,) = client.search_runs(["1"])
    assert run.data.tags["data.md5"] == pin
    (data,) = run.inputs.dataset_inputs
    assert (data.dataset.name, json.loads(data.dataset.source)) == (
        "fashion_mnist",
        {"uri": "data/fashion_mnist_raw.dvc"},
    )
    assert run.data.metrics["test/accuracy"] > 0.2  # better than guessing

    file = clone / "data" / "fashion_mnist_raw" / "t10k-labels-idx1-ubyte.gz"
    whole = file.read_bytes()
    damage(file)
    words = "data normalize data/fashion_mnist_raw data conf/data/fashion_mnist.yaml"
    done = command(["initlab", *words.split()], clone, check=False)
    (advice,) = re.findall(r"data/fashion_mnist_raw.dvc pins \w+.dir: .* get them back with: (.*)", done.stderr)
    shell(clone, advice)
    assert file.read_bytes() == whole
    assert "Data and pipelines are up to date" in dvc(clone, "status", "normalize_fashion_mnist")
