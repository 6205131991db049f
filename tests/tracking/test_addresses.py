"""The addresses that a sweep prints, and the port in them: 5000 is AirPlay's on macOS."""

from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from helpers.mirror import server
from helpers.servers import free_port
from omegaconf import OmegaConf

from initlab.sweep import config as configs
from initlab.tracking import ui
from initlab.tracking.parent_run import ParentRun


def answers(status: int) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            ours = self.path == "/api/2.0/mlflow/runs/get?run_id=ours"
            self.send_response(status if ours else 404)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler


AIRPLAY, MLFLOW = answers(403), answers(200)


def port_of(address: str) -> int:
    found = urlsplit(address).port
    assert found is not None
    return found


def test_it_is_mlflows_own_port_if_that_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ui.PORTS[0] == 5000
    free = free_port()
    monkeypatch.setattr(ui, "PORTS", [free])
    assert ui.local_port("ours") == (free, False)


def test_it_is_the_next_one_if_another_program_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with server(AIRPLAY) as taken:
        free = free_port()
        monkeypatch.setattr(ui, "PORTS", [port_of(taken), free])
        assert ui.local_port("ours") == (free, False)
        monkeypatch.setattr(ui, "PORTS", [port_of(taken)])
        assert ui.local_port("ours") == (port_of(taken), False)  # none is free


def test_a_ui_that_shows_the_run_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that shows another project's runs is another program."""
    with server(MLFLOW) as running:
        free = free_port()
        monkeypatch.setattr(ui, "PORTS", [port_of(running), free])
        assert ui.local_port("ours") == (port_of(running), True)
        assert ui.local_port("theirs") == (free, False)


def test_a_port_that_is_set_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with server(AIRPLAY) as taken:
        assert ui.local_port("ours", port_of(taken)) == (port_of(taken), False)
    assert ui.local_port("ours", 9) == (9, False)


@pytest.mark.parametrize("value", [0, 70000, "yes", True])
def test_what_is_no_port_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match=f"tracking.ui_port is {value!r}; expected null or a number, 1 to 65535"):
        configs.ui_port(OmegaConf.create({"tracking": {"ui_port": value}}))


def test_the_command_and_the_addresses_have_the_port(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    free = free_port()
    monkeypatch.setattr(ui, "PORTS", [free])
    sweep = ParentRun(uri=f"sqlite:///{tmp_path}/mlflow.db", experiment="any", folder="any", name="any")
    head, *addresses = sweep.viewing_instructions().splitlines()
    assert head == "to look at it: mlflow ui, then"
    assert all(f"http://127.0.0.1:{free}/#/" in address for address in addresses)
    sweep.ui_port = 9
    head, *addresses = sweep.viewing_instructions().splitlines()
    assert head == "to look at it: mlflow ui --port 9, then"
    assert all("http://127.0.0.1:9/#/" in address for address in addresses)
    monkeypatch.chdir("/")
    assert f'mlflow ui --backend-store-uri "sqlite:///{tmp_path}/mlflow.db"' in sweep.viewing_instructions()
