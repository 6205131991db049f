"""Sweeps whose jobs run elsewhere: the record is the serial launcher's, whatever happens to a job, worker or node."""

import os
import secrets
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from conftest import ROOT, command, environment, fresh_clone, started, until
from helpers import slurm
from helpers.servers import free_port
from mlflow import MlflowClient
from mlflow.entities import Run

pytestmark = pytest.mark.engines

QUIET = "hydra.callbacks.sweep.report=false"
JOBS = ("-m", "init=kaiming,pytorch,normal", "trainer=cpu", "replicas=2", "trainer.max_epochs=6", QUIET)
LONG = ("-m", "init=kaiming,normal", "trainer=cpu", "replicas=2", "trainer.max_epochs=500", QUIET)


class Sweep:
    """A sweep as the store has it. folder: where it is."""

    def __init__(self, folder: Path) -> None:
        client = MlflowClient(f"sqlite:///{folder.parents[1]}/mlflow.db")
        (self.parent,) = client.search_runs(["1"], f'tags.sweep = "{folder}"')
        self.jobs: dict[str, Run] = {}
        for run in client.search_runs(["1"], f"tags.`mlflow.parentRunId` = '{self.parent.info.run_id}'"):
            assert run.info.run_name not in self.jobs, "twice"
            self.jobs[run.info.run_name] = run

    def statuses(self) -> dict[str, str]:
        return {"sweep": self.parent.info.status} | {name: run.info.status for name, run in self.jobs.items()}

    def tags(self, name: str) -> dict[str, str | None]:
        return {job: run.data.tags.get(name) for job, run in self.jobs.items()}


def blocked(project: Path, name: str) -> tuple[Path, str]:
    """A sweep's folder, in which the second job will fail, and the word that names it."""
    folder = project / "multirun" / name
    (folder / "1").mkdir(parents=True)
    (folder / "1" / "checkpoints").symlink_to("nowhere/at/all")
    return folder, f"hydra.sweep.dir=multirun/{name}"


@pytest.fixture(scope="module")
def serial(project: Path) -> Sweep:
    """Hydra's own launcher: one job after the other, the second of which fails."""
    folder, where = blocked(project, "serial")
    assert command([sys.executable, "train.py", *JOBS, where], project, check=False).returncode == 1
    return Sweep(folder)


def assert_same(found: Sweep, serial: Sweep) -> None:
    """Names, parents, ends, points and bits; and nothing there twice."""
    assert found.statuses() == serial.statuses()
    assert serial.statuses() == {
        "sweep": "FAILED",
        "init=kaiming": "FINISHED",
        "init=pytorch": "FAILED",
        "init=normal": "FINISHED",
    }
    assert found.tags("weights.sha256") == serial.tags("weights.sha256")
    assert found.tags("config.sha256") == serial.tags("config.sha256")
    assert found.parent.data.tags["end.reason"] == serial.parent.data.tags["end.reason"] == "a job failed"
    for name, run in found.jobs.items():
        reason, other = (job.data.tags.get("end.reason", "") for job in (run, serial.jobs[name]))
        assert reason.partition("multirun")[0] == other.partition("multirun")[0]
        assert run.data.metrics == serial.jobs[name].data.metrics
        assert run.data.params == serial.jobs[name].data.params


def began(folder: Path, *numbers: int) -> bool:
    """Whether these jobs have done an epoch, and go on."""
    done = [folder / str(number) / "checkpoints" / "last.ckpt" for number in numbers]
    return all(path.exists() for path in done)


def number_of(run: Run) -> int:
    """Of the process that is, or was, at it."""
    return int(run.data.tags["owner"].split()[1])


@pytest.mark.faults(
    "Slurm takes the machine of a job (submitit's signal), while it trains",
    "the job is queued again and goes on from its last checkpoint: the same run, the same bits",
)
def test_submitit(serial: Sweep, project: Path) -> None:
    """On this machine, where submitit itself starts the job again; a real Slurm is tried below."""
    folder, where = blocked(project, "submitit")
    with started(*JOBS, where, "hydra/launcher=submitit_local", cwd=project) as process:
        until(lambda: began(folder, 2), process)
        os.kill(number_of(Sweep(folder).jobs["init=normal"]), signal.SIGUSR2)
        output = process.communicate(timeout=120)[0]
        assert process.returncode == 1
    assert "going on with epoch" in (folder / "2" / "train.log").read_text(encoding="utf-8")
    assert_same(Sweep(folder), serial)
    ends = [line for line in output.splitlines() if " of 3  init=" in line]
    assert any("init=kaiming  test/accuracy 9" in line for line in ends)
    assert any("init=pytorch  FAILED: " in line for line in ends)
    assert ends[-1].startswith("3 of 3")


