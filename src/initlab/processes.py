"""Processes: the signals that end this one, and whether another one is still alive."""

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from types import FrameType

import psutil

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
    known = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
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
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(grace)
        os.kill(os.getpid(), signal.SIGKILL)  # joblib takes the handler's exception for the job's result and continues

    threading.Thread(target=watch, daemon=True).start()


def end_children(grace: float) -> None:
    """Ends all descendants of this process: with SIGTERM, and after `grace` seconds with SIGKILL.

    SIGTERM is sent only to the leaves of the process tree, which do the work. Their parents exit once the leaves have
    exited; if signalled as well, they would signal the leaves a second time. Python's resource trackers get no signal:
    they clean up, and exit with this process.
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
    """Returns the id of a process's parent; None for a resource tracker, or if the process is gone."""
    try:
        return None if "resource_tracker" in " ".join(process.cmdline()) else process.ppid()
    except psutil.Error:
        return None


def user() -> str:
    """Returns the user who runs this process: the name, or the number if there is none, as in some containers."""
    return psutil.Process().username()


def owner() -> str:
    """Returns what identifies this process to `is_gone`: host, process id and start time, since ids are reused."""
    return f"{_place()} {os.getpid()} {_birth(os.getpid())}"


def is_gone(owner: str) -> bool:
    """Returns whether the process that `owner` identifies has ended. False on another host, where it can't be known."""
    match owner.split():
        case [place, number, birth] if place == _place() and number.isdecimal():
            pass
        case _:
            return False
    try:
        return _birth(int(number)) != birth or psutil.Process(int(number)).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def is_alive(owner: str) -> bool:
    """Returns whether the process that `owner` identifies is on this host and has not ended."""
    return owner.startswith(f"{_place()} ") and not is_gone(owner)


def _place() -> str:
    """Returns the host, and on Linux the namespace of process ids: containers may share a host's name."""
    namespace = Path("/proc/self/ns/pid")
    return f"{socket.gethostname()}/{namespace.stat().st_ino}" if namespace.exists() else socket.gethostname()


def _birth(number: int) -> str:
    """Returns when a process started: on Linux as boot id and ticks since boot, which no change of the clock affects.

    Raises psutil.NoSuchProcess.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{Path(f'/proc/{number}/stat').read_text().rpartition(')')[2].split()[19]}"
    except (FileNotFoundError, ProcessLookupError):
        return f"{psutil.Process(number).create_time():.0f}"
