"""Digests of files."""

import hashlib
from pathlib import Path


def file_digest(path: Path, algorithm: str) -> str:
    """Returns the digest of a file's bytes, in hexadecimal. Raises OSError if the file can't be read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def has_digest(path: Path, expected: str, algorithm: str = "md5") -> bool:
    """Returns whether the file exists and has this digest. Raises OSError if it can't be read."""
    return path.is_file() and file_digest(path, algorithm) == expected
