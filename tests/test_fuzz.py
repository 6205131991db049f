"""Input without end: what is taken is right, and whatever else happens is a refusal, in words, by the code's own error.

100 examples a test, the same each time; `pytest tests/test_fuzz.py --hypothesis-profile=long` draws 2,000 new ones.
"""

import gzip
import json
import re
import resource
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from math import inf, isfinite, nan, prod
from pathlib import Path
from random import Random
from typing import Any, TypeVar

import numpy as np
import psutil
import pytest
import torch
from conftest import ROOT
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from hypothesis import example, given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from pytorch_lightning import Callback
from pytorch_lightning.loggers import Logger
from torch import nn
from torch.optim import Optimizer
from torchvision.datasets.mnist import read_sn3_pascalvincent_tensor  # noqa: F401 (imported here, it is no one's memory)

from initlab.data import DataError
from initlab.data.idx import read_idx
from initlab.data.normalize import write_normalized
from initlab.data.normalized_files import SPLITS, load, read_facts, verify
from initlab.nn import activations, init, mlp, theory
from initlab.nn.activations import Activation, ReLU
from initlab.nn.losses import CrossEntropy, MeanSquaredError
from initlab.sweep.errors import concise_errors
from initlab.training.build import Components, build

MEGABYTE = 2**20
T = TypeVar("T")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all the examples of a test: each writes over what the one before it has left."""
    return tmp_path_factory.mktemp("fuzz")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty training and twenty test images of six pixels, whose values are 0, 1, 2... throughout a file."""
    raw = tmp_path_factory.mktemp("tiny")
    for prefix, count in (("train", 40), ("t10k", 20)):
        pixels, labels = bytes(range(6 * count)), bytes(i % 10 for i in range(count))
        (raw / f"{prefix}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(count, 2, 3, body=pixels)))
        (raw / f"{prefix}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(count, body=labels)))
    return raw


@pytest.fixture(scope="module")
def normalised(tiny: Path) -> Path:
    write_normalized(tiny, tiny / "normalised", validation=10, scale=256)
    return tiny / "normalised"


LARGE = [10**400, -(10**400), 10**20, 2**63, 1e18, 1e200, -1e200, 1e300, 1.7e308, inf]
EXTREME = st.sampled_from([*LARGE, 0, -1, 1e-300, 5e-324, nan])
HOSTILE = st.one_of(
    *[EXTREME, EXTREME, st.none(), st.booleans(), st.integers(), st.floats()],
    *[st.text(max_size=3), st.lists(st.integers(), max_size=2)],
)


def attempt(make: Callable[[], T], error: type[BaseException]) -> tuple[T, None] | tuple[None, BaseException]:
    """What it makes, or the error of that kind that it raises instead; any other goes on its way."""
    try:
        return make(), None
    except error as refusal:
        return None, refusal


# IDX files


def idx(*sizes: int, body: bytes) -> bytes:
    return bytes([0, 0, 8, len(sizes)]) + b"".join(size.to_bytes(4, "big") for size in sizes) + body


@st.composite
def honest(draw: st.DrawFn, dimensions: int) -> bytes:
    """An IDX file that holds what its header says."""
    sizes = draw(st.lists(st.integers(1, 5) | st.integers(0, 5), min_size=dimensions, max_size=dimensions))
    return idx(*sizes, body=draw(st.binary(min_size=prod(sizes), max_size=prod(sizes))))


@st.composite
def lying(draw: st.DrawFn, dimensions: int) -> bytes:
    """Any header, of any kind, before a body of up to 2 MB that deflate makes small."""
    sizes = draw(st.lists(st.integers(0, 2**32 - 1) | st.integers(0, 300), min_size=dimensions, max_size=dimensions))
    count = draw(st.sampled_from([0, 1, 4096, 2 * MEGABYTE, prod(sizes) % (2 * MEGABYTE)]))
    header = draw(st.just(b"") | st.binary(max_size=4))
    return header + idx(*sizes, body=bytes(count))[len(header) :]


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """Some bytes changed, the end cut off, or something behind it."""
    changed = bytearray(content)
    for place in draw(st.lists(st.integers(0, len(content)), max_size=3)):
        changed[place : place + 1] = draw(st.binary(min_size=1, max_size=1))
    end = draw(st.none() | st.integers(0, len(changed)))
    return bytes(changed[:end]) + draw(st.just(b"") | st.binary(max_size=20))


@st.composite
def zipped(draw: st.DrawFn, contents: st.SearchStrategy[bytes]) -> bytes:
    """As one gzip member, or as two in a row."""
    content = draw(contents)
    cut = draw(st.integers(0, len(content)))
    return gzip.compress(content[:cut]) + gzip.compress(content[cut:]) if cut else gzip.compress(content)


def files(dimensions: int) -> st.SearchStrategy[bytes]:
    return st.one_of(
        zipped(honest(dimensions)),
        zipped(honest(dimensions).flatmap(damaged)),
        zipped(honest(dimensions)).flatmap(damaged),
        lying(dimensions).map(gzip.compress),
        lying(dimensions).map(gzip.compress).flatmap(damaged),
        zipped(st.binary(max_size=100)),
        st.binary(max_size=100),
    )


@pytest.mark.parametrize("dimensions", [1, 3])
@given(data=st.data())
def test_an_idx_file_is_read_right_or_refused(dimensions: int, data: st.DataObject, folder: Path) -> None:
    """Read right: the file is what the tensor would be written as."""
    path = folder / "file.gz"
    path.write_bytes(data.draw(files(dimensions)))
    tensor, refusal = attempt(lambda: read_idx(path, dimensions=dimensions), DataError)
    if tensor is None:
        assert str(path) in str(refusal)
    else:
        assert tensor.dtype == torch.uint8
        assert gzip.decompress(path.read_bytes()) == idx(*tensor.shape, body=tensor.numpy().tobytes())


@contextmanager
def at_most(limit: int) -> Iterator[None]:
    """Fails if Python sets more bytes aside than that."""
    tracemalloc.start()
    try:
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < limit


@given(sizes=st.lists(st.integers(2**10, 2**32 - 1), min_size=3, max_size=3))
def test_a_promise_that_the_file_cannot_keep_costs_no_memory(sizes: list[int], folder: Path) -> None:
    """A gigabyte and more in the header of less than 2 kB, which is a bomb of 1 MB."""
    path = folder / "bomb.gz"
    path.write_bytes(gzip.compress(idx(*sizes, body=bytes(MEGABYTE))))
    with at_most(MEGABYTE), pytest.raises(DataError, match="can't hold as many"):
        read_idx(path, dimensions=3)


def test_a_promise_that_the_file_does_not_keep_costs_no_more_than_the_file_holds(folder: Path) -> None:
    """A gigabyte, of which 2 MB that deflate makes no smaller could be the beginning."""
    path = folder / "short.gz"
    path.write_bytes(gzip.compress(idx(2**10, 2**10, 2**10, body=Random(0).randbytes(2 * MEGABYTE))))
    with at_most(8 * MEGABYTE), pytest.raises(DataError, match="holds 2,097,152 bytes; its header promises 1024"):
        read_idx(path, dimensions=3)


def test_what_comes_behind_a_kept_promise_costs_no_memory(folder: Path) -> None:
    """Sixty-four megabytes behind eight bytes."""
    path = folder / "long.gz"
    path.write_bytes(gzip.compress(idx(2, 2, 2, body=bytes(64 * MEGABYTE))))
    with at_most(MEGABYTE), pytest.raises(DataError, match="holds more than 8 bytes"):
        read_idx(path, dimensions=3)


@st.composite
def raw_files(draw: st.DrawFn) -> dict[str, bytes]:
    """The four files, half the time with a fault."""
    fault = draw(st.sampled_from([""] * 5 + ["empty", "one pixel", "other pixels", "missing label", "unknown label"]))
    files = {}
    known: Sequence[int] = range(256)
    height, width = (1, 1) if fault == "one pixel" else draw(st.sampled_from([(1, 2), (2, 1), (2, 3)]))
    for prefix in ("train", "t10k"):
        faulty = draw(st.booleans())
        count = 0 if fault == "empty" and faulty else draw(st.integers(1, 8))
        shape = count, height + (fault == "other pixels" and faulty), width
        pixels = draw(st.binary(min_size=prod(shape), max_size=prod(shape)))
        labels = draw(st.lists(st.sampled_from(known), min_size=count, max_size=count))
        if labels and fault != "unknown label":
            known = labels
        if fault == "missing label" and faulty:
            labels = labels[1:]
        files[f"{prefix}-images-idx3-ubyte.gz"] = gzip.compress(idx(*shape, body=pixels))
        files[f"{prefix}-labels-idx1-ubyte.gz"] = gzip.compress(idx(len(labels), body=bytes(labels)))
    return files


def pixels(files: dict[str, bytes], prefix: str) -> tuple[np.ndarray, list[int]]:
    """Of files that agree: images (N, pixels) and labels, read in the plainest way there is."""
    images, labels = (gzip.decompress(files[f"{prefix}-{kind}-ubyte.gz"]) for kind in ("images-idx3", "labels-idx1"))
    return np.frombuffer(images[16:], np.uint8).reshape(len(labels) - 8, -1), list(labels[8:])


@given(files=raw_files(), validation=st.none() | st.integers(0, 4), scale=st.floats(0.1, 300))
def test_data_is_normalised_right_or_refused(
    files: dict[str, bytes], validation: int | None, scale: float, folder: Path
) -> None:
    """Every split in the files' order, with the training mean 0 and standard deviation 1; facts.json reads back.

    Classes are the ranks of the training file's labels.
    """
    raw, out = folder / "raw", folder / "out"
    raw.mkdir(exist_ok=True)
    for name, content in files.items():
        (raw / name).write_bytes(content)
    facts, _ = attempt(lambda: write_normalized(raw, out, validation=validation, scale=scale), DataError)
    if facts is None:
        return
    assert read_facts(out) == facts
    (train, train_labels), (test, test_labels) = (pixels(files, prefix) for prefix in ("train", "t10k"))
    kept = len(train) - (validation or 0)
    expected = {"train": (train[:kept], train_labels[:kept]), "test": (test, test_labels)}
    expected["validation"] = expected["test"] if validation is None else (train[kept:], train_labels[kept:])
    mean, std = train[:kept].mean(), train[:kept].std(ddof=1)
    assert (facts["mean"] * scale, facts["std"] * scale) == pytest.approx((mean, std))
    known = sorted(set(train_labels))
    assert (facts["classes"], facts.get("labels", list(range(len(known))))) == (len(known), known)
    verify.cache_clear()  # the folder is another one's
    for name, (images, labels) in expected.items():
        found, found_labels = load(out, name)
        assert found.shape == (facts["splits"][name]["images"], facts["inputs"])
        assert found_labels.tolist() == [known.index(label) for label in labels]
        torch.testing.assert_close(found, torch.from_numpy((images - mean) / std).float(), rtol=1e-5, atol=1e-5)


@given(regime=st.tuples(st.just(10), HOSTILE) | st.tuples(HOSTILE, st.just(256)))
def test_any_regime_gives_the_same_images_or_is_refused(regime: tuple[Any, Any], tiny: Path, folder: Path) -> None:
    """Once they are normalised, what they were divided by does not matter."""
    validation, scale = regime
    out = folder / "regime"
    facts, refusal = attempt(lambda: write_normalized(tiny, out, validation=validation, scale=scale), DataError)
    if facts is None:
        names = {"validation": validation, "scale": scale}
        assert str(refusal).startswith(tuple(f"{name} is {value!r}; expected " for name, value in names.items()))
        return
    assert not isinstance(scale, bool)
    assert validation is None or type(validation) is int
    verify.cache_clear()
    (train, _), (images, _) = (load(out, name) for name in ("train", "test"))
    steps = torch.arange(6.0 * len(images)).view(-1, 6) / torch.arange(6.0 * len(train)).std()
    torch.testing.assert_close(images - images[0, 0], steps, rtol=1e-5, atol=1e-5)


# facts.json

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
FACTS = {
    "raw": "0" * 32 + ".dir",
    "scale": 256.0,
    "mean": 0.13,
    "std": 0.3,
    "inputs": 784,
    "classes": 10,
    "splits": {name: {"images": 100, "mean": 0.0, "std": 1.0, "sha256": "0" * 64} for name in SPLITS},
}


@st.composite
def nearly_facts(draw: st.DrawFn) -> Any:
    """Facts, but for one value somewhere, which is another, or gone, or beside one that does not belong there."""
    facts = json.loads(json.dumps(FACTS))
    inside = draw(st.sampled_from([facts, facts["splits"], *facts["splits"].values()]))
    key = draw(st.sampled_from(sorted(inside)))
    match draw(st.sampled_from(["other", "number", "none", "more", "names"])):
        case "other":
            inside[key] = draw(JSON)
        case "number":
            inside[key] = draw(st.sampled_from([nan, inf, 0, -1, True]))
        case "none":
            del inside[key]
        case "more":
            inside[draw(st.text(max_size=5))] = draw(JSON)
        case "names":
            facts["splits"] = list(SPLITS)
    return facts


@given(
    text=st.one_of(
        st.binary(max_size=50),
        JSON.map(json.dumps).map(str.encode),
        *[nearly_facts().map(json.dumps).map(str.encode)] * 3,
        damaged(json.dumps(FACTS).encode()),
        st.just(json.dumps(FACTS).encode()),
    )
)
@example(text=b"[" * 100_000)
@example(text=b"9" * 5_000)
@example(text=json.dumps(FACTS | {"std": nan}).encode())
@example(text=json.dumps(FACTS | {"classes": 0}).encode())
@example(text=json.dumps(FACTS | {"labels": list(range(1, 11))}).encode())
@example(text=json.dumps(FACTS | {"labels": list(range(1, 10))}).encode())
@example(text=json.dumps(FACTS | {"labels": "abcdefghij"}).encode())
def test_facts_are_read_right_or_refused(text: bytes, folder: Path) -> None:
    (folder / "facts.json").write_bytes(text)
    facts, refusal = attempt(lambda: read_facts(folder), DataError)
    if facts is None:
        assert "facts.json" in str(refusal)
        assert text != json.dumps(FACTS).encode()
        return
    assert facts == json.loads(text)
    if (labels := facts.pop("labels", None)) is not None:
        assert [type(label) for label in labels] == [int] * facts["classes"]
    assert shape(facts) == shape(FACTS)
    with pytest.raises(DataError, match="missing or damaged"):  # no such files lie there
        verify.__wrapped__(folder)


def shape(value: Any) -> Any:
    """Types for values; none for a number that counts nothing, or is not finite."""
    if isinstance(value, dict):
        return {key: shape(inner) for key, inner in value.items()}
    if (isinstance(value, int) and value < 1) or (isinstance(value, float) and not isfinite(value)):
        return None
    return type(value)


# Constants of the maths

NUMBER = st.floats(-1e18, 1e18) | st.floats(1e7, 1e12) | st.integers(-9, 9)
SHIFT = st.floats(-1e5, 1e5)  # of an activation: a larger one leaves nothing of it in float32
POSITIVE = st.floats(1e-20, 1e18) | st.integers(1, 9)
MAKERS: list[tuple[Callable[..., Any], dict[str, st.SearchStrategy]]] = [
    (
        init.VarianceScaling,
        {
            "gain": POSITIVE,
            "mode": st.sampled_from(["one", "fan_in", "fan_out", "fan_avg"]),
            "distribution": st.sampled_from(["normal", "uniform", "truncated_normal"]),
        },
    ),
    (init.kaiming, {"leak": NUMBER, "mode": st.sampled_from(["fan_in", "fan_out"])}),
    (init.Orthogonal, {"gain": POSITIVE}),
    (init.LSUV, {"gain": POSITIVE, "images": st.integers(2, 20)}),
    (init.Gaussian, {"sigma_w": POSITIVE, "sigma_b": POSITIVE}),
    (init.Constant, {"value": NUMBER}),
    (init.Sparse, {"gain": POSITIVE, "connections": st.integers(1, 20)}),
    (init.TorchLinear, {"gain": POSITIVE}),
    (ReLU, {"leak": NUMBER, "shift": SHIFT, "scale": POSITIVE}),
    (activations.ELU, {"alpha": NUMBER, "shift": SHIFT, "scale": POSITIVE}),
    (activations.Tanh, {"shift": SHIFT, "scale": POSITIVE}),
    (CrossEntropy, {"classes": st.integers(2, 20)}),
    (MeanSquaredError, {"classes": st.integers(2, 20)}),
]


@pytest.mark.parametrize(("make", "values"), MAKERS, ids=[make.__name__ for make, _ in MAKERS])
@given(data=st.data())
def test_a_constructor_makes_what_works_or_refuses(
    make: Callable[..., Any], values: dict[str, st.SearchStrategy], data: st.DataObject
) -> None:
    """One value at most is odd; if it is refused, the message names it."""
    odd = data.draw(st.sampled_from([None, *values]))
    drawn = {name: data.draw(HOSTILE if name == odd else good) for name, good in values.items()}
    made, refusal = attempt(lambda: make(**drawn), ValueError)
    if made is None:
        assert odd is not None
        assert str(refusal).startswith(f"{odd} is {drawn[odd]!r}; expected ")
        return
    assert not any(isinstance(value, bool) for value in drawn.values())
    if isinstance(made, init.Scheme):
        works(made, ReLU())
    elif isinstance(made, Activation):
        works(init.TorchLinear(), made)


def works(scheme: init.Scheme, phi: Activation) -> None:
    """Finite weights, of a finite variance; numbers forward and in theory, which may be infinite."""
    weights, biases = init.draw(scheme, [6, 5, 4], replicas=2, seed=0)
    assert all(tensor.isfinite().all() for tensor in (*weights, *biases))
    layers = [theory.DrawnLayer(n, m, scheme.variance(m, n), scheme.bias_variance(m, n)) for n, m in ((6, 5), (5, 4))]
    assert all(isfinite(layer.variance + layer.bias_variance) for layer in layers)
    x = torch.linspace(-1, 1, 18).view(6, 3)
    assert mlp.forward(x, weights, biases, phi).a[-1].shape == (2, 4, 3)
    with np.errstate(over="ignore", invalid="ignore"):
        found = theory.moments(layers, x.double().square().sum(0), theory.Phi.of(phi))
        assert all(moments.preact_std >= 0 or np.isnan(moments.preact_std) for moments in found)
        assert all(moments.act_std >= 0 or np.isnan(moments.act_std) for moments in found)


# Overrides


def keys(node: Any, key: str = "") -> Iterator[str]:
    """Every key of a composed config, sections and items of lists among them."""
    if key:
        yield key
    if OmegaConf.is_dict(node):
        for name in node:
            yield from keys(node._get_node(name), f"{key}.{name}" if key else str(name))
    elif OmegaConf.is_list(node):
        for place in range(len(node)):
            yield from keys(node._get_node(place), f"{key}.{place}")


CHOICES = {
    folder.name: sorted(file.stem for file in folder.glob("*.yaml"))
    for folder in sorted((ROOT / "conf").iterdir())
    if folder.is_dir() and folder.name not in ("hydra", "experiment", "tracking")
}


@cache
def keys_of(group: str, name: str) -> list[str]:
    """What a file of a group adds; of the group "", all that belongs to none.

    Without the group's own name: what names no file of it is refused by Hydra, and not always as a HydraException.
    """
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("config", [f"{group}={name}"] if group else [])
    mine = CHOICES.keys() | {"tracking"}
    found = [key for key in keys(config) if key not in mine]
    return [key for key in found if (key.partition(".")[0] == group if group else key.partition(".")[0] not in mine)]


# What `_target_` names is imported and called: nothing here that would do more than that.
TARGETS = [
    "initlab.nn.init.LSUV", "initlab.nn.init.kaiming", "initlab.nn.init.Nothing", "initlab.nn.init",
    "initlab.nn.activations.ReLU", "initlab.nn.activations.ELU",
    "initlab.nn.losses.CrossEntropy", "torch.optim.SGD", "torch.optim.LBFGS", "torch.nn.Linear", "unittest.mock.Mock",
    "pytorch_lightning.Trainer", "builtins.dict", "builtins.len", "math.sqrt", "nowhere.at.all", "", "..", "a b", "1",
]  # fmt: skip
SPECIAL = [
    "0", "-1", "1", "2", "100000000000", "-100000000000", "1e-320", "1e300", "-1e300", "nan", "inf", "-inf", "0.5",
    "true", "false", "null", "auto", "gpu", "???", "[]", "{}", "[1]", "[[1]]", "[null]", "[2,-1]", "''", '"1"', '"3"',
    "'100000000000'", "/", "..", "${nope}", "${", "${oc.env:NOPE}", "${oc.env:PATH}", '${oc.decode:"[1,2]"}',
    "${oc.create:{a:1}}", "${hydra:runtime.cwd}", "${now:%Y}", "${oc.select:seed}", "${.}", "${..}",
    "9" * 400, "x" * 400,
]  # fmt: skip


def quoted(text: str) -> str:
    """As Hydra's grammar quotes it."""
    return "'" + re.sub(r"(\\*)('|$)", lambda match: match[1] * 2 + ("\\'" if match[2] else ""), text) + "'"


SCALAR = st.one_of(
    st.sampled_from(SPECIAL),
    st.sampled_from(SPECIAL),
    st.integers().map(str),
    st.floats().map(repr),
    st.text(max_size=8).map(quoted),
    st.sampled_from(["seed", "model.hidden", "init", "activation", "activation.leak", "loss", "trainer", "stats"]).map(
        lambda key: "${" + key + "}"
    ),
    st.sampled_from(TARGETS).map(lambda name: "{_target_:" + quoted(name) + "}"),
)
LIST = st.lists(SCALAR, max_size=3).map(lambda items: f"[{','.join(items)}]")
NAMES = st.sampled_from(["a", "leak", "_partial_", "_args_"])
DICT = st.dictionaries(NAMES, SCALAR | LIST, max_size=2).map(
    lambda items: "{" + ",".join(f"{key}:{value}" for key, value in items.items()) + "}"
)
VALUE = st.one_of(SCALAR, SCALAR, SCALAR, SCALAR, LIST, DICT)
ADDED = ["_partial_", "_args_", "_recursive_", "_convert_", "nope", "num_nodes", "maximize"]


@st.composite
def command_line(draw: st.DrawFn) -> list[str]:
    """A choice of every group, and one or two overrides: of keys that are there, or beside them, or away with them."""
    choices = {group: draw(st.sampled_from(names)) for group, names in CHOICES.items()}
    there = [key for group, name in [("", ""), *choices.items()] for key in keys_of(group, name)]
    words = [f"{group}={name}" for group, name in choices.items() if name != "gpu"]
    for key in draw(st.lists(st.sampled_from(there), min_size=1, max_size=2, unique=True)):
        in_a_list = re.search(r"\.\d", key)  # where Hydra adds and removes with errors of Python's
        match draw(st.sampled_from("=====+~")):
            case "~" if not in_a_list:
                words.append(f"~{key}")
            case "+" if "." in key and not in_a_list:
                words.append(f"++{key.rpartition('.')[0]}.{draw(st.sampled_from(ADDED))}={draw(VALUE)}")
            case _ if key.endswith("_target_"):
                words.append(f"{key}={quoted(draw(st.sampled_from(TARGETS)))}")
            case _:
                words.append(f"{key}={draw(VALUE)}")
    return words


@pytest.fixture
def little_memory() -> Iterator[None]:
    """Four gigabytes more than there are now, so that what would take all of the machine's fails instead."""
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (psutil.Process().memory_info().data + 2**32, hard))
    yield
    resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")  # advice
@pytest.mark.usefixtures("little_memory")
@given(words=command_line())
@example(words=["trainer.devices=100000000000"])
@example(words=["trainer.devices='100000000000'"])
@example(words=["stats=5"])
@example(words=["init.weights=null"])
@example(words=["init=xavier", "activation._target_=null"])
@example(words=["++loss._partial_=true"])
@example(words=["++trainer._partial_=true"])
@example(words=["trainer.callbacks.0=5"])
@example(words=["trainer.logger=5"])
@example(words=["optimizer.lr=1e300"])
@example(words=["optimizer.lr=nan"])
@example(words=["optimizer._target_=unittest.mock.Mock"])
@example(words=["data.folder=null"])
@example(words=["seed=${seed}"])
def test_a_configuration_builds_what_works_or_is_refused(
    words: list[str], normalised: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one line, by an error that Hydra prints without a stack trace; nothing is written."""
    empty = folder / "empty"
    empty.mkdir(exist_ok=True)
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        overrides = [f"data.folder={normalised}", "data.pin=null", "data.batch_size=4", *words]
        config, _ = attempt(lambda: compose("config", overrides), HydraException)
    if config is None:
        return

    def made() -> Components:
        with concise_errors():
            return build(config, folder / "run")

    with monkeypatch.context() as patch:
        patch.chdir(empty)
        built, refusal = attempt(made, HydraException)
    if built is not None:
        trainer, network, *_ = built
        assert network.replicas % trainer.world_size == 0
        assert all(isinstance(callback, Callback) for callback in trainer.callbacks)
        assert all(isinstance(logger, Logger) for logger in trainer.loggers)
        works(network.scheme, network.activation)
        stands_still(network.optimizer)
    else:
        assert len(str(refusal).splitlines()) == 1
        assert not {type(cause) for cause in causes(refusal)} & {MemoryError, RecursionError}
    assert list(empty.iterdir()) == []
    assert not (folder / "run").exists()


def stands_still(optimizer: Callable[[list[nn.Parameter]], Optimizer]) -> None:
    """Where the gradient is zero, as it is twice here, so does a parameter that is zero."""
    parameter = nn.Parameter(torch.zeros(2, 1, 1))
    parameter.grad = torch.zeros(2, 1, 1)
    made = optimizer([parameter])
    made.step()
    made.step()
    assert (parameter == 0).all()


def causes(error: BaseException) -> list[BaseException]:
    """From the last to the first; OmegaConf's may go round in a circle."""
    found: list[BaseException] = []
    while error.__cause__ is not None and error.__cause__ not in found:
        error = error.__cause__
        found.append(error)
    return found
