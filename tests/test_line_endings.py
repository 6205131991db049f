"""Files have the same bytes on every system: DVC, and the provenance of runs, hash them."""

import os
from pathlib import Path

import pytest
from conftest import fresh_clone
from helpers.projects import git
from helpers.sweeps import run

from initlab.report import tables
from initlab.tracking import results


def test_a_clone_on_windows_has_the_same_bytes(tmp_path: Path) -> None:
    """Git for Windows sets core.autocrlf, which makes \\r\\n of \\n."""
    (tmp_path / "origin").mkdir()
    origin = fresh_clone(tmp_path / "origin")
    git(tmp_path, "-c", "core.autocrlf=true", "clone", "--quiet", str(origin), "clone")
    names = [name for name in git(origin, "ls-files", "-z").split("\0") if name]
    assert len(names) > 100
    for name in names:
        assert (tmp_path / "clone" / name).read_bytes() == (origin / name).read_bytes(), name
    assert git(tmp_path / "clone", "status", "--porcelain") == ""


def test_tables_have_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pandas ends lines as the system does, unless it is told how."""
    found = run({"init": "Jürgen"})
    results.save(found, tmp_path / "linux")
    here = tables.tables(found.replicas)
    monkeypatch.setattr(os, "linesep", "\r\n")
    results.save(found, tmp_path / "windows")
    assert tables.tables(found.replicas) == here
    for path in (tmp_path / "linux").iterdir():
        assert (tmp_path / "windows" / path.name).read_bytes() == path.read_bytes()
