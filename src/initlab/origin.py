"""Where a run comes from: all that must be the same for its numbers to come out the same, to the bit."""

import hashlib
import platform
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from importlib.metadata import requires, version
from pathlib import Path
from typing import Any

import torch

PARTS = ("code", "data", "packages", "machine")
Origin = dict[str, dict[str, str]]


def here(facts: Mapping[str, Any], device: torch.device, devices: int = 1) -> Origin:
    """What a run on this device, or on several such, of the data with these facts (`mnist.read_facts`) comes from.

    code: SHA-256 of every file of this package that is loaded.  data: of every split.  packages: versions of what the
    package depends on.  machine: what decides the order of floating-point sums.
    """
    return {
        "code": code(),
        "data": {name: fact["sha256"] for name, fact in facts["splits"].items()},
        "packages": packages(),
        "machine": machine(device) | {"devices": str(devices)},
    }


def whole(origin: object) -> Origin:
    """An origin that was read back. Raises ValueError if a part is missing, or is not {name: text}."""
    if not isinstance(origin, dict) or not all(isinstance(origin.get(part), dict) and origin[part] for part in PARTS):
        raise ValueError(f"origin.json lacks one of {', '.join(PARTS)}")
    if not all(isinstance(value, str) for part in PARTS for value in origin[part].values()):
        raise ValueError("origin.json holds what is no text")
    return origin


def code(names: Iterable[str] | None = None) -> dict[str, str]:
    """{file: SHA-256} of these files of the package, as far as they are there; else of those that are loaded."""
    folder = Path(__file__).parent
    if names is None:
        names = [path.name for path in sorted(folder.glob("*.py")) if f"initlab.{path.stem}" in sys.modules]
    paths = [folder / Path(name).name for name in names]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths if path.is_file()}


def packages() -> dict[str, str]:
    """{package: version} of what this project needs to run, and Python."""
    needed = [entry for entry in requires("initlab") or [] if "extra ==" not in entry]
    names = sorted(found[0] for found in (re.match(r"[\w.-]+", entry) for entry in needed) if found)
    return {"python": platform.python_version()} | {name: version(name) for name in names}


def machine(device: torch.device) -> dict[str, str]:
    """The kind of processor the sums are made on. Their number is no part of it: each worker has one thread."""
    cpu = {
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu(),
        "vector units": torch.backends.cpu.get_cpu_capability(),
    }
    return {"device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type} | cpu


def differences(
    recorded: Mapping[str, Mapping[str, str]], now: Mapping[str, Mapping[str, str]]
) -> dict[str, list[str]]:
    """{part: what differs, a line each}, for the parts that differ. What was not there then is no matter."""
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
    """The commit, whether anything was changed since, and the pipeline's results; what can't be known is out."""
    found = {}
    commit = git("rev-parse", "HEAD")
    if commit is not None:
        dirty = bool(git("status", "--porcelain"))
        found = {"git.commit": commit, "mlflow.source.git.commit": commit, "git.dirty": str(dirty)}
    if Path("dvc.lock").is_file():
        found["dvc.lock.md5"] = hashlib.md5(Path("dvc.lock").read_bytes(), usedforsecurity=False).hexdigest()
    return found


def git(*arguments: str) -> str | None:
    """What git answers; None if it is not there, or this is no repository."""
    try:
        return subprocess.run(["git", *arguments], capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _cpu() -> str:
    """The processor's name, which Python only knows on some systems."""
    info = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*: (.+)$", info.read_text(), re.MULTILINE) if info.exists() else None
    return found[1] if found else platform.processor() or "unknown"


def _short(value: str) -> str:
    """A digest is told by its first eight digits."""
    return value[:8] if re.match(r"[0-9a-f]{64}$", value) else value
