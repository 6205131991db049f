"""Files that are written completely or not at all."""

import os
from pathlib import Path


def write(path: Path, content: bytes | memoryview) -> None:
    """Writes `content` to `path` atomically: to a file beside it, which is synced to disk and renamed.

    If the process ends or the power fails, `path` has either its old content or the new one.
    Raises OSError if the file can't be written, for example on a full disk, and removes what was written of it.
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
    _sync(path.parent)  # so that the new name is on disk too


def append(path: Path, text: str) -> None:
    """Appends lines to a file and syncs it to disk. Every line ends with a newline, which shows that it is complete.

    Raises OSError if they can't be written.
    """
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
    """Syncs the entries of a folder to disk."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _named(error: OSError, path: Path) -> OSError:
    """Returns the error with the name of the file, which the system does not name if the disk is full."""
    return OSError(error.errno, error.strerror, str(path))


def complete_lines(path: Path) -> list[str]:
    """Returns the complete lines of a file, if it exists, and removes a last line that was cut short."""
    if not path.exists():
        return []
    content = path.read_bytes()
    end = content.rfind(b"\n") + 1
    if end < len(content):
        os.truncate(path, end)
    return content[:end].decode().splitlines()
