"""Runs and sweeps that are ended before their time, or run out of room, go on and end as if nothing had been."""

import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import Train, command, environment, started, wait_for
from mlflow import MlflowClient
from mlflow.entities import Run
from omegaconf import OmegaConf

from initlab import atomic_files
from initlab.replay.compare import Row, compare
from initlab.sweep import config as configs
from initlab.tracking.recorded_run import read_run
from initlab.tracking.resume import find_resumable_run
from initlab.training.checkpoints import AtomicCheckpointIO

SHORT = ("trainer=cpu", "replicas=2", "trainer.max_epochs=3")
ADAM = (*SHORT, "optimizer=adam")  # whose state is more than weights


class Place:
    """A project with a run that nothing happened to."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.uri = folder, f"sqlite:///{folder}/mlflow.db"
        with started(*ADAM, cwd=folder) as process:
            wait_for("epoch 1/", process)
            begun = time.monotonic()
            assert process.wait(60) == 0
        self.seconds = time.monotonic() - begun  # from the first epoch's end to the end
        self.client = MlflowClient(self.uri)
        (run,) = self.runs()
        self.reference = read_run(self.uri, run.info.run_id)

    def runs(self, query: str = "") -> list[Run]:
        """The newest first."""
        return list(self.client.search_runs(["1"], query, max_results=1000))

    def differences(self, run_id: str) -> list[Row]:
        """What of a run, weights, metrics, points, replica table, is not what the undisturbed run has."""
        rows = compare(self.reference, read_run(self.uri, run_id))
        return [row for row in rows if row.differ]


@pytest.fixture(scope="module")
def place(project: Path) -> Place:
    return Place(project)


SIGNALS = {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: 130}


@pytest.mark.faults(
    "`kill -9`, SIGTERM, Ctrl-C at a random moment of a run, once or twice",
    "the same command with `resume=true`: weights, every point of every metric and the replica table to the bit those "
    "of a run that nothing happened to, in the same MLflow run",
)
def test_a_run_ended_at_any_moment_goes_on(place: Place, trial: int) -> None:
    chance = random.Random(trial)
    before = {run.info.run_id for run in place.runs()}
    words = ADAM
    for _ in range(1 + trial % 2):
        number = list(SIGNALS)[trial // 2 % 3]
        early = chance.random() >= 0.8  # in the seconds before it trains: imports, checks, the run's beginning
        with started(*words, cwd=place.folder, cold=early) as process:
            if early:
                time.sleep(chance.uniform(1, 8))
            else:
                wait_for("epoch", process)
                time.sleep(chance.uniform(0, place.seconds))
            process.send_signal(number)
            # Before our handlers are there the signal itself ends it; or it may have been done already.
            assert process.wait(60) in (SIGNALS[number], -number, 0)
        words = (*ADAM, "resume=true")
    if any(run.info.status != "FINISHED" for run in place.runs() if run.info.run_id not in before):
        command([sys.executable, "train.py", *words], place.folder)
    new = [run for run in place.runs() if run.info.run_id not in before]
    for run in new:
        assert run.info.status == "FINISHED"
        assert "end.reason" not in run.data.tags
        assert place.differences(run.info.run_id) == []
    # Twice done within the first try is two runs; ended before it was recorded, none.
    assert len(new) <= 1 + trial % 2


@pytest.mark.faults(
    "`kill -9` at a random moment of a sweep",
    "the same command with `resume=true`: finished jobs are left alone, the one that was ended goes on, the rest run; "
    "one parent, one report",
)
def test_a_sweep_ended_half_way_goes_on(place: Place, trial: int) -> None:
    chance = random.Random(trial)
    words = ("-m", "init=lecun,kaiming,normal", *ADAM)
    with started(*words, cwd=place.folder) as process:
        wait_for(chance.choice(["#1", "#2"]), process)
        time.sleep(chance.uniform(0, 0.5))  # less than the last job and the report after it take
        assert process.poll() is None
        process.kill()
        process.wait(60)
    done = {run.info.run_id: run.info.end_time for run in jobs(place, "FINISHED")}
    folder = Path(place.runs("tags.sweep != ''")[0].data.tags["sweep"])
    finished = [path for path in folder.glob("*/run.json") if '"FINISHED"' in path.read_text(encoding="utf-8")]
    assert 1 <= len(done) <= len(finished)  # a run that was ended between the two is finished on disk alone
    output = command([sys.executable, "train.py", *words, "resume=true"], place.folder).stdout
    assert "resuming the sweep in" in output
    assert output.count("has finished before: nothing to do") == len(finished)
    parent = place.runs("tags.sweep != ''")[0]
    children = jobs(place, "FINISHED")
    assert parent.info.status == "FINISHED"
    assert sorted(run.info.run_name.split(",")[0] for run in children) == ["init=kaiming", "init=lecun", "init=normal"]
    assert {run.info.run_id: run.info.end_time for run in children}.items() >= done.items()
    (kaiming,) = [run for run in children if run.info.run_name.startswith("init=kaiming")]
    assert place.differences(kaiming.info.run_id) == []
    assert (folder / "report" / "index.html").is_file()


def jobs(place: Place, status: str) -> list[Run]:
    """Of the newest sweep."""
    parent = place.runs("tags.sweep != ''")[0]
    found = place.runs(f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'")
    return [run for run in found if run.info.status == status]


@pytest.mark.slow
def test_a_folder_is_not_used_twice(place: Place, train: Train) -> None:
    """Neither a run's nor a sweep's: resume goes on in it, and only if the run is there and has not finished."""
    words = ("-m", "init=kaiming", *SHORT, "hydra.sweep.dir=multirun/mine", "hydra.callbacks.sweep.report=false")
    train(*words)
    done = train(*words, check=False)
    assert done.returncode == 1
    assert "multirun/mine holds an earlier run; name another folder" in done.stderr
    before = len(place.runs())
    shutil.rmtree(place.folder / "multirun" / "mine" / "0")
    train(*SHORT, "hydra.run.dir=multirun/mine/0", "resume=true")
    assert len(place.runs()) == before + 1  # a new one: that which had this folder has finished


@pytest.mark.slow
def test_resume_by_the_id_of_a_run(place: Place) -> None:
    """Only with the same command, and not what is going on or over."""
    words = (*SHORT, "seed=7")
    with started(*words, cwd=place.folder) as process:
        wait_for("epoch 1/", process)
        process.send_signal(signal.SIGSTOP)
        run = place.runs()[0]
        config = OmegaConf.to_container(OmegaConf.load(Path(run.data.tags["folder"]) / "config.yaml"))

        def resumable(config: dict) -> Path | None:
            return find_resumable_run(place.uri, "initlab", config, run.info.run_id)

        with pytest.raises(ValueError, match=f"run {run.info.run_id} is still running on this host"):
            resumable(config)
    with pytest.raises(ValueError, match="had another configuration: seed 7, here 8; resume needs the same command"):
        resumable(config | {"seed": 8})
    command([sys.executable, "train.py", *words, f"resume={run.info.run_id}"], place.folder)
    assert place.client.get_run(run.info.run_id).info.status == "FINISHED"
    with pytest.raises(ValueError, match=f"run {run.info.run_id} has finished; there is nothing to resume"):
        resumable(config)
    for resume in ("maybe", 1, None):
        with pytest.raises(ValueError, match=f"resume is {resume!r}; expected true, false, or the id of a run"):
            configs.is_resume(OmegaConf.create({"resume": resume}))


@pytest.mark.slow
def test_a_run_goes_on_with_other_code_if_allowed(project: Path, train: Train) -> None:
    words = (*SHORT, "seed=8", "hydra.run.dir=outputs/other")
    with started(*words, cwd=project) as process:
        wait_for("epoch 1/", process)
        process.kill()
    path = project / "outputs" / "other" / "provenance.json"
    found = json.loads(path.read_text(encoding="utf-8"))
    found["code"]["nn/mlp.py"] = "0" * 64
    path.write_text(json.dumps(found), encoding="utf-8")
    done = train(*words, "resume=true", check=False)
    assert done.returncode == 1
    assert re.search(
        r'began with other code \(code: nn/mlp.py: .*\); .* go on all the same with "allow=\[code\]"', done.stderr
    )
    done = train(*words, "resume=true", "allow=[code]")
    assert "going on although the run began with other code: nn/mlp.py: recorded 00000000, here" in done.stdout
    assert "recorded as run" in done.stdout


@pytest.mark.faults("`kill -9` while a checkpoint is written", "the checkpoint before it is there, whole")
def test_a_checkpoint_is_whole_whenever_its_writer_is_killed(tmp_path: Path, trial: int) -> None:
    """Of two that take turns, one is there: each is a number, a million times over."""
    code = (
        "import sys, torch; from pathlib import Path; from initlab.training.checkpoints import AtomicCheckpointIO\n"
        "io, number = AtomicCheckpointIO(), 0\n"
        "while True:\n"
        "    io.save_checkpoint({'weights': torch.full((1000, 1000), float(number))}, sys.argv[1])\n"
        "    number += 1; print(number, flush=True)\n"
    )
    path = tmp_path / "last.ckpt"
    writer = subprocess.Popen(
        [sys.executable, "-c", code, str(path)], env=environment(), stdout=subprocess.PIPE, encoding="utf-8"
    )
    assert writer.stdout is not None
    writer.stdout.readline()
    time.sleep(random.Random(trial).uniform(0, 0.5))
    writer.kill()
    written = int(["1", *writer.communicate()[0].split()][-1])
    weights = AtomicCheckpointIO().load_checkpoint(path)["weights"]
    assert torch.equal(weights, torch.full((1000, 1000), float(weights[0, 0])))
    assert weights[0, 0] in (written - 1, written)


@pytest.mark.slow
def test_a_torn_checkpoint_is_named(project: Path, train: Train) -> None:
    words = (*SHORT, "hydra.run.dir=outputs/torn")
    with started(*words, cwd=project) as process:
        wait_for("epoch 2/", process)  # and so the first one is kept
        process.kill()
    path = project / "outputs" / "torn" / "checkpoints" / "last.ckpt"
    path.write_bytes(path.read_bytes()[:-100])
    done = train(*words, "resume=true", check=False)
    assert done.returncode == 1
    assert re.search(r"last.ckpt is damaged .*; without it the run starts from the beginning", done.stderr)
    assert "Traceback" not in done.stderr


def test_a_checkpoint_runs_no_code(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple:
            return os.mkdir, (str(tmp_path / "made"),)

    torch.save({"weights": Evil()}, tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match=r"last.ckpt is damaged"):
        AtomicCheckpointIO().load_checkpoint(tmp_path / "last.ckpt")
    assert not (tmp_path / "made").exists()


def test_no_room_leaves_a_file_as_it_was(tmp_path: Path) -> None:
    """Here a limit on the size of files, which every system has, stands for a disk that is full."""
    path = tmp_path / "file"
    atomic_files.write(path, b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            atomic_files.write(path, b"new" * 1000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == b"old"
    assert [item.name for item in tmp_path.iterdir()] == ["file"]


def test_a_line_that_was_not_written_to_its_end_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    atomic_files.append(path, "one\ntwo\n")
    with path.open("a", encoding="utf-8") as file:
        file.write("thr")
    assert atomic_files.complete_lines(path) == ["one", "two"]
    atomic_files.append(path, "three\n")
    assert path.read_text(encoding="utf-8") == "one\ntwo\nthree\n"


CAN_MOUNT = (
    shutil.which("unshare") is not None
    and not subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"],
        capture_output=True,
    ).returncode
)


@pytest.mark.skipif(not CAN_MOUNT, reason="no small file system can be mounted here")
@pytest.mark.faults(
    "the disk is full while a run goes on",
    "the run ends FAILED within an epoch, naming the file; what was recorded is there; with room again, `resume=true`",
)
def test_a_full_disk(place: Place) -> None:
    """The run's folder is on a file system of 2.5 MB: room for its two checkpoints of 1 MB, but not for the next."""
    folder = place.folder / "outputs" / "small"
    folder.mkdir(parents=True)
    kept = place.folder / "kept"
    words = f"{sys.executable} train.py {' '.join(ADAM)} hydra.run.dir={folder}"
    script = f"mount -t tmpfs -o size=2500k tmpfs {folder} && {words}; code=$?; cp -r {folder} {kept}; exit $code"
    done = command(["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script], place.folder, check=False)
    assert done.returncode == 1
    assert f"No space left on device: '{folder}/checkpoints/best.ckpt'" in done.stderr
    assert "to continue from its last checkpoint: the same train.py command, with resume=true" in done.stdout
    assert "Traceback" not in done.stderr
    run = place.runs()[0]
    assert run.info.status == "FAILED"
    assert run.data.tags["end.reason"].startswith("OSError: [Errno 28] No space left on device")
    shutil.copytree(kept, folder, dirs_exist_ok=True)
    command([sys.executable, "train.py", *ADAM, "resume=true"], place.folder)
    assert place.client.get_run(run.info.run_id).info.status == "FINISHED"
    assert place.differences(run.info.run_id) == []


# Bitwise


def test_bits_do_not_depend_on_cores(place: Place, train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nine replicas are three groups: on one core, on two, and on more than there are."""
    runs = []
    for cores in ("1", "2", "3"):
        monkeypatch.setenv("OMP_NUM_THREADS", cores)
        train(*ADAM, "replicas=9", "trainer.max_epochs=1")
        runs.append(read_run(place.uri, place.runs()[0].info.run_id))
    for run in runs[1:]:
        assert [row for row in compare(runs[0], run) if row.differ] == []


@pytest.mark.slow
def test_bits_do_not_depend_on_other_jobs(place: Place, train: Train) -> None:
    """One before it in the same process, with more replicas. Other launchers: test_launchers.py."""
    train("-m", *ADAM, "replicas=3,2", "hydra.callbacks.sweep.report=false")
    found = jobs(place, "FINISHED")
    assert len(found) == 2
    (same,) = [run for run in found if run.data.params["replicas"] == "2"]
    assert place.differences(same.info.run_id) == []
