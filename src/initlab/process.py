"""How this process ends, and whether another one still lives."""

import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

_signal: int | None = None


@contextmanager
def exit_on_signals() -> Iterator[None]:
    """While it lasts, Ctrl-C, SIGTERM and SIGHUP raise SystemExit with the shell's code for them, 128 + n.

    Lightning would turn the first into exit code 1 and the second into 0, which reads as success.
    """

    def leave(number: int, _: object) -> None:
        global _signal
        _signal = number
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield  # signals are the main thread's
        return
    numbers = [n for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) is not signal.SIG_IGN]
    before = {number: signal.signal(number, leave) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def ended_by() -> str | None:
    """The signal that is ending this process, if one is: SIGTERM, say."""
    return None if _signal is None else signal.Signals(_signal).name


def owner() -> str:
    """This process, for `is_gone`: host, number and start, since numbers are given again."""
    return f"{socket.gethostname()} {os.getpid()} {psutil.Process().create_time():.2f}"


def user() -> str:
    """Who runs this process; the number where it has no name, as in some containers."""
    return psutil.Process().username()


def is_gone(owner: str) -> bool:
    """Whether a process of this host has ended. Of another host's nothing is known: False."""
    host, number, started = owner.split()
    if host != socket.gethostname():
        return False
    try:
        found = psutil.Process(int(number))
        return abs(found.create_time() - float(started)) > 2 or found.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
