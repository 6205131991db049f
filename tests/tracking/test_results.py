"""A sweep's results come back from a folder as they went in."""

import resource
from pathlib import Path

import pandas as pd
import pytest
import torch

from initlab.tracking import results


def made() -> results.Results:
    table = pd.DataFrame(
        {"run": ["init=a", "init=a"], "init": "a", "step": 0, "replica": [0, 1], "val/loss": [0.1, 0.2]}
    )
    runs = {"init=a": {"overrides": {"init": "a"}, "config": {"seed": 0}, "theory": {"layer1/act_std": 0.1 + 0.2}}}
    return results.Results(table, runs, {"init=a": {"step": torch.arange(3), "layer1/weight": torch.randn(2, 3, 4)}})


def test_there_and_back(tmp_path: Path) -> None:
    before = made()
    results.save(before, tmp_path / "new" / "folder")
    after = results.load(tmp_path / "new" / "folder")
    pd.testing.assert_frame_equal(after.replicas, before.replicas, check_dtype=False, check_exact=True)
    assert after.runs == before.runs
    assert all(torch.equal(after.tensors["init=a"][name], tensor) for name, tensor in before.tensors["init=a"].items())
    assert after.tensors["init=a"].keys() == before.tensors["init=a"].keys()


def test_the_digest_is_that_of_the_values(tmp_path: Path) -> None:
    before = made()
    results.save(before, tmp_path / "a")
    results.save(before, tmp_path / "b")
    assert results.digest(tmp_path / "a") == results.digest(tmp_path / "b")
    before.replicas.loc[0, "val/loss"] += 1e-15
    results.save(before, tmp_path / "b")
    assert results.digest(tmp_path / "a") != results.digest(tmp_path / "b")


@pytest.mark.parametrize("name", [results.REPLICAS, results.RUNS, results.TENSORS])
def test_a_missing_file_is_named(name: str, tmp_path: Path) -> None:
    results.save(made(), tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(FileNotFoundError, match=name):
        results.load(tmp_path)


def test_what_is_left_of_two_sweeps_is_not_read_as_one(tmp_path: Path) -> None:
    """The second is interrupted between its files: here the disk is full, which a limit on sizes stands for."""
    first = made()
    results.save(first, tmp_path)
    second = first._replace(runs=first.runs | {"init=b": {"config": {"note": "x" * 100_000}}})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            results.save(second, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    with pytest.raises(FileNotFoundError, match=f"holds no {results.REPLICAS}"):
        results.load(tmp_path)
