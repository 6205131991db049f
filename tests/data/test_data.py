"""The data: the lesson's numbers, what is refused, and the download over real HTTP from a server on loopback."""

import gzip
import json
import shutil
import threading
from collections.abc import Callable, Iterator
from functools import partial
from hashlib import md5
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT
from helpers.mirror import Quiet, server
from helpers.projects import idx
from omegaconf import OmegaConf
from safetensors.torch import load_file
from torchvision.datasets import MNIST
from torchvision.datasets.mnist import read_sn3_pascalvincent_tensor

from initlab.data import DataError
from initlab.data.download import download_files
from initlab.data.dvc_pin import check_pinned, pinned_hash
from initlab.data.idx import read_idx
from initlab.data.normalize import split, write_normalized
from initlab.data.normalized_files import load, read_facts, verify

SOURCE = OmegaConf.load(ROOT / "conf" / "data" / "source" / "mnist.yaml")
FILES = dict(SOURCE.files)


def regime(name: str) -> dict:
    config = OmegaConf.load(ROOT / "conf" / "data" / f"{name}.yaml")
    return {"validation": config.validation, "scale": config.scale}


def unzipped(path: Path) -> bytes:
    return gzip.decompress(path.read_bytes())


def test_mirrors_and_checksums_are_torchvisions() -> None:
    assert list(SOURCE.mirrors) == MNIST.mirrors
    assert dict(MNIST.resources) == FILES


def test_facts_of_mnist(raw: Path, tmp_path: Path) -> None:
    """The lesson's second version: 50,000 x 784, mean 0.1304, std 0.3073; validation -0.0059 and 0.9924."""
    facts = write_normalized(raw, tmp_path, **regime("mnist"))
    assert (facts["mean"], facts["std"]) == pytest.approx((0.1304, 0.3073), abs=5e-5)
    train, validation = facts["splits"]["train"], facts["splits"]["validation"]
    assert (train["images"], validation["images"], facts["splits"]["test"]["images"]) == (50_000, 10_000, 10_000)
    assert (facts["inputs"], facts["classes"]) == (784, 10)
    assert (train["mean"], train["std"]) == pytest.approx((0, 1), abs=1e-12)
    assert (validation["mean"], validation["std"]) == pytest.approx((-0.00585, 0.9924), abs=1e-4)


def test_facts_of_mnist_60k(raw: Path, tmp_path: Path) -> None:
    """The lesson's first version: 60,000 x 784, mean 33.3184, std 78.5675, before; 0 and 1 after."""
    facts = write_normalized(raw, tmp_path, **regime("mnist_60k"))
    assert (facts["mean"], facts["std"]) == pytest.approx((33.3184, 78.5675), abs=5e-5)
    assert facts["splits"]["train"]["images"] == 60_000
    assert facts["splits"]["validation"]["sha256"] == facts["splits"]["test"]["sha256"]
    images = load_file(tmp_path / "train.safetensors")["images"].double()
    assert images.shape == (60_000, 784)
    # 47 million entries of order 1, each rounded to float32 with a relative error below 6e-8.
    assert abs(images.mean().item()) < 6e-8
    assert images.std().item() == pytest.approx(1, abs=6e-8)


def test_images_are_the_files_pixels(raw: Path, normalized: Path) -> None:
    """(pixel / 256 - mean) / std, pixel for pixel, in the files' order; the last 10,000 held out."""
    pixels = torch.frombuffer(bytearray(unzipped(raw / "train-images-idx3-ubyte.gz")[16:]), dtype=torch.uint8)
    facts = read_facts(normalized)
    expected = (pixels.view(-1, 784)[49_990:50_010].double() / 256 - facts["mean"]) / facts["std"]
    train, _ = load(normalized, "train")
    validation, labels = load(normalized, "validation")
    torch.testing.assert_close(torch.cat([train[-10:], validation[:10]]), expected.float(), rtol=0, atol=0)
    raw_labels = unzipped(raw / "train-labels-idx1-ubyte.gz")[8:]
    assert labels.tolist() == list(raw_labels[50_000:])


def test_read_idx_reads_what_torchvision_reads(raw: Path, tmp_path: Path) -> None:
    """Its reader takes the path of a file that is not compressed."""
    for name, dimensions in (("t10k-images-idx3-ubyte", 3), ("t10k-labels-idx1-ubyte", 1)):
        (tmp_path / name).write_bytes(unzipped(raw / f"{name}.gz"))
        expected = read_sn3_pascalvincent_tensor(str(tmp_path / name))
        assert torch.equal(read_idx(raw / f"{name}.gz", dimensions=dimensions), expected)


