"""Files that are written completely or not at all."""

import os
import sys
import time
from contextlib import suppress
from pathlib import Path

if sys.platform != "win32":
    import fcntl

PATIENCE = 1  # seconds


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
            _sync(file.fileno())
        replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise _named(error, path) from error
    _sync_folder(path.parent)  # so that the new name is on disk too


def append(path: Path, text: str) -> None:
    """Appends lines to a file and syncs it to disk. Every line ends with a newline, which shows that it is complete.

    Raises OSError if they can't be written.
    """
    new = not path.exists()
    try:
        with path.open("a", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            _sync(file.fileno())
    except OSError as error:
        raise _named(error, path) from error
    if new:
        _sync_folder(path.parent)


def replace(source: Path, target: Path) -> None:
    """Renames a file or folder, and replaces a file that is there. Raises OSError if that is refused for a second.

    On Windows it is refused while another program, such as a virus scanner, has one of the two open.
    """
    end = time.monotonic() + PATIENCE
    while True:
        try:
            source.replace(target)
            return
        except PermissionError:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)


def _sync(descriptor: int) -> None:
    """Syncs a file to disk. On macOS, fsync would leave it in the disk's own memory, which a power failure clears."""
    if sys.platform == "darwin":
        with suppress(OSError):  # some file systems only have fsync
            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
            return
    os.fsync(descriptor)


def _sync_folder(folder: Path) -> None:
    """Syncs the entries of a folder to disk. Windows can't; NTFS has a journal of its own."""
    if sys.platform == "win32":
        return
    opened = os.open(folder, os.O_RDONLY)
    try:
        _sync(opened)
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
