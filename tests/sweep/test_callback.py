"""An error in Hydra's callback ends the command: Hydra itself would warn, and go on with what was not checked."""

from pathlib import Path
from typing import Any

import pytest
from hydra._internal.callbacks import Callbacks
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from initlab import processes
from initlab.sweep.callback import SweepCallback

HOOKS = {
    "on_run_start": {},
    "on_multirun_start": {},
    "on_job_start": {"task_function": None},
    "on_job_end": {"job_return": None},
    "on_multirun_end": {},
}


class Broken:
    """A session, and a configuration, that raise whatever is done with them."""

    def __init__(self, error: Exception) -> None:
        object.__setattr__(self, "error", error)

    def __getattr__(self, name: str) -> Any:
        raise self.error

    def __setattr__(self, name: str, value: object) -> None:
        raise self.error


def call(hook: str, error: Exception, monkeypatch: pytest.MonkeyPatch) -> int | str | None:
    """The exit code, or its message, of a hook that Hydra calls and in which something raises."""
    broken: Any = Broken(error)
    monkeypatch.setattr(HydraConfig, "get", lambda: OmegaConf.create({"job": {"num": 0}}))
    monkeypatch.setattr(processes, "exit_on_signals", lambda: broken.exit)
    callbacks, ours = Callbacks(), SweepCallback(folder="")
    ours.session = broken
    callbacks.callbacks.append(ours)
    with pytest.raises(SystemExit) as ended:
        getattr(callbacks, hook)(config=broken, **HOOKS[hook])
    return ended.value.code


@pytest.mark.parametrize("hook", HOOKS)
def test_an_unexpected_error_shows_where_it_was_raised(
    hook: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    error = AttributeError("module 'signal' has no attribute 'SIGHUP'")
    assert call(hook, error, monkeypatch) == 1
    printed = capsys.readouterr().err
    assert printed.startswith("Traceback")
    assert printed.endswith("AttributeError: module 'signal' has no attribute 'SIGHUP'\n")


@pytest.mark.parametrize("hook", HOOKS)
def test_an_expected_error_is_one_line(hook: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert call(hook, ValueError("seed is -1"), monkeypatch) == "error: seed is -1"


def test_a_damaged_job_does_not_end_a_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own process says that it can't continue."""
    (tmp_path / "run.json").write_text("{", encoding="utf-8")
    started: list[bool] = []

    class Session:
        def start_job(self, number: int, *, resumed: bool) -> None:
            started.append(resumed)

    ours: Any = SweepCallback(folder="")
    ours.session = Session()
    config: Any = OmegaConf.create({"hydra": {"runtime": {"output_dir": str(tmp_path)}, "job": {"num": 0}}})
    monkeypatch.setattr(HydraConfig, "get", lambda: config.hydra)
    ours.on_job_start(config)
    assert started == [True]
