"""Files that are written completely or not at all."""

import os
from pathlib import Path


def write(path: Path, content: bytes | memoryview) -> None:
    """Puts `content` at `path` in one step: written beside it, brought to the disk, renamed.

    Whatever ends the process, power included, `path` is afterwards what it was or what it should be.
    Raises OSError, and leaves no partial file, if there is no room.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise _named(error, path) from error
    _sync(path.parent)  # the renaming too


def append(path: Path, text: str) -> None:
    """Adds lines at the end of a file, and brings them to the disk. The last newline says that all are there."""
    new = not path.exists()
    try:
        with path.open("a", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise _named(error, path) from error
    if new:
        _sync(path.parent)


def _sync(folder: Path) -> None:
    """Brings the names in a folder to the disk."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _named(error: OSError, path: Path) -> OSError:
    """The same, but it tells the file: what the system says of a disk that is full does not."""
    return OSError(error.errno, error.strerror, str(path))


def complete_lines(path: Path) -> list[str]:
    """The lines that were written to their end; the rest of the file, a line cut short, is removed."""
    if not path.exists():
        return []
    content = path.read_bytes()
    end = content.rfind(b"\n") + 1
    if end < len(content):
        os.truncate(path, end)
    return content[:end].decode().splitlines()
