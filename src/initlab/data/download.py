"""Download of the raw files from mirrors, verified by checksum."""

import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from initlab import atomic_files
from initlab.data import DataError
from initlab.data.digests import has_digest


def download_files(
    mirrors: Sequence[str], files: Mapping[str, str], folder: Path, *, timeout: float = 20, retries: int = 1
) -> None:
    """Downloads `files` ({name: MD5}) into `folder`, trying one mirror after another until one serves the right bytes.

    timeout: seconds that a mirror may stay silent.  retries: further attempts per mirror.
    Existing files with the right checksum are kept. Either all files are in place at the end, or none has changed.
    Raises DataError, with every failure, if no mirror serves a file.
    """
    import pooch  # takes half a second, and only downloads need it

    folder.mkdir(parents=True, exist_ok=True)
    missing = {name: md5 for name, md5 in files.items() if not has_digest(folder / name, md5)}
    transport = pooch.HTTPDownloader(progressbar=sys.stderr.isatty(), timeout=timeout)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as partial:
        for name, md5 in missing.items():
            failures = []
            for mirror in mirrors:
                source = pooch.create(partial, mirror, registry={name: f"md5:{md5}"}, retry_if_failed=retries)
                try:
                    source.fetch(name, downloader=transport)
                    break
                except (OSError, ValueError) as error:  # requests' errors are OSErrors, a wrong hash is a ValueError
                    failures.append(f"  {mirror}{name}: {str(error).splitlines()[0]}")
            else:
                raise DataError("\n".join([f"no mirror serves {name} with MD5 {md5}", *failures]))
        for name in missing:
            Path(partial, name).chmod(0o644)  # temporary files are readable by their owner only
            atomic_files.replace(Path(partial, name), folder / name)