def test_normalised_files_are_the_pinned_ones(raw: Path, normalized: Path, tmp_path: Path) -> None:
    """The same bytes on every machine: the hash in dvc.lock, which DVC takes over the sorted list of all files' MD5."""
    write_normalized(raw, tmp_path / "mnist_60k", **regime("mnist_60k"))
    files = [*normalized.parent.rglob("*.*"), *tmp_path.rglob("*.*")]
    paths = {"/".join(file.parts[-2:]): file for file in files}
    listing = [{"md5": md5(paths[name].read_bytes()).hexdigest(), "relpath": name} for name in sorted(paths)]
    (pinned,) = OmegaConf.load(ROOT / "dvc.lock").stages.normalize.outs
    assert md5(json.dumps(listing).encode()).hexdigest() + ".dir" == pinned.md5


@pytest.mark.faults(
    "a normalised file is torn, damaged or missing",
    "refused by name; `dvc repro -f normalize`",
)
def test_verify_and_load_refuse_damage(normalized: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mnist"
    with pytest.raises(DataError, match="holds no normalised data; in the project's root, make it with"):
        verify(folder)
    shutil.copytree(normalized, folder)
    with (folder / "test.safetensors").open("r+b") as file:  # one bit
        file.seek(5000)
        byte = file.read(1)[0]
        file.seek(5000)
        file.write(bytes([byte ^ 1]))
    with pytest.raises(DataError, match=r"test.safetensors is missing or damaged.*dvc repro -f normalize"):
        load(folder, "test")


@pytest.mark.faults(
    "an IDX file that is torn, too long, of another kind, or promises more than it can hold",
    "refused by name, before memory is set aside for it",
)
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (idx(2, 2, 2, body=bytes(7)), "holds 7 bytes; its header promises 2 x 2 x 2"),
        (idx(2, 2, 2, body=bytes(9)), "holds more than 8 bytes"),
        (idx(2, 2, 2, body=bytes(64), kind=13), "begins with 00 00 0d 03; expected 00 00 08 03"),
        (idx(8, body=bytes(8)), "begins with 00 00 08 01; expected 00 00 08 03"),
        (idx(2, 2, 2, body=b"")[:9], "expected 00 00 08 03"),
        (idx(2**31, 2**31, 2**31, body=bytes(8)), r"promises 9,903,520,314,283,042,199,192,993,792 bytes"),
        (b"", "expected 00 00 08 03"),
        (idx(0, 28, 28, body=b""), "is empty; its header promises 0 x 28 x 28 bytes"),
    ],
    ids=["short", "long", "float", "labels", "cut header", "bomb", "empty", "no images"],
)
def test_read_idx_refuses(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "file.gz"
    path.write_bytes(gzip.compress(content))
    with pytest.raises(DataError, match=message):
        read_idx(path, dimensions=3)


def test_read_idx_refuses_what_is_no_gzip(tmp_path: Path) -> None:
    path = tmp_path / "file.gz"
    with pytest.raises(DataError, match="No such file"):
        read_idx(path, dimensions=1)
    path.write_bytes(b"<html>404</html>")
    with pytest.raises(DataError, match="Not a gzipped file"):
        read_idx(path, dimensions=1)
    path.write_bytes(gzip.compress(idx(100, body=bytes(range(100))))[:-20])
    with pytest.raises(DataError, match="ended before the end-of-stream marker"):
        read_idx(path, dimensions=1)
    path.write_bytes(gzip.compress(b"")[:10] + b"\xff" * 20)
    with pytest.raises(DataError, match="Error -3 while decompressing data"):
        read_idx(path, dimensions=1)


def test_images_and_labels_must_agree(raw: Path, tmp_path: Path) -> None:
    shutil.copytree(raw, tmp_path, dirs_exist_ok=True)
    labels = unzipped(raw / "t10k-labels-idx1-ubyte.gz")[8:]
    target = tmp_path / "t10k-labels-idx1-ubyte.gz"
    target.write_bytes(gzip.compress(idx(9_999, body=labels[:-1])))
    with pytest.raises(DataError, match="t10k: labels file holds 9,999 items, images file 10,000"):
        split(tmp_path, None)
    target.write_bytes(gzip.compress(idx(10_000, body=labels[:-1] + b"\x0b")))
    with pytest.raises(DataError, match="t10k: a label is 11; in the training file they are 0 to 9"):
        split(tmp_path, None)
    target.write_bytes(gzip.compress(idx(10_000, body=labels)))
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(10_000, 2, 2, body=bytes(40_000))))
    with pytest.raises(DataError, match="t10k: an image is 4 pixels; in the training file 784"):
        split(tmp_path, None)


@pytest.mark.parametrize(
    ("content", "expected"),
    [("outs: [{md5: ab.dir}]", "ab.dir"), ("outs: []", None), ("outs: 1", None), ("[", None), (None, None)],
)
def test_a_pin_is_read_or_refused(content: str | None, expected: str | None, tmp_path: Path) -> None:
    path = tmp_path / "data.dvc"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    if expected is not None:
        assert pinned_hash(str(path)) == expected
    else:
        with pytest.raises(DataError, match=f"data.pin is '{path}'; expected null, or the name of a .dvc file"):
            pinned_hash(str(path))


