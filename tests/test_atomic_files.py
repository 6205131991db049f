"""Files that are written completely or not at all, as each system needs it."""

import fcntl
import os
import sys
from pathlib import Path

import pytest

from initlab import atomic_files


def refuse(times: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the system refuse to rename so many times, as Windows does while a virus scanner has a file open."""
    rename, left = Path.replace, [times]

    def replace(self: Path, target: Path) -> Path:
        if left[0]:
            left[0] -= 1
            raise PermissionError(13, "Access is denied", str(self))
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", replace)


def test_a_rename_that_is_refused_for_a_moment_is_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    atomic_files.write(tmp_path / "file", b"old")
    refuse(2, monkeypatch)
    atomic_files.write(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"


def test_a_rename_that_stays_refused_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    atomic_files.write(tmp_path / "file", b"old")
    refuse(10_000, monkeypatch)
    monkeypatch.setattr(atomic_files, "PATIENCE", 0.1)
    with pytest.raises(PermissionError, match=r"Access is denied: '.*file'"):
        atomic_files.write(tmp_path / "file", b"new")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("file", b"old")]


def test_windows_syncs_files_and_no_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder can't be opened there."""
    synced: list[int] = []
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(os, "fsync", synced.append)
    atomic_files.write(tmp_path / "a", b"1")
    atomic_files.append(tmp_path / "b", "1\n")
    assert len(synced) == 2


@pytest.mark.parametrize("supported", [True, False])
def test_macos_syncs_to_the_disk_itself(supported: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With F_FULLFSYNC, or, on a file system that lacks it, with fsync."""
    full: list[int] = []
    plain: list[int] = []

    def control(descriptor: int, command: int) -> None:
        assert command == 51
        full.append(descriptor)
        if not supported:
            raise OSError(45, "Operation not supported")

    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(fcntl, "F_FULLFSYNC", 51, raising=False)
    monkeypatch.setattr(fcntl, "fcntl", control)
    monkeypatch.setattr(os, "fsync", plain.append)
    atomic_files.write(tmp_path / "file", b"1")
    assert len(full) == 2  # the file, and the folder that has its name
    assert plain == ([] if supported else full)


def test_lines_end_alike_on_every_system(tmp_path: Path) -> None:
    atomic_files.append(tmp_path / "file", "Jürgen\n")
    assert (tmp_path / "file").read_bytes() == "Jürgen\n".encode()
    assert atomic_files.complete_lines(tmp_path / "file") == ["Jürgen"]
