"""Processes: the signals that end this one, and whether another one is still alive."""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from types import FrameType

import psutil

from initlab.machine_id import machine_id

SIGNALS = "SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK"  # the last is for Windows, which has no SIGHUP
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")  # another one each time that Linux starts
CONTAINER = "container"  # stands for the machine
PROC_PID_INIT_INO = 0xEFFFFFFC  # Linux's number of the first namespace of process ids: no container's

_signal: int | None = None


@contextmanager
def exit_on_signals() -> Iterator[None]:
    """Within the context, SIGINT, SIGTERM and SIGHUP raise SystemExit with the shell's exit code, 128 + n.

    Lightning would turn SIGINT into exit code 1, and SIGTERM into 0, which reads as success.
    """
    global _signal
    _signal = None  # joblib's workers outlive a signal that ended one of their jobs
    with _handled_by(_leave):
        try:
            yield
        except SystemExit:
            if _signal is not None:  # Ray changes the code
                raise SystemExit(128 + _signal) from None
            raise


def restore_sigterm() -> None:
    """Within `exit_on_signals`, restores its handler of SIGTERM if Lightning has replaced it."""
    if signal.getsignal(signal.SIGINT) is _leave:
        signal.signal(signal.SIGTERM, _leave)


def _leave(number: int, _: FrameType | None) -> None:
    global _signal
    _signal = number
    raise SystemExit(128 + number)


@contextmanager
def leave_at_once_on_signals() -> Iterator[None]:
    """Within the context, the same signals end the process immediately: for imports, before any work has begun.

    An exception raised by a handler during an import may be swallowed, or abort the process in compiled code.
    """
    with _handled_by(lambda number, _: os._exit(128 + number)):
        yield


@contextmanager
def _handled_by(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread can handle signals
        return
    known = [getattr(signal, name) for name in SIGNALS if hasattr(signal, name)]
    numbers = [number for number in known if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def ended_by() -> str | None:
    """Returns the name of the signal that is ending this process, such as SIGTERM, or None."""
    return None if _signal is None else signal.Signals(_signal).name


@cache
def leave_with_parent(grace: float) -> None:
    """Ends this process once its parent has ended: with SIGTERM, and after `grace` seconds with SIGKILL.

    A process that waits for other processes would otherwise wait for a long time.
    """
    parent = psutil.Process().parent()  # also on Windows, where an orphan keeps its parent's id
    starter = multiprocessing.parent_process()  # not the parent, if a fork server is: it outlives the starter

    def watch() -> None:
        if starter is not None and starter.sentinel is not None:  # joblib's processes have none
            starter.join()
        else:
            while psutil.Process().parent() == parent:
                time.sleep(1)
        _send_sigterm()
        time.sleep(grace)
        psutil.Process().kill()  # joblib takes the handler's exception for the job's result and continues

    threading.Thread(target=watch, daemon=True).start()


def _send_sigterm() -> None:
    """Sends SIGTERM to this process. On Windows, os.kill would end it immediately, without calling the handler."""
    if sys.platform == "win32":
        signal.raise_signal(signal.SIGTERM)
    else:
        os.kill(os.getpid(), signal.SIGTERM)  # which also interrupts a main thread that waits


def end_children(grace: float) -> None:
    """Ends all descendants of this process: with SIGTERM, and after `grace` seconds with SIGKILL; on Windows at once.

    SIGTERM is sent only to the leaves of the process tree, which do the work. Their parents exit once the leaves have
    exited; if signalled as well, they would signal the leaves a second time. Python's resource trackers and fork
    servers get no signal: they exit with this process.
    """
    parents = {child: _parent(child) for child in psutil.Process().children(recursive=True)}
    children = [child for child, parent in parents.items() if parent is not None]
    for child in children:
        if child.pid not in parents.values():
            with suppress(psutil.NoSuchProcess):
                child.terminate()
    for child in psutil.wait_procs(children, timeout=grace)[1]:
        with suppress(psutil.NoSuchProcess):
            child.kill()


def _parent(process: psutil.Process) -> int | None:
    """Returns the id of a process's parent; None for a resource tracker or fork server, or if the process is gone."""
    try:
        command, parent = " ".join(process.cmdline()), process.ppid()
    except psutil.Error:
        return None
    is_server = "forkserver" in command and parent == os.getpid()  # what it forks has the same command
    return None if "resource_tracker" in command or is_server else parent


def is_forced_by_dvc() -> bool:
    """Returns whether `dvc repro` or `dvc exp run` runs this process, with --force."""
    for process in psutil.Process().parents():
        with suppress(psutil.Error):
            words = process.cmdline()
            if any(Path(word).stem == "dvc" for word in words[:3]) and {"-f", "--force"} & {*words}:
                return True
    return False


def user() -> str:
    """Returns the user who runs this process: the name, or the number if there is none, as in some containers."""
    return psutil.Process().username()


def owner() -> str:
    """Returns what identifies this process to `is_gone`: machine and process table, process id, start time."""
    return f"{_machine()}/{_process_table()} {os.getpid()} {_start_time(os.getpid())}"


def is_gone(owner: str) -> bool:
    """Returns whether the process that `owner` identifies has ended. False on another host, where it can't be known."""
    place, number, started = owner.split() if owner.count(" ") == 2 else ("", "", "")
    machine, _, table = place.partition("/")
    if table != _process_table():
        return machine == _machine() != CONTAINER  # the machine has been started again since
    try:
        process = psutil.Process(int(number))
        return _start_time(process.pid) != started or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def is_alive(owner: str) -> bool:
    """Returns whether the process that `owner` identifies is on this host and has not ended."""
    return owner.partition(" ")[0].partition("/")[2] == _process_table() and not is_gone(owner)


def _machine() -> str:
    """Returns the machine, or `container`: a container does not outlive a start of its machine."""
    return CONTAINER if _pid_namespace() != PROC_PID_INIT_INO else machine_id()


@cache
def _process_table() -> str:
    """Returns what process ids belong to: on Linux a start of a machine and a namespace, elsewhere a machine.

    A start has an id that no other start of any machine has, whatever machines are called.
    """
    if not BOOT_ID.exists():
        return machine_id()
    return f"{BOOT_ID.read_text(encoding='utf-8').strip()}/{_pid_namespace()}"


def _pid_namespace() -> int:
    """Returns the namespace of process ids: each container has its own."""
    namespace = Path("/proc/self/ns/pid")
    return namespace.stat().st_ino if namespace.exists() else PROC_PID_INIT_INO


def _start_time(number: int) -> str:
    """Returns when a process started: on Linux in ticks since boot, which no change of the clock affects.

    Process ids are used again, so this tells two processes apart. Raises psutil.NoSuchProcess.
    """
    try:
        return Path(f"/proc/{number}/stat").read_bytes().rpartition(b")")[2].split()[19].decode()
    except (FileNotFoundError, ProcessLookupError):
        return f"{psutil.Process(number).create_time():.0f}"
