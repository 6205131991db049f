"""Clones of the project, made small: few images, one short epoch."""

import gzip
from collections.abc import Sequence
from hashlib import md5
from pathlib import Path

import numpy as np
from conftest import command, fresh_clone, warm_path
from omegaconf import OmegaConf


def idx(*sizes: int, body: bytes, kind: int = 8) -> bytes:
    """An IDX file: magic number, sizes, values."""
    return bytes([0, 0, kind, len(sizes)]) + b"".join(size.to_bytes(4, "big") for size in sizes) + body


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def dvc(clone: Path, *arguments: str) -> str:
    """What DVC prints. Its stages start warm: see helpers/warm.py."""
    return command(["env", f"PATH={warm_path()}", "dvc", *arguments], clone).stdout


def git(clone: Path, *arguments: str) -> str:
    return command(["git", *arguments], clone).stdout


def commit(clone: Path) -> None:
    git(clone, "add", "--all")
    git(clone, "-c", "user.name=a", "-c", "user.email=a@example.org", "commit", "--quiet", "--message=more")


def damage(path: Path) -> None:
    """Changes one byte in the middle of a file, and not its mode: DVC takes what is read-only for whole."""
    mode = path.stat().st_mode
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(content)
    path.chmod(mode)


def make_files(
    folder: Path,
    *,
    train: int,
    test: int,
    seed: int,
    labels: Sequence[int] = range(10),
    side: int = 28,
    prefixes: Sequence[str] = ("train", "t10k"),
) -> dict[str, str]:
    """Writes four files like MNIST's: noise, brighter the higher the class. Returns {name: MD5}."""
    random = np.random.default_rng(seed)
    folder.mkdir(exist_ok=True)
    for prefix, count in zip(prefixes, (train, test), strict=True):
        classes = random.integers(len(labels), size=count, dtype=np.uint8)
        images = random.integers(100, size=(count, side, side), dtype=np.uint8)
        images += 150 // len(labels) * classes[:, None, None]
        for name, values in (("images-idx3", images), ("labels-idx1", np.array(labels, np.uint8)[classes])):
            content = idx(*values.shape, body=values.tobytes())
            (folder / f"{prefix}-{name}-ubyte.gz").write_bytes(gzip.compress(content, mtime=0))
    return {path.name: md5(path.read_bytes()).hexdigest() for path in folder.glob("*.gz")}


def set_source(path: Path, mirror: str, files: dict[str, str]) -> None:
    """Makes a description of where data come from one of these files."""
    config = OmegaConf.load(path)
    assert config.files.keys() == files.keys()
    OmegaConf.save({"mirrors": [mirror], "files": files}, path)


def small_clone(folder: Path) -> Path:
    """The project with 1,000 training images and a short training; the data stages have run, and all is committed."""
    clone = fresh_clone(folder)
    files = make_files(clone / "mirror", train=1200, test=300, seed=0)
    set_source(clone / "conf" / "data" / "source" / "mnist.yaml", "http://127.0.0.1:9/", files)
    edit(clone / "conf" / "data" / "mnist.yaml", "validation: 10000", "validation: 200")
    edit(clone / "conf" / "trainer" / "auto.yaml", "max_epochs: 8", "max_epochs: 1")
    edit(clone / "conf" / "model" / "deep.yaml", "[50, 50, 50, 50, 50, 50, 50, 50]", "[10, 10, 10]")
    edit(clone / "conf" / "hydra" / "sweeper" / "search.yaml", "n_trials: 40", "n_trials: 4")
    edit(clone / "dvc.yaml", "--draws 1000", "--draws 2")
    dvc(clone, "repro", "lesson")
    commit(clone)
    return clone
