"""Provenance of a run: the code, data, packages and machine that determine its numbers to the bit."""

import hashlib
import platform
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import requires, version
from pathlib import Path
from typing import Any

import torch

from initlab.tracking.artifacts import PROVENANCE

PACKAGE = Path(__file__).resolve().parents[1]
PARTS = ("code", "data", "packages", "machine")
# What bears on numbers. How a run is started, recorded and reported does not; other packages only read, write or draw.
# A configuration that Hydra composes otherwise is another one, by its SHA-256.
CODE = ("nn/", "data/", "training/", "workers.py", "random_streams.py", "confidence_intervals.py")
PACKAGES = ("python", "numpy", "pytorch-lightning", "scipy", "torch")
Provenance = dict[str, dict[str, str]]


def current(facts: Mapping[str, Any], device: torch.device, devices: int = 1) -> Provenance:
    """Returns the provenance of a run on `devices` devices like this one, on the data with these facts.

    facts: from `normalized.read_facts`.
    Returns code: SHA-256 of every loaded file that bears on numbers.  data: SHA-256 of every split.  packages: versions
    of the package's dependencies.  machine: what decides the order of floating-point sums.
    """
    return {
        "code": code(),
        "data": {name: fact["sha256"] for name, fact in facts["splits"].items()},
        "packages": packages(),
        "machine": machine(device) | {"devices": str(devices)},
    }


def validated(found: object) -> Provenance:
    """Returns what bears on numbers in a provenance that was read from a file.

    Raises ValueError if a part is missing or is not {name: text}.
    """
    if not isinstance(found, dict) or not all(isinstance(found.get(part), dict) for part in PARTS):
        raise ValueError(f"{PROVENANCE} lacks one of {', '.join(PARTS)}")
    numeric: Provenance = {
        "code": {name: digest for name, digest in found["code"].items() if name.startswith(CODE)},
        "data": found["data"],
        "packages": {name: number for name, number in found["packages"].items() if name in PACKAGES},
        "machine": found["machine"],
    }
    if not all(numeric.values()):
        raise ValueError(f"{PROVENANCE} lacks one of {', '.join(PARTS)}")
    if not all(isinstance(value, str) for part in numeric.values() for value in part.values()):
        raise ValueError(f"{PROVENANCE} has a value that is not text")
    return numeric


def code(names: Iterable[str] | None = None) -> dict[str, str]:
    """Returns {file: SHA-256} of those of these files that exist in the package; by default of all that are loaded and
    bear on numbers.

    A file is named by its path within the package, with slashes: nn/mlp.py.
    """
    if names is None:
        loaded = {path.relative_to(PACKAGE).as_posix() for path in _loaded_files()}
        names = sorted(name for name in loaded if name.startswith(CODE))
    paths = {name: PACKAGE / name for name in names if (PACKAGE / name).resolve().is_relative_to(PACKAGE)}
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in paths.items() if path.is_file()}


def _loaded_files() -> Iterator[Path]:
    """Yields the source files of this package's modules that this process has imported."""
    for name, module in sys.modules.copy().items():  # another thread may import
        file = getattr(module, "__file__", None) if name.partition(".")[0] == "initlab" else None
        if file is not None and Path(file).resolve().is_relative_to(PACKAGE):
            yield Path(file).resolve()


def packages() -> dict[str, str]:
    """Returns {package: version} of Python and of this project's dependencies."""
    needed = [entry for entry in requires("initlab") or [] if "extra ==" not in entry]
    names = sorted(found[0] for found in (re.match(r"[\w.-]+", entry) for entry in needed) if found)
    return {"python": platform.python_version()} | {name: version(name) for name in names}


def machine(device: torch.device) -> dict[str, str]:
    """Describes the processor that computes the sums, without its number of cores: each worker uses one thread."""
    release = platform.mac_ver()[0]  # of macOS, whose own library multiplies the matrices; empty elsewhere
    cpu = {
        "system": " ".join(filter(None, (platform.system(), platform.machine(), release))),
        "cpu": _cpu(),
        "vector units": torch.backends.cpu.get_cpu_capability(),
    }
    return {"device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type} | cpu


def differences(
    recorded: Mapping[str, Mapping[str, str]], now: Mapping[str, Mapping[str, str]]
) -> dict[str, list[str]]:
    """Returns {part: one line per difference} for the parts that differ. Only what was recorded is compared."""
    found = {}
    for part in recorded:
        lines = [
            f"{name}: recorded {_short(value)}, here {_short(now[part].get(name, 'none'))}"
            for name, value in recorded[part].items()
            if now[part].get(name) != value
        ]
        if lines:
            found[part] = lines
    return found


def tags() -> dict[str, str]:
    """Returns tags with the commit, whether anything has changed since, and the hash of dvc.lock, as far as known."""
    found = {}
    commit = git("rev-parse", "HEAD")
    if commit is not None:
        dirty = bool(git("status", "--porcelain"))
        found = {"git.commit": commit, "mlflow.source.git.commit": commit, "git.dirty": str(dirty)}
    if Path("dvc.lock").is_file():
        found["dvc.lock.md5"] = hashlib.md5(Path("dvc.lock").read_bytes(), usedforsecurity=False).hexdigest()
    return found


def git(*arguments: str) -> str | None:
    """Returns what git prints, or None if git is not installed or this is not a repository."""
    try:
        return subprocess.run(["git", *arguments], capture_output=True, encoding="utf-8", check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _cpu() -> str:
    """Returns the processor's name. Python does not know it on Linux, and on macOS calls each chip `arm`."""
    info = Path("/proc/cpuinfo")
    if platform.system() == "Darwin":
        asked = ["sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(asked, capture_output=True, encoding="utf-8", check=False).stdout.strip()
    text = info.read_text(encoding="utf-8") if info.exists() else ""
    found = re.findall(r"^model name\s*: (.+)$", text, re.MULTILINE)[:1]
    found = found or re.findall(r"^CPU (?:implementer|part)\s*: (.+)$", text, re.MULTILINE)[:2]  # on ARM
    return " ".join(found) or platform.processor() or "unknown"


def _short(value: str) -> str:
    """Shortens a digest to its first eight digits."""
    return value[:8] if re.match(r"[0-9a-f]{64}$", value) else value
