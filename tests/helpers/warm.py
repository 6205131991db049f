"""`python train.py ...` and `initlab ...` in processes that begin with torch, Lightning and MLflow imported.

Imports take five seconds of each command, and tests run a hundred of them. A server imports once, computes nothing, and
forks a child for each command: a process of its own, with its own arguments, folder, environment and output. Beside it
waits another, which says what its number is and how it ended.

    python tests/helpers/warm.py SOCKET              serves
    python tests/helpers/warm.py SOCKET WORD...      runs `python WORD...`, warm if it can be
"""

import gc
import json
import multiprocessing.process
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
import traceback
import warnings
from contextlib import suppress
from pathlib import Path
from typing import TextIO

# These start processes of their own from the program that they are, or compute with threads.
COLD = ("trainer=ddp", "trainer.devices=")


def is_warm(words: list[str], environment: dict[str, str]) -> bool:
    """Whether a command can be run in a process that is forked. words: after `python`."""
    single = environment.get("OMP_NUM_THREADS") == "1"
    return single and words[:1] in (["train.py"], ["initlab"]) and not any(word.startswith(COLD) for word in words)


class Process:
    """A command that the server runs, with what tests use of `subprocess.Popen`.

    words: after `python`.  output: file descriptors of its stdout and stderr.  stdout: where it is read, if anywhere.
    """

    def __init__(
        self,
        server: Path,
        words: list[str],
        cwd: Path,
        environment: dict[str, str],
        output: list[int],
        stdout: TextIO | None = None,
    ) -> None:
        self.args, self.stdout, self.returncode = words, stdout, None
        self._connection = socket.socket(socket.AF_UNIX)
        self._connection.connect(str(server))
        request = json.dumps({"words": words, "cwd": str(cwd), "environment": environment}).encode()
        socket.send_fds(self._connection, [len(request).to_bytes(8, "big")], output)
        self._connection.sendall(request)
        self.pid = self._receive()

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            self._connection.settimeout(timeout)
            try:
                self.returncode = self._receive()
            except (TimeoutError, BlockingIOError):
                raise subprocess.TimeoutExpired(self.args, timeout or 0) from None
            self._connection.close()
        return self.returncode

    def poll(self) -> int | None:
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float | None = None) -> tuple[str, None]:
        """The rest of its output. After the time limit, in seconds, it is killed."""
        assert self.stdout is not None
        limit = threading.Timer(timeout or threading.TIMEOUT_MAX, self.kill)
        limit.start()
        try:
            text = "" if self.stdout.closed else self.stdout.read()
            self.stdout.close()
        finally:
            limit.cancel()
        self.wait()
        return text, None

    def _receive(self) -> int:
        return int.from_bytes(self._connection.recv(4, socket.MSG_WAITALL), "big", signed=True)


def serve(path: Path) -> None:
    before = dict(os.environ)
    import initlab.replay.command
    import initlab.report.command
    import initlab.sweep.session
    import initlab.training.fit  # noqa: F401

    warnings.filterwarnings("error", category=EncodingWarning, module="initlab")  # text is UTF-8 on Windows too
    gc.freeze()  # or each child copies what was imported when it looks for garbage
    by_imports = {name: value for name, value in os.environ.items() if before.get(name) != value}
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        print("ready", flush=True)
        while True:
            connection, _ = listener.accept()
            head, output, *_ = socket.recv_fds(connection, 8, 2)
            if os.fork() == 0:
                listener.close()
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                request = json.loads(connection.recv(int.from_bytes(head, "big"), socket.MSG_WAITALL))
                child = os.fork()
                if child == 0:
                    connection.close()
                    sys.exit(_execute(request["words"], request["cwd"], by_imports | request["environment"], output))
                for descriptor in (*output, 1, 2):
                    os.close(descriptor)
                connection.sendall(child.to_bytes(4, "big"))
                code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
                with suppress(OSError):  # nobody waits for it any more
                    connection.sendall(code.to_bytes(4, "big", signed=True))
                os._exit(0)
            for descriptor in output:
                os.close(descriptor)
            connection.close()


def _execute(words: list[str], cwd: str, environment: dict[str, str], output: list[int]) -> str | int | None:
    """Runs a command in this process. Returns its exit code, or what it says instead on stderr."""
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    multiprocessing.process.ORIGINAL_DIR = cwd
    for target, descriptor in zip((1, 2), output, strict=True):
        os.dup2(descriptor, target)
        os.close(descriptor)
    sys.stdout.reconfigure(line_buffering=True)
    sys.argv, sys.path[0] = words, cwd
    try:
        if words[0] == "initlab":
            from initlab.cli import main

            return main()
        runpy.run_path(words[0], run_name="__main__")
        return 0
    except SystemExit as error:
        return error.code
    except BaseException:
        traceback.print_exc()
        return 1


if __name__ == "__main__":
    server, *rest = sys.argv[1:]
    if not rest:
        serve(Path(server))
    elif is_warm(rest, dict(os.environ)):
        sys.exit(Process(Path(server), rest, Path.cwd(), dict(os.environ), [1, 2]).wait())
    elif rest[0] == "initlab":
        os.execv(Path(sys.executable).with_name("initlab"), rest)
    else:
        os.execv(sys.executable, [sys.executable, *rest])
