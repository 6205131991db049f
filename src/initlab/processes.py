"""Processes: how signals end this one, and whether another one is still alive."""

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
    """While it lasts, Ctrl-C, SIGTERM and SIGHUP raise SystemExit with the shell's code for them, 128 + n.

    Lightning would turn the first into exit code 1 and the second into 0, which reads as success.
    """
    with _handled_by(_leave):
        try:
            yield
        except SystemExit:
            if _signal is not None:  # Ray makes another code of it
                raise SystemExit(128 + _signal) from None
            raise


def restore_sigterm() -> None:
    """Within `exit_on_signals`: handles SIGTERM again, if Lightning has put its own handler in place."""
    if signal.getsignal(signal.SIGINT) is _leave:
        signal.signal(signal.SIGTERM, _leave)


def _leave(number: int, _: FrameType | None) -> None:
    global _signal
    _signal = number
    raise SystemExit(128 + number)


@contextmanager
def leave_at_once_on_signals() -> Iterator[None]:
    """While it lasts, the same signals end the process on the spot: for imports, before anything has begun.

    What a handler raises inside an import may be swallowed there, or end in an abort where compiled code is under way.
    """
    with _handled_by(lambda number, _: os._exit(128 + number)):
        yield


@contextmanager
def _handled_by(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are the main thread's
        return
    numbers = [n for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) is not signal.SIG_IGN]
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def ended_by() -> str | None:
    """The signal that is ending this process, if one is: SIGTERM, say."""
    return None if _signal is None else signal.Signals(_signal).name


@cache
def leave_with_parent(grace: float) -> None:
    """From now on this process ends when the one that started it has ended without a word: SIGTERM, and after `grace`
    seconds SIGKILL. What waits for other processes would wait for long.
    """
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(grace)
        os.kill(os.getpid(), signal.SIGKILL)  # joblib takes what a signal raises for the job's result, and goes on

    threading.Thread(target=watch, daemon=True).start()


def end_children(grace: float) -> None:
    """Ends the processes that this one has started, and theirs: SIGTERM, and after `grace` seconds SIGKILL.

    SIGTERM is for those at the ends of the tree alone, which do the work: who started them goes when they have gone, or
    would tell them a second time. Python's resource trackers are let be: they clean up, and go with this process.
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
    """Who started it; None for a resource tracker, or if it is gone."""
    try:
        return None if "resource_tracker" in " ".join(process.cmdline()) else process.ppid()
    except psutil.Error:
        return None


def user() -> str:
    """Who runs this process; the number where it has no name, as in some containers."""
    return psutil.Process().username()


def owner() -> str:
    """This process, as `is_gone` knows it: where it runs, its number, and its birth, since numbers are given again."""
    return f"{_place()} {os.getpid()} {_birth(os.getpid())}"


def is_gone(owner: str) -> bool:
    """Whether a process of this place has ended. Of another's nothing is known: False."""
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
    """Whether a process is known to live: one of this place that has not ended."""
    return owner.startswith(f"{_place()} ") and not is_gone(owner)


def _place() -> str:
    """The host, and on Linux the namespace that process numbers belong to: containers may share a host's name."""
    namespace = Path("/proc/self/ns/pid")
    return f"{socket.gethostname()}/{namespace.stat().st_ino}" if namespace.exists() else socket.gethostname()


def _birth(number: int) -> str:
    """When a process began: on Linux the boot and the ticks since, which no change of the clock moves.

    Raises psutil.NoSuchProcess.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{Path(f'/proc/{number}/stat').read_text().rpartition(')')[2].split()[19]}"
    except (FileNotFoundError, ProcessLookupError):
        return f"{psutil.Process(number).create_time():.0f}"
