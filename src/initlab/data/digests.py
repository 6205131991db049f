"""Digests of files."""

import hashlib
from pathlib import Path


def file_digest(path: Path, algorithm: str) -> str:
    """The digest of a file's bytes, as hexadecimal digits. Raises OSError if it can't be read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def has_digest(path: Path, expected: str, algorithm: str = "md5") -> bool:
    """Whether there is a file at `path`, and this is its digest."""
    return path.is_file() and file_digest(path, algorithm) == expected
