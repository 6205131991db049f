"""Which processes are gone, seen from this machine and from others; how a process ends with its parent."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from conftest import environment

from initlab import machine_id, processes

PRINT_OWNER = "from initlab import processes; print(processes.owner(), flush=True); input()"


@pytest.fixture
def other() -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A living process, and its owner tag."""
    words = [sys.executable, "-c", PRINT_OWNER]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(words, env=environment(), encoding="utf-8", **pipes) as process:
        yield process, process.stdout.readline().strip()
        process.kill()


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """What identifies this machine may be changed; what was found out about it is forgotten before and after."""
    found_out = machine_id.machine_id, processes._process_table
    for cached in found_out:
        cached.cache_clear()
    yield monkeypatch
    for cached in found_out:
        cached.cache_clear()


def restart(patch: pytest.MonkeyPatch, folder: Path) -> None:
    """Makes the machine one that has been started again, which may be another machine too."""
    boot_id = folder / "boot_id"
    boot_id.write_text("another\n", encoding="utf-8")
    patch.setattr(processes, "BOOT_ID", boot_id)


def test_a_process_is_gone_when_it_has_ended(other: tuple[subprocess.Popen[str], str]) -> None:
    process, owner = other
    assert processes.is_alive(owner)
    assert not processes.is_gone(owner)
    process.kill()
    process.wait()
    assert processes.is_gone(owner)
    assert not processes.is_alive(owner)


def test_a_zombie_is_gone(other: tuple[subprocess.Popen[str], str]) -> None:
    process, owner = other
    process.kill()
    while psutil.Process(process.pid).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    assert processes.is_gone(owner)


def test_an_id_that_is_used_again_is_another_process() -> None:
    place, number, started = processes.owner().split()
    assert not processes.is_gone(f"{place} {number} {started}")
    assert processes.is_gone(f"{place} {number} {started}1")


def test_a_host_whose_name_changes_finds_its_killed_runs(
    other: tuple[subprocess.Popen[str], str], elsewhere: pytest.MonkeyPatch
) -> None:
    process, owner = other
    elsewhere.setattr("socket.gethostname", lambda: "another.network")
    elsewhere.setattr("platform.node", lambda: "another.network")
    assert processes.is_alive(owner)
    process.kill()
    process.wait()
    assert processes.is_gone(owner)


def test_a_machine_that_was_started_again_finds_its_killed_runs(elsewhere: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = processes.owner()
    restart(elsewhere, tmp_path)
    processes._process_table.cache_clear()
    assert processes.is_gone(before)
    assert not processes.is_alive(before)


@pytest.mark.parametrize("differs", ["the id of the installation", "the network card", "the host's name"])
def test_machines_that_have_much_in_common_leave_each_others_runs_alone(
    differs: str, elsewhere: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Virtual machines are copies of each other, and are called the same; so may process ids and start times be."""
    ours = processes.owner()
    restart(elsewhere, tmp_path)
    if differs == "the id of the installation":
        (tmp_path / "machine-id").write_text("0123456789abcdef0123456789abcdef\n", encoding="utf-8")
        elsewhere.setattr(machine_id, "MACHINE_IDS", [tmp_path / "machine-id"])
    elif differs == "the network card":
        elsewhere.setattr("uuid.getnode", lambda: 0x001122334455)
    else:
        elsewhere.setattr("platform.node", lambda: "node2")
    for cached in (machine_id.machine_id, processes._process_table):
        cached.cache_clear()
    assert not processes.is_gone(ours)
    assert not processes.is_alive(ours)


def test_containers_leave_each_others_runs_alone(elsewhere: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Of one machine or of two: ids of processes and even of namespaces may be the same, and so may be the image."""
    elsewhere.setattr(processes, "_pid_namespace", lambda: 4026532000)
    ours = processes.owner()
    assert processes.is_alive(ours)
    processes._process_table.cache_clear()
    elsewhere.setattr(processes, "_pid_namespace", lambda: 4026532001)
    assert not processes.is_gone(ours)
    assert not processes.is_alive(ours)
    processes._process_table.cache_clear()
    elsewhere.setattr(processes, "_pid_namespace", lambda: 4026532000)
    restart(elsewhere, tmp_path)
    assert not processes.is_gone(ours)
    assert not processes.is_alive(ours)


@pytest.mark.parametrize("tag", ["", "ubuntu/4026531836 1 boot/123", "nonsense", "a b c d"])
def test_what_other_versions_wrote_is_of_another_host(tag: str) -> None:
    assert not processes.is_gone(tag)
    assert not processes.is_alive(tag)


@pytest.mark.parametrize("system", ["linux", "darwin", "win32"])
def test_the_id_of_a_machine_is_a_hash(system: str, elsewhere: pytest.MonkeyPatch) -> None:
    """On macOS of the hardware's id alone, as the host's name changes with the network."""
    secret = "A1B2C3D4-0000-1111-2222-333344445555"
    elsewhere.setattr(sys, "platform", system)
    elsewhere.setattr(machine_id, "_hardware_uuid", lambda: secret)
    elsewhere.setattr(machine_id, "_registry_guid", lambda: secret)
    found = machine_id.machine_id()
    assert len(found) == 16
    assert secret not in found
    machine_id.machine_id.cache_clear()
    elsewhere.setattr("platform.node", lambda: "another.network")
    assert (machine_id.machine_id() == found) is (system == "darwin")


def test_ioregs_output_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """As macOS prints it."""
    text = '    "IOPlatformUUID" = "A1B2C3D4-0000-1111-2222-333344445555"\n    "IOPolledInterface" = "none"\n'
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 0, text))
    assert machine_id._hardware_uuid() == "A1B2C3D4-0000-1111-2222-333344445555"


ORPHAN = """
import os, signal, sys, time
from initlab import processes
signal.signal(signal.SIGTERM, lambda *_: os.write(1, b"SIGTERM\\n"))  # print may be at work on "ready" still
processes.leave_with_parent(grace=0.2)
print("ready", flush=True)
while True:
    time.sleep(0.01)
"""
PARENT = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', sys.argv[1]]); time.sleep(60)"


@pytest.mark.parametrize("system", ["", "import os; number = os.getppid(); os.getppid = lambda: number"])
def test_a_process_ends_with_its_parent(system: str) -> None:
    """It gets SIGTERM, and is killed if it goes on. Its output ends when it has ended.

    On Windows, the number of its parent stays the same.
    """
    words = [sys.executable, "-c", PARENT, system + ORPHAN]
    with subprocess.Popen(words, env=environment(), stdout=subprocess.PIPE, encoding="utf-8") as parent:
        assert parent.stdout.readline() == "ready\n"
        parent.kill()
        assert parent.stdout.read() == "SIGTERM\n"


def test_sigterm_calls_the_handler_on_windows_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """There, os.kill with SIGTERM ends a process at once."""
    got: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: got.append(number))
    try:
        monkeypatch.setattr(sys, "platform", "win32")
        monkeypatch.delattr(os, "kill")
        processes._send_sigterm()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert got == [signal.SIGTERM]


def test_signals_that_a_system_lacks_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows has no SIGHUP."""
    monkeypatch.delattr(signal, "SIGHUP")
    with processes.exit_on_signals():
        assert signal.getsignal(signal.SIGTERM) is processes._leave