@pytest.mark.skipif(slurm.MISSING != [], reason=f"no Slurm here: {', '.join(slurm.MISSING)}")
@pytest.mark.faults(
    "Slurm queues a job again that was training",
    "the job goes on from its last checkpoint: the same run, the same bits",
)
def test_slurm(serial: Sweep, project: Path, tmp_path: Path) -> None:
    """A real one, of one machine."""
    folder, where = blocked(project, "slurm")
    with (
        slurm.slurm(tmp_path) as settings,
        started(*JOBS, where, "hydra/launcher=submitit_slurm", cwd=project, **settings) as process,
    ):
        until(lambda: began(folder, 2), process)
        (job,) = [path.name for path in (folder / ".submitit").glob("*_2")]
        subprocess.run(["scontrol", "requeue", job], env=environment() | settings, check=True)
        output = process.communicate(timeout=200)[0]
        assert process.returncode == 1, output
    assert "going on with epoch" in (folder / "2" / "train.log").read_text(encoding="utf-8")
    assert_same(Sweep(folder), serial)


@pytest.mark.faults(
    "`kill -9` of a worker of joblib",
    "the sweep ends, FAILED, and no job reads RUNNING; the same command with `resume=true` ends it, losing nothing",
)
def test_joblib_loses_a_worker(serial: Sweep, project: Path) -> None:
    folder, where = blocked(project, "joblib")
    words = (*JOBS, where, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    with started(*words, cwd=project) as process:
        until(lambda: began(folder, 0), process)
        worker = psutil.Process(number_of(Sweep(folder).jobs["init=kaiming"]))
        assert worker.environ()["OMP_NUM_THREADS"] == "1"
        worker.kill()
        output = process.communicate(timeout=60)[0]
        assert process.returncode == 1
        assert "A worker process managed by the executor was unexpectedly terminated" in output
    found = Sweep(folder)
    assert found.statuses()["sweep"] == "FAILED"
    assert found.statuses()["init=kaiming"] == "KILLED"
    assert "RUNNING" not in found.statuses().values()
    done = command([sys.executable, "train.py", *words, "resume=true"], project, check=False)
    assert done.returncode == 1  # of the second job
    assert_same(Sweep(folder), serial)


@pytest.mark.faults(
    "SIGTERM, or `kill -9`, to a sweep whose jobs run in processes of joblib",
    "its jobs are KILLED with it, and none of its processes is left",
)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_of_a_sweep_that_is_ended(number: signal.Signals, project: Path) -> None:
    folder = project / "multirun" / number.name
    words = (*LONG, f"hydra.sweep.dir={folder}", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    with started(*words, cwd=project) as process:
        until(lambda: began(folder, 0, 1), process)
        family = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(number)
        assert process.wait(60) in (143, -signal.SIGKILL)
    assert psutil.wait_procs(family, timeout=20)[1] == []
    found = Sweep(folder)
    sweep = found.statuses().pop("sweep")
    assert sweep == ("KILLED" if number == signal.SIGTERM else "RUNNING")  # until the next start
    assert set(found.tags("end.reason").values()) == {"SIGTERM"}
    assert {run.info.status for run in found.jobs.values()} == {"KILLED"}


@pytest.mark.parametrize("launcher", ["basic", "joblib", "submitit_local"])
def test_a_project_whose_name_has_quotes(launcher: str, normalized: Path, tmp_path: Path) -> None:
    """A sweep whose second job fails; then the rest of it."""
    project = tmp_path / 'Teacher\'s "files"'
    project.mkdir()
    fresh_clone(project)
    (project / "data" / "normalized").mkdir(parents=True)
    (project / "data" / "normalized" / "mnist").symlink_to(normalized)
    folder, where = blocked(project, "quoted")
    words = [sys.executable, "train.py", "-m", "init=kaiming,normal", "experiment=smoke", "trainer=cpu", where]
    words += [f"hydra/launcher={launcher}"]
    assert command([*words, QUIET], project, check=False).returncode == 1
    (folder / "1" / "checkpoints").unlink()
    done = command([*words, "resume=true"], project)
    assert f"resuming the sweep in {folder}" in done.stdout
    runs = MlflowClient(f"sqlite:///{project}/mlflow.db").search_runs(["1"])
    assert [run.info.status for run in runs] == ["FINISHED"] * 3
    assert (folder / "report" / "index.html").is_file()


@contextmanager
def cluster() -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A Ray cluster of two nodes, on this machine, a core each: its address, and the one that is not the head."""
    address = f"127.0.0.1:{free_port()}"
    folder = Path("/tmp", f"ray-{secrets.token_hex(4)}")  # the names of sockets may have some hundred characters
    words = [str(Path(sys.executable).parent / "ray"), "start", "--block", "--num-cpus=1", "--disable-usage-stats"]
    head = [
        *words,
        "--head",
        f"--port={address.partition(':')[2]}",
        "--include-dashboard=false",
        f"--temp-dir={folder}",
    ]
    nodes: list[subprocess.Popen[bytes]] = []
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    folder.mkdir()
    try:
        for node in ([*head, f"--temp-dir={folder}"], [*words, f"--address={address}"]):
            log = folder / f"{len(nodes)}.log"
            with log.open("w", encoding="utf-8") as output:
                # From another folder: on a cluster nobody knows where a worker begins.
                nodes.append(subprocess.Popen(node, cwd=folder, env=environment(), stdout=output, stderr=output))
            end = time.monotonic() + 120
            while "Ray runtime started" not in log.read_text(encoding="utf-8"):
                if nodes[-1].poll() is not None or time.monotonic() > end:
                    pytest.fail(log.read_text(encoding="utf-8"))
                time.sleep(0.1)
        yield address, nodes[1]
    finally:
        for started_node in nodes:
            kill_group(started_node)
        shutil.rmtree(folder)
        del os.environ["RAY_AUTH_MODE"], os.environ["RAY_AUTH_TOKEN"]


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """What began with it too, at once: as if the machine had lost its power."""
    for child in psutil.Process(process.pid).children(recursive=True) if process.poll() is None else ():
        child.kill()
    process.kill()
    process.wait()


@pytest.mark.faults(
    "a node of a Ray cluster dies while jobs run on it",
    "Ray starts them again on another node, where they go on from their last checkpoint: the same runs, the same bits",
)
def test_ray_loses_a_node(serial: Sweep, project: Path) -> None:
    folder, where = blocked(project, "ray")
    words = (*JOBS, where, "hydra/launcher=ray")
    with cluster() as (address, node), started(*words, cwd=project, RAY_ADDRESS=address) as process:

        def is_at_work() -> bool:
            """Whether a job on this node has done an epoch, and goes on."""
            there = {child.pid for child in psutil.Process(node.pid).children(recursive=True)}
            kept = [path.parents[1] for path in folder.glob("*/checkpoints/last.ckpt")]
            jobs = Sweep(folder).jobs.values() if kept else ()
            return any(number_of(job) in there and Path(job.data.tags["folder"]) in kept for job in jobs)

        until(is_at_work, process)
        kill_group(node)
        output = process.communicate(timeout=120)[0]
        assert process.returncode == 1
    assert "so the task will be retried" in output
    logs = [path.read_text(encoding="utf-8") for path in folder.glob("*/train.log")]
    assert sum("going on with epoch" in log for log in logs) == 1
    assert_same(Sweep(folder), serial)


def test_what_is_not_there_is_told_in_one_line(project: Path, tmp_path: Path) -> None:
    """Packages, Slurm, a Ray cluster: before anything is written."""

    def refused(launcher: str, *options: str, **settings: str) -> str:
        done = subprocess.run(
            [sys.executable, *options, "train.py", *LONG, f"hydra/launcher={launcher}", "hydra.sweep.dir=refused"],
            cwd=project,
            env=environment() | settings,
            capture_output=True,
            encoding="utf-8",
        )
        assert done.returncode == 1
        assert not (project / "refused").exists()
        return done.stderr

    site = Path(sysconfig.get_path("purelib"))
    for item in site.iterdir():
        if item.name != "hydra_plugins":
            (tmp_path / item.name).symlink_to(item)
    for launcher, extra in {"joblib": "joblib", "ray": "ray", "submitit_slurm": "submitit"}.items():
        assert refused(launcher, "-S", PYTHONPATH=f"{tmp_path}:{ROOT / 'src'}") == (
            f"error: hydra/launcher={launcher} needs packages that are not installed: "
            f'pip install -c constraints.txt -e ".[{extra}]"\n'
        )
    assert refused("submitit_slurm", PATH=str(tmp_path)) == (
        "error: hydra/launcher=submitit_slurm: no sbatch here; start it where Slurm's jobs are submitted\n"
    )
    assert refused("ray", RAY_ADDRESS="127.0.0.1:1") == (
        "error: no Ray cluster answers at 127.0.0.1:1: Connection refused\n"
    )
