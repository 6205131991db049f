"""The IDX files of MNIST and similar data sets."""

import gzip
import zlib
from collections.abc import Iterator
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from initlab.data import DataError

PREFIXES = {"train": "train", "test": "t10k"}  # MNIST's: what the names of its files begin with
IMAGES, LABELS = "{}-images-idx3-ubyte.gz", "{}-labels-idx1-ubyte.gz"


def read_idx(path: Path, *, dimensions: int) -> Tensor:
    """Reads a gzipped IDX file of unsigned bytes as a uint8 tensor with `dimensions` dimensions.

    The header is checked before memory is allocated, and no more is decompressed than the header promises.
    Raises DataError if the file is missing, damaged, empty, or another kind of IDX file.
    Source: LeCun, Cortes & Burges, "The MNIST database", section "File formats".
    """
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
            if promised > 1032 * path.stat().st_size:  # the best ratio of deflate
                raise DataError(f"{path}: promises {promised:,} bytes; its {path.stat().st_size:,} can't hold as many")
            body = bytearray().join(_pieces(file, promised + 1))  # writable, as torch.frombuffer expects
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: {error.strerror if isinstance(error, FileNotFoundError) else error}") from error
    if len(body) != promised:
        found = f"more than {promised:,}" if len(body) > promised else f"{len(body):,}"
        raise DataError(f"{path}: holds {found} bytes; its header promises {' x '.join(map(str, sizes))}")
    return torch.frombuffer(body, dtype=torch.uint8).view(sizes)


def read_pair(folder: Path, prefix: str, *, transpose: bool = False) -> tuple[Tensor, Tensor]:
    """Reads images (N, inputs), pixels in rows, and labels (N,), uint8.

    prefix: what the names of both files begin with, `train` or `t10k` for MNIST.  transpose: swap an image's rows and
    columns, for files that store its columns.
    Raises DataError if a file can't be used, or if they do not match.
    """
    images = read_idx(folder / IMAGES.format(prefix), dimensions=3)
    labels = read_idx(folder / LABELS.format(prefix), dimensions=1)
    if len(images) != len(labels):
        raise DataError(f"{prefix}: labels file holds {len(labels):,} items, images file {len(images):,}")
    if images[0].numel() < 2:
        raise DataError(f"{prefix}: an image is one pixel; expected at least 2")
    return (images.mT if transpose else images).flatten(1), labels


def _pieces(file: gzip.GzipFile, size: int, piece: int = 2**20) -> Iterator[bytes]:
    """Yields up to `size` bytes in pieces. gzip would allocate all of them before it reads any."""
    while size > 0 and (found := file.read(min(piece, size))):
        size -= len(found)
        yield found