def test_no_pin_is_no_promise(raw: Path) -> None:
    assert pinned_hash(None) is None
    check_pinned(raw, None)


@pytest.mark.parametrize("validation", [0, 60_000, -1, "many"])
def test_split_refuses(raw: Path, validation: Any) -> None:
    with pytest.raises(DataError, match=f"validation is {validation!r}"):
        split(raw, validation)


# Download: every mirror here is a real HTTP server.


class Faulty(Quiet):
    """A mirror with one fault, by the name of the class that inherits from it."""

    def answer(self, status: int, body: bytes, length: int | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)


class Truncated(Faulty):
    def do_GET(self) -> None:
        self.answer(200, b"\x1f\x8b" * 100, length=1000)


class WrongBytes(Faulty):
    def do_GET(self) -> None:
        self.answer(200, b"<html>moved</html>")


class Error500(Faulty):
    def do_GET(self) -> None:
        self.answer(500, b"")


class Reset(Faulty):
    def do_GET(self) -> None:
        self.connection.close()


class CutChunk(Faulty):
    def do_GET(self) -> None:
        self.protocol_version = "HTTP/1.1"
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.write(b"ff\r\nshort")


class Silent(Faulty):
    released = threading.Event()

    def do_GET(self) -> None:
        self.released.wait(30)


FAULTS = [Truncated, WrongBytes, Error500, Reset, CutChunk, Silent]
SMALL = {name: FILES[name] for name in FILES if "labels" in name}


@pytest.fixture(autouse=True)
def release() -> Iterator[None]:
    Silent.released.clear()
    yield
    Silent.released.set()


def good(raw: Path) -> Callable[..., BaseHTTPRequestHandler]:
    return partial(Quiet, directory=str(raw))


@pytest.mark.faults(
    "a mirror that is dead, slow, silent, cut off, or serves something else: one way each",
    "the next mirror is asked; only bytes with the right checksum are kept",
)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("fault", FAULTS)
def test_download_falls_through_to_the_next_mirror(
    fault: type[Faulty], raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with server(fault) as bad, server(good(raw)) as fine:
        download_files([bad, fine], SMALL, tmp_path / "mirror", timeout=1, retries=0)
        Silent.released.set()
    assert {file.name: md5(file.read_bytes()).hexdigest() for file in (tmp_path / "mirror").iterdir()} == SMALL


@pytest.mark.faults(
    "no mirror serves the right bytes",
    "an error that names each failure; nothing is half written",
)
def test_download_leaves_nothing_when_no_mirror_is_left(raw: Path, tmp_path: Path) -> None:
    """Not even the file that could be fetched: the labels of one mirror would stand beside nothing."""

    class OneFile(Quiet):
        def do_GET(self) -> None:
            if "train" in self.path:
                super().do_GET()
            else:
                self.send_error(404)

    with (
        server(partial(OneFile, directory=str(raw))) as partly,
        server(WrongBytes) as wrong,
        pytest.raises(DataError, match="no mirror serves t10k-labels") as caught,
    ):
        download_files([partly, wrong, "http://127.0.0.1:9/"], SMALL, tmp_path / "mirror", timeout=1, retries=0)
    message = str(caught.value)
    assert [word in message for word in (partly, wrong, "127.0.0.1:9", "404", "hash")] == [True] * 5
    assert list((tmp_path / "mirror").iterdir()) == []
    assert [path.name for path in tmp_path.iterdir()] == ["mirror"]


def test_download_keeps_what_is_right_and_mends_what_is_not(raw: Path, tmp_path: Path) -> None:
    """A file with the right checksum is not asked for again: the mirror here has only the other one."""
    kept, damaged = sorted(SMALL)
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    shutil.copy(raw / kept, mirror)
    (mirror / damaged).write_bytes(b"half")
    (tmp_path / "served").mkdir()
    shutil.copy(raw / damaged, tmp_path / "served")
    with server(good(tmp_path / "served")) as url:
        download_files([url], SMALL, mirror, timeout=5, retries=0)
    assert md5((mirror / damaged).read_bytes()).hexdigest() == SMALL[damaged]


def test_download_tries_a_mirror_again(raw: Path, tmp_path: Path) -> None:
    class FirstTimeBusy(Quiet):
        asked = 0

        def do_GET(self) -> None:
            type(self).asked += 1
            if self.asked == 1:
                self.send_error(503)
            else:
                super().do_GET()

    name = sorted(SMALL)[0]
    with server(partial(FirstTimeBusy, directory=str(raw))) as url:
        download_files([url], {name: SMALL[name]}, tmp_path / "mirror", timeout=5, retries=1)
    assert FirstTimeBusy.asked == 2
    assert (tmp_path / "mirror" / name).exists()
