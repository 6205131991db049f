"""MNIST, and what comes in files like its: download, verify, read, split, normalise. The DVC stages call it:

python -m initlab.mnist download conf/data/source/mnist.yaml mirror
python -m initlab.mnist normalize data/raw data/normalized conf/data/mnist.yaml conf/data/mnist_60k.yaml
"""

import gzip
import hashlib
import json
import sys
import tempfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from math import isfinite, prod, sqrt
from pathlib import Path

import torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from safetensors.torch import load_file, save_file
from torch import Tensor
from yaml import YAMLError

CLASSES = 10
SPLITS = ("train", "validation", "test")
FACTS = {"raw": str, "scale": float, "mean": float, "std": float, "inputs": int, "classes": int, "splits": dict}
SPLIT_FACTS = {"images": int, "mean": float, "std": float, "sha256": str}
SCALES = 1e-300, 1e300  # pixels divided by less, or by more, are out of a float's range
PREFIXES = ("train", "t10k")
IMAGES, LABELS = "{}-images-idx3-ubyte.gz", "{}-labels-idx1-ubyte.gz"


class DataError(ValueError):
    """A data file is missing, damaged, or not what was expected."""


def download(
    mirrors: Sequence[str], files: Mapping[str, str], folder: Path, *, timeout: float = 20, retries: int = 1
) -> None:
    """Fetches `files` ({name: MD5}) into `folder`: mirror after mirror, until one serves the right bytes.

    timeout: seconds a mirror may stay silent.  retries: further tries at one mirror before the next one is asked.
    Files that are already there and right are kept. All are in place at the end, or none is touched.
    Raises DataError, naming every failure, when a file is to be had from no mirror.
    """
    import pooch  # half a second, and needs the network: nothing else here does

    folder.mkdir(parents=True, exist_ok=True)
    missing = {name: md5 for name, md5 in files.items() if not _matches(folder / name, md5)}
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
            Path(partial, name).chmod(0o644)  # temporary files are their owner's alone
            Path(partial, name).replace(folder / name)


def read_idx(path: Path, *, dimensions: int) -> Tensor:
    """A gzipped IDX file of unsigned bytes -> uint8 tensor of that many dimensions.

    The header is checked before memory is set aside, no more is inflated than it promises, and memory grows with it.
    Raises DataError if the file is missing, damaged, empty, or another kind of IDX file.
    Source: LeCun, Cortes & Burges, "The MNIST database", section "File formats".
    """
    from torchvision.datasets.mnist import read_sn3_pascalvincent_tensor  # seconds, and only this stage reads IDX

    header_size = 4 + 4 * dimensions
    try:
        with gzip.open(path) as file:
            header = file.read(header_size)
            magic = bytes([0, 0, 8, dimensions])  # 0, 0, type (8: unsigned byte), dimensions
            if header[:4] != magic or len(header) < header_size:
                raise DataError(f"{path}: begins with {header[:4].hex(' ')}; expected {magic.hex(' ')}, an IDX header")
            sizes = [int.from_bytes(header[i : i + 4], "big") for i in range(4, header_size, 4)]
            promised = prod(sizes)
            if promised == 0:
                raise DataError(f"{path}: is empty; its header promises {' x '.join(map(str, sizes))} bytes")
            if promised > 1032 * path.stat().st_size:  # deflate's best ratio
                raise DataError(f"{path}: promises {promised:,} bytes; its {path.stat().st_size:,} can't hold as many")
            body = b"".join(_pieces(file, promised + 1))
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: {error.strerror if isinstance(error, FileNotFoundError) else error}") from error
    if len(body) != promised:
        found = f"more than {promised:,}" if len(body) > promised else f"{len(body):,}"
        raise DataError(f"{path}: holds {found} bytes; its header promises {' x '.join(map(str, sizes))}")
    with tempfile.NamedTemporaryFile() as plain:  # torchvision's reader takes a path
        plain.write(header + body)
        plain.flush()
        return read_sn3_pascalvincent_tensor(plain.name)


def read_pair(folder: Path, prefix: str) -> tuple[Tensor, Tensor]:
    """Images (N, 784) and labels (N,), uint8, of `train` or `t10k`. Raises DataError if they do not agree."""
    images = read_idx(folder / IMAGES.format(prefix), dimensions=3)
    labels = read_idx(folder / LABELS.format(prefix), dimensions=1)
    if len(images) != len(labels):
        raise DataError(f"{prefix}: labels file holds {len(labels):,} items, images file {len(images):,}")
    if images[0].numel() < 2:
        raise DataError(f"{prefix}: an image is one pixel; expected at least 2")
    if labels.max() >= CLASSES:
        raise DataError(f"{prefix}: labels go up to {labels.max()}; expected 0 to {CLASSES - 1}")
    return images.flatten(1), labels


