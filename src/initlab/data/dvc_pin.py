"""The version of the raw data that a .dvc file pins."""

import hashlib
import json
import stat
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from initlab.data import DataError
from initlab.data.digests import file_digest
from initlab.data.idx import IMAGES, LABELS, PREFIXES


def dvc_hash(folder: Path, prefixes: Mapping[str, str] = PREFIXES) -> str:
    """Returns the hash that DVC gives a folder of the four files, which a .dvc file pins: the MD5 of their listing.

    prefixes: what their names begin with.  Raises OSError if a file can't be read.
    """
    names = sorted(name for prefix in prefixes.values() for name in (IMAGES.format(prefix), LABELS.format(prefix)))
    listing = [{"md5": file_digest(folder / name, "md5"), "relpath": name} for name in names]
    return f"{hashlib.md5(json.dumps(listing).encode(), usedforsecurity=False).hexdigest()}.dir"


def pinned_hash(by: str | None) -> str | None:
    """Returns the hash that the .dvc file `by` pins. None, for no file, allows any data.

    Raises DataError if the file can't be read.
    """
    if by is None:
        return None
    try:
        return OmegaConf.load(by).outs[0].md5
    except (OSError, YAMLError, OmegaConfBaseException, AttributeError, TypeError) as error:
        raise DataError(f"data.pin is {by!r}; expected null, or the name of a .dvc file that is here") from error


def check_pinned(folder: Path, by: str | None, prefixes: Mapping[str, str] = PREFIXES) -> None:
    """Checks that the four files are the ones that the .dvc file `by` pins.

    prefixes: what their names begin with.  Raises DataError, with the command that restores them, if they are not.
    """
    expected = pinned_hash(by)
    if expected is None:
        return
    command = f"initlab data restore {by}"
    try:
        found = dvc_hash(folder, prefixes)
    except OSError as error:
        raise DataError(f"{error.filename}: {error.strerror}; get it back with: {command}") from error
    if found != expected:
        raise DataError(
            f"{folder} holds data {found}; {by} pins {expected}: a file, or DVC's copy of it, is damaged, or of "
            f"another version; get them back with: {command}"
        )


def restore(by: str) -> bool:
    """Restores the files that the .dvc file `by` pins, even if DVC's copy of one is damaged. Returns whether DVC could.

    An import is repeated. Added files are restored from the cache: adding them again would pin the damage.
    Raises DataError if `by` can't be read.
    """
    pinned_hash(by)
    for path in Path(".dvc", "cache").rglob("*"):  # DVC trusts a copy that is read-only. It hashes a writable one,
        path.chmod(path.stat().st_mode | stat.S_IWUSR)  # and discards it if it is damaged.
    command = "repro" if "deps" in OmegaConf.load(by) else "checkout"
    return subprocess.run([sys.executable, "-m", "dvc", command, "-f", by], check=False).returncode == 0
