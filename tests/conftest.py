"""What the tests stand on: the real MNIST, normalised once a session, and the project as a stranger clones it."""

import os

# Two trainings at once, each with a thread a core, would wait for each other most of the time.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Processes that this one starts, xdist's workers among them, warn where the encoding of a text is left to the system.
os.environ.setdefault("PYTHONWARNDEFAULTENCODING", "1")

import atexit
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest
from helpers import warm
from hypothesis import HealthCheck, settings

from initlab.data.normalize import write_normalized

ROOT = Path(__file__).parents[1]

# What tests need. Without --all, or -m, those that need any of it are left out.
MARKERS = {
    "slow": "takes long, or is one of many of its kind",
    "engines": "needs joblib, Ray, Slurm or Optuna",
    "servers": "starts MLflow, PostgreSQL or S3 servers",
    "browser": "looks at pages in Chromium",
    "faults": "(what, then, cost=1, quick=False): kills, fills and damages things; `python tests/reliability.py` makes "
    "a table of them all. quick: it takes no time, and is never left out",
    "docs": "runs what the pages say",
}

# Examples made up by hypothesis: the same each time, or, with --hypothesis-profile=long, twenty times as many new ones.
SHARED = HealthCheck.function_scoped_fixture  # monkeypatch: what it does to one example is undone before the next
settings.register_profile("repeatable", derandomize=True, deadline=None, suppress_health_check=[SHARED])
settings.register_profile("long", settings.get_profile("repeatable"), derandomize=False, max_examples=2_000)
settings.load_profile("repeatable")

Train = Callable[..., subprocess.CompletedProcess[str]]
Started = subprocess.Popen[str] | warm.Process


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all", action="store_true", help="run all tests: needs the extra `dev`, Chromium and Slurm")
    parser.addoption("--times", type=int, default=1, help="how often faults at random moments are tried")


def pytest_configure(config: pytest.Config) -> None:
    for name, text in MARKERS.items():
        config.addinivalue_line("markers", f"{name}{text}" if text.startswith("(") else f"{name}: {text}")


def runs_all(config: pytest.Config) -> bool:
    return bool(config.getoption("all") or config.getoption("markexpr"))


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """A file that is left out as a whole is not imported: what it imports may not be installed."""
    if runs_all(config) or not collection_path.match("test_*.py"):
        return None
    text = collection_path.read_text(encoding="utf-8")
    return bool(re.search(rf"^pytestmark = pytest\.mark\.({'|'.join(MARKERS)})\b", text, re.MULTILINE)) or None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that takes `trial`, the number of its try, is run --times times, or less often if one try costs more."""
    if "trial" in metafunc.fixturenames:
        marker = metafunc.definition.get_closest_marker("faults")
        tries = metafunc.config.getoption("times") // marker.kwargs.get("cost", 1)
        metafunc.parametrize("trial", range(max(tries, 1)))


# Files in this order: no worker is to be left with much to do when the others are done.
LONGEST = (
    *("launchers", "batched", "resume", "pages", "train", "pipeline", "dvc", "store", "ddp", "fuzz", "servers", "ui"),
    *("report", "replay", "search", "benchmarks", "notebook", "model"),
)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    places = {f"test_{name}": place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))
    if not runs_all(config):
        config.hook.pytest_deselected(items=[item for item in items if is_left_out(item)])
        items[:] = [item for item in items if not is_left_out(item)]


def is_left_out(item: pytest.Item) -> bool:
    return any(not marker.kwargs.get("quick", False) for marker in item.iter_markers() if marker.name in MARKERS)


@pytest.fixture
def thorough(request: pytest.FixtureRequest) -> bool:
    """Whether faults are tried often, and so may take long."""
    return request.config.getoption("times") > 1


@pytest.fixture(scope="session")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The four files, without the README that lies beside them in mirror/."""
    folder = tmp_path_factory.mktemp("raw")
    for file in (ROOT / "mirror").glob("*.gz"):
        shutil.copy(file, folder)
    return folder


