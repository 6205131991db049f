"""Provenance: every loaded file of ours that bears on numbers is in it, by its path within the package."""

import json
import platform
import sys
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from conftest import ROOT, command

from initlab.tracking import provenance

LOADED = """
import json, sys
import initlab.sweep.session, initlab.training.fit
from initlab.tracking import provenance

print(json.dumps([provenance.code(), [name for name in sys.modules if name.partition(".")[0] == "initlab"]]))
"""

# What tracking, the report and the configuration stand on.
OTHERS = {"__init__.py", "atomic_files.py", "checks.py", "machine_id.py", "processes.py", "resolvers.py"}


def test_every_loaded_file_that_bears_on_numbers_is_hashed() -> None:
    """A module's name says where its file is: initlab.nn.mlp is nn/mlp.py, or nn/mlp/__init__.py."""
    code, modules = json.loads(command([sys.executable, "-c", LOADED], ROOT).stdout)
    package = ROOT / "src" / "initlab"
    paths = [package.joinpath(*module.split(".")[1:]) for module in modules]
    files = {path / "__init__.py" if path.is_dir() else path.with_suffix(".py") for path in paths}
    loaded = {file.relative_to(package).as_posix() for file in files}
    assert set(code) == {name for name in loaded if not name.startswith(("tracking/", "sweep/", "report/"))} - OTHERS
    assert {"nn/mlp.py", "nn/init.py", "data/datamodule.py", "training/lightning_module.py", "workers.py"} <= set(code)
    assert code == {name: sha256((package / name).read_bytes()).hexdigest() for name in code}


def test_names_that_were_recorded_are_hashed_if_they_are_ours() -> None:
    """A record comes from a store that others can write to: it names no file elsewhere."""
    assert set(provenance.code(["nn/mlp.py", "nn/gone.py", "../../pyproject.toml", "/etc/hostname"])) == {"nn/mlp.py"}


def test_a_mac_is_told_from_another(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Python calls each of Apple's chips `arm`; sysctl knows its name. The system's release counts too."""
    sysctl = tmp_path / "sysctl"
    sysctl.write_text(
        "#!/bin/sh\n[ \"$*\" = '-n machdep.cpu.brand_string' ] && echo 'Apple M4 Pro'\n", encoding="utf-8"
    )
    sysctl.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    for name, value in {
        "system": "Darwin",
        "machine": "arm64",
        "processor": "arm",
        "mac_ver": ("15.1", (), ""),
    }.items():
        monkeypatch.setattr(platform, name, lambda value=value: value)
    found = provenance.machine(torch.device("cpu"))
    assert (found["cpu"], found["system"]) == ("Apple M4 Pro", "Darwin arm64 15.1")


def test_of_an_older_record_only_what_bears_on_numbers_is_read() -> None:
    older = {
        "code": {"nn/mlp.py": "a", "tracking/ui.py": "b", "report/__init__.py": "c"},
        "data": {"train": "d"},
        "packages": {"torch": "2.0", "matplotlib": "3.0"},
        "machine": {"device": "cpu"},
    }
    found = provenance.validated(older)
    assert found == older | {"code": {"nn/mlp.py": "a"}, "packages": {"torch": "2.0"}}
    with pytest.raises(ValueError, match="lacks one of code, data"):
        provenance.validated(older | {"code": {"tracking/ui.py": "b"}})