def pin(folder: Path) -> str:
    """The hash of the four files together that DVC gives a directory, and a .dvc file pins: MD5 of their listing."""
    names = sorted(name for prefix in PREFIXES for name in (IMAGES.format(prefix), LABELS.format(prefix)))
    listing = [{"md5": _digest(folder / name, "md5"), "relpath": name} for name in names]
    return f"{hashlib.md5(json.dumps(listing).encode(), usedforsecurity=False).hexdigest()}.dir"


def pinned(by: str | None) -> str | None:
    """The hash of the data that this .dvc file pins; None if none is named: then all data are right."""
    if by is None:
        return None
    try:
        return OmegaConf.load(by).outs[0].md5
    except (OSError, YAMLError, OmegaConfBaseException, AttributeError, TypeError) as error:
        raise DataError(f"data.pin is {by!r}; expected null, or the name of a .dvc file that is here") from error


def refuse_unpinned(folder: Path, by: str | None) -> None:
    """Raises DataError if the files are not the ones that this .dvc file pins."""
    expected = pinned(by)
    if expected is None:
        return
    # DVC takes a copy that is read-only for whole; of others it takes the hash, and throws away what is damaged.
    # An import is made again; files that were added are taken from the cache: to add them again would pin the damage.
    again = "repro" if "deps" in OmegaConf.load(str(by)) else "checkout"
    restore = f"chmod -R u+w .dvc/cache && dvc {again} -f {by}"
    try:
        found = pin(folder)
    except OSError as error:
        raise DataError(f"{error.filename}: {error.strerror}; get it back with: {restore}") from error
    if found != expected:
        raise DataError(
            f"{folder} holds data {found}; {by} pins {expected}: a file, or DVC's copy of it, is damaged, or of "
            f"another version; get them back with: {restore}"
        )


def split(folder: Path, validation: int | None) -> dict[str, tuple[Tensor, Tensor]]:
    """{split: (images (N, 784), labels (N,))}, uint8.

    validation: images held out, the last of the training file; None: none are, and the test file serves for both.
    """
    images, labels = read_pair(folder, "train")
    test = read_pair(folder, "t10k")
    if test[0].shape[1] != images.shape[1]:
        raise DataError(f"t10k: an image is {test[0].shape[1]:,} pixels; in the training file {images.shape[1]:,}")
    if validation is None:
        return {"train": (images, labels), "validation": test, "test": test}
    if type(validation) is not int or not 0 < validation < len(images):
        raise DataError(f"validation is {validation!r}; expected null or a whole number from 1 to {len(images) - 1:,}")
    kept = len(images) - validation
    return {
        "train": (images[:kept], labels[:kept]),
        "validation": (images[kept:], labels[kept:]),
        "test": test,
    }


def moments(images: Tensor) -> tuple[float, float]:
    """Mean and standard deviation (n - 1) of uint8 pixels, from integer sums: exact, so the same on every machine."""
    counts = torch.bincount(images.flatten(), minlength=256).tolist()
    n = sum(counts)
    first = sum(value * count for value, count in enumerate(counts))
    second = sum(value**2 * count for value, count in enumerate(counts))
    return first / n, sqrt((n * second - first**2) / (n * (n - 1)))


def pixel_values(mean: float, std: float, scale: float) -> Tensor:
    """What pixels of value 0..255 are normalised to, (pixel / scale - mean) / std, made in float64: (256,) float32."""
    return ((torch.arange(256, dtype=torch.float64) / scale - mean) / std).float()


def normalize(raw: Path, folder: Path, *, validation: int | None, scale: float) -> dict:
    """Writes the splits to `folder`: images (N, 784) float32, labels (N,) int64, and facts.json; returns the facts.

    Pixels are divided by `scale`, then normalised with the training mean and std, all three splits alike: looked up in
    `pixel_values`.
    """
    if not isinstance(scale, (int, float)) or isinstance(scale, bool) or not SCALES[0] <= scale <= SCALES[1]:
        raise DataError(f"scale is {scale!r}; expected a positive number, {SCALES[0]} to {SCALES[1]}")
    scale = float(scale)
    splits = split(raw, validation)
    mean, std = (value / scale for value in moments(splits["train"][0]))
    if std == 0:
        raise DataError(f"{raw}: every training pixel has the same value")
    table = pixel_values(mean, std, scale)
    inputs = splits["train"][0].shape[1]
    facts: dict = {"raw": pin(raw), "scale": scale, "mean": mean, "std": std, "inputs": inputs, "classes": CLASSES}
    facts["splits"] = {}
    folder.mkdir(parents=True, exist_ok=True)
    for name, (images, labels) in splits.items():
        path = folder / f"{name}.safetensors"
        save_file({"images": table[images.int()], "labels": labels.long()}, path)
        pixel_mean, pixel_std = moments(images)
        facts["splits"][name] = {
            "images": len(images),
            "mean": (pixel_mean / scale - mean) / std,
            "std": pixel_std / scale / std,
            "sha256": _digest(path, "sha256"),
        }
    (folder / "facts.json").write_text(json.dumps(facts, indent=2) + "\n")
    return facts