@pytest.fixture(scope="session")
def normalized(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """data/normalized/mnist, made by the code under test."""
    folder = tmp_path_factory.mktemp("normalized") / "mnist"
    write_normalized(raw, folder, validation=10_000, scale=256)
    return folder


def fresh_clone(folder: Path) -> Path:
    """The project as git would clone it, with the working tree's changes, committed; neither data nor results."""
    names = _git(ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")
    for name in filter(None, names):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    _git(folder, "init", "--quiet")
    _git(folder, "add", "--all")
    _git(folder, "-c", "user.name=a", "-c", "user.email=a@example.org", "commit", "--quiet", "--message=all")
    return folder


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, normalized: Path) -> Path:
    """A clone, and the normalised data in its place: where `train.py` can run and leave what it leaves."""
    folder = fresh_clone(tmp_path_factory.mktemp("project"))
    (folder / "data" / "normalized").mkdir(parents=True)
    (folder / "data" / "normalized" / "mnist").symlink_to(normalized)
    return folder


@pytest.fixture
def train(project: Path) -> Train:
    """Runs `python train.py ...` in the project, on the CPU, and gives what it printed."""

    def run(*arguments: str, check: bool = True, cwd: Path = project) -> subprocess.CompletedProcess[str]:
        return command([sys.executable, "train.py", *arguments], cwd, check=check)

    return run


def command(words: Sequence[str], cwd: Path, *, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Runs a command as a person would, without pytest's or a tracker's settings; shows its output if it fails.

    `python train.py` and `initlab` start with their imports done, where that makes no difference: see helpers/warm.py.
    """
    after_python = list(words[1:] if words[0] == sys.executable else words)
    if warm.is_warm(after_python, environment()):
        with (
            tempfile.TemporaryFile("w+", encoding="utf-8") as stdout,
            tempfile.TemporaryFile("w+", encoding="utf-8") as stderr,
        ):
            output = [stdout.fileno(), stderr.fileno()]
            code = warm.Process(warm_server(), after_python, cwd, environment(), output).wait(600)
            printed = [file.seek(0) or file.read() for file in (stdout, stderr)]
        done = subprocess.CompletedProcess(words, code, *printed)
    else:
        done = subprocess.run(words, cwd=cwd, env=environment(), capture_output=True, encoding="utf-8", timeout=600)
    if check and done.returncode:
        pytest.fail(f"{' '.join(words)} exited {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done


@cache
def warm_server() -> Path:
    """The socket of a server that starts commands warm, one in each of pytest's processes."""
    folder = Path(tempfile.mkdtemp(prefix="initlab-"))
    words = [sys.executable, warm.__file__, str(folder / "socket")]
    warnings = {"PYTHONWARNDEFAULTENCODING": "1", "PYTHONWARNINGS": "ignore::EncodingWarning"}
    server = subprocess.Popen(words, env=environment() | warnings, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert server.stdout is not None
    server.stdout.readline()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    atexit.register(server.communicate)
    atexit.register(server.kill)
    return folder / "socket"


def warm_path() -> str:
    """A PATH on which `python train.py` and `initlab` start warm, for commands that a shell runs."""
    folder = warm_server().parent
    for name, words in (("python", ""), ("initlab", "initlab ")):
        text = f'#!/bin/sh\nexec {sys.executable} {warm.__file__} {folder}/socket {words}"$@"\n'
        (folder / name).write_text(text, encoding="utf-8")
        (folder / name).chmod(0o755)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


@contextmanager
def started(*words: str, cwd: Path, cold: bool = False, **settings: str) -> Iterator[Started]:
    """`python train.py ...`, going on; settings: further environment variables. At the end it is killed.

    cold: whether it has its imports before it.
    """
    arguments, variables = ["train.py", *words], environment() | settings
    if warm.is_warm(arguments, variables) and not cold:
        ours, theirs = os.pipe()
        stdout = os.fdopen(ours, encoding="utf-8")
        process: Started = warm.Process(warm_server(), arguments, cwd, variables, [theirs, theirs], stdout)
        os.close(theirs)
    else:
        process = subprocess.Popen(
            [sys.executable, "-u", *arguments],
            cwd=cwd,
            env=variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
        )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_for(text: str, process: Started) -> str:
    """Reads what a process prints up to the first line with this text; fails the test if it ends without one."""
    lines = []
    assert process.stdout is not None
    for line in process.stdout:
        lines.append(line)
        if text in line:
            return "".join(lines)
    pytest.fail(f"no {text!r} in\n{''.join(lines)}")


def until(true: Callable[[], object], process: Started) -> None:
    """Waits for something, which is to be before the process ends."""
    end = time.monotonic() + 120
    while not true():
        if process.poll() is not None or time.monotonic() > end:
            pytest.fail(f"not there:\n{process.communicate()[0]}")
        time.sleep(0.05)


def on_a_terminal(words: Sequence[str], cwd: Path) -> str:
    """What a terminal shows of `python train.py ...`."""
    import pty  # not on Windows
    import termios

    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    process = warm.Process(warm_server(), ["train.py", *words], cwd, environment(), [theirs, theirs])
    os.close(theirs)
    shown = b""
    try:
        while piece := os.read(ours, 4096):
            shown += piece
    except OSError:  # Linux says so when the other side is closed
        pass
    os.close(ours)
    assert process.wait(60) == 0
    return shown.decode()


def environment() -> dict[str, str]:
    tools = ("MLFLOW_", "HYDRA_", "PYTEST_", "PYTHONWARN")
    return {key: value for key, value in os.environ.items() if not key.startswith(tools)}


def _git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, encoding="utf-8").stdout