def read_facts(folder: Path) -> dict:
    """What `normalize` noted: scale, mean, std, inputs, classes, and of each split its size and SHA-256."""
    try:
        facts = json.loads((folder / "facts.json").read_text())
        if not _are_facts(facts):
            raise ValueError("not what the normalize stage writes")
    except OSError:
        raise DataError(
            f"{folder.absolute()} holds no normalised data; in the project's root, make it with: dvc repro normalize"
        ) from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{folder}/facts.json: {error}; make it again with: dvc repro -f normalize") from None
    return facts


@cache
def verify(folder: Path) -> None:
    """Checks, once a process, that the normalised files are the ones `normalize` wrote. Raises DataError if not."""
    for name, fact in read_facts(folder)["splits"].items():
        if not _matches(folder / f"{name}.safetensors", fact["sha256"], "sha256"):
            raise DataError(
                f"{folder}/{name}.safetensors is missing or damaged; make it again with: dvc repro -f normalize"
            )


def load(folder: Path, name: str) -> tuple[Tensor, Tensor]:
    """Images (N, 784) float32 and labels (N,) int64 of a verified split; the file is mapped, not read."""
    verify(folder)
    tensors = load_file(folder / f"{name}.safetensors")
    return tensors["images"], tensors["labels"]


def _pieces(file: gzip.GzipFile, size: int, piece: int = 2**20) -> Iterator[bytes]:
    """Up to `size` bytes, a piece at a time: asked for all at once, they are set aside before any is read."""
    while size > 0 and (found := file.read(min(piece, size))):
        size -= len(found)
        yield found


def _are_facts(found: object) -> bool:
    """Whether all that `normalize` notes is there and nothing else, each of its type, and numbers in their range."""

    def like(values: object, kinds: Mapping[str, type]) -> bool:
        return isinstance(values, dict) and {name: type(value) for name, value in values.items()} == kinds

    def in_range(value: object) -> bool:
        return not ((isinstance(value, float) and not isfinite(value)) or (isinstance(value, int) and value < 1))

    if not isinstance(found, dict) or not like(found, FACTS) or found["splits"].keys() != set(SPLITS):
        return False
    splits = found["splits"].values()
    return all(like(split, SPLIT_FACTS) for split in splits) and all(
        in_range(value) for facts in (found, *splits) for value in facts.values()
    )


def _matches(path: Path, expected: str, algorithm: str = "md5") -> bool:
    return path.is_file() and _digest(path, algorithm) == expected


def _digest(path: Path, algorithm: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def _report(name: str, facts: dict) -> str:
    """The facts as the normalize stage prints them."""
    lines = [f"{name}: training mean {facts['mean']:.4f}, std {facts['std']:.4f}; {facts['classes']} classes"]
    for split_name, fact in facts["splits"].items():
        size = f"{fact['images']} x {facts['inputs']}"
        mean = f"{fact['mean']:.4f}".replace("-0.0000", "0.0000")
        lines.append(f"  {split_name:<10} {size:>11}   normalised mean {mean:>7}, std {fact['std']:.4f}")
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> None:
    """The DVC stages: `download SOURCE.yaml FOLDER` and `normalize RAW OUT REGIME.yaml...`."""
    match arguments:
        case ["download", source, folder]:
            config = OmegaConf.load(source)
            download(config.mirrors, config.files, Path(folder))
        case ["normalize", raw, out, *regimes]:
            for regime in map(Path, regimes):
                config = OmegaConf.load(regime)
                refuse_unpinned(Path(raw), OmegaConf.select(config, "pin"))
                facts = normalize(Path(raw), Path(out, regime.stem), validation=config.validation, scale=config.scale)
                print(_report(regime.stem, facts))
        case _:
            raise DataError(f"arguments are {' '.join(arguments)!r}; expected:{__doc__.split(':', 2)[2]}")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except DataError as error:
        sys.exit(f"error: {error}")
