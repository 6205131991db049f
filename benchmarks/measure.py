"""Runs peers in processes of their own, in turn, round after round, so that other load on the machine affects all."""

import json
import statistics
import subprocess
import sys
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

from tqdm import tqdm

TRAINED, VALIDATED = 50_000, 10_000  # images per epoch


class Peer(NamedTuple):
    """A program to measure.

    label: its name in the table.  module: of benchmarks.peers.  epochs: to time, after a first one.  options: further
    arguments of its `train`, as NAME=VALUE with a JSON value.
    """

    label: str
    module: str
    replicas: int = 1
    epochs: int = 4
    options: tuple[str, ...] = ()


class Measured(NamedTuple):
    """Medians over rounds. seconds: per epoch.  low, high: the extremes over rounds.  memory: peak, MB."""

    seconds: float
    low: float
    high: float
    accuracy: float
    memory: float


def in_turn(peers: Sequence[Peer], rounds: int) -> dict[Peer, Measured]:
    """Measures each peer once per round. Raises subprocess.CalledProcessError if one fails, and prints its output."""
    found: dict[Peer, list[dict]] = {peer: [] for peer in peers}
    for _ in range(rounds):
        for peer in tqdm(peers, leave=False):
            tqdm.write(peer.label, file=sys.stderr)
            found[peer].append(once(peer))
    return {peer: _medians(results) for peer, results in found.items()}


def once(peer: Peer) -> dict:
    """Runs a peer. Returns {"seconds": of each epoch but the first, "accuracy": at the end, "memory": MB}."""
    words = [peer.module, "--epochs", str(1 + peer.epochs), "--replicas", str(peer.replicas), *peer.options]
    done = subprocess.run([sys.executable, "-m", "benchmarks.peers", *words], capture_output=True, encoding="utf-8")
    if done.returncode:
        print(done.stderr, file=sys.stderr)
        done.check_returncode()
    result = json.loads(done.stdout.splitlines()[-1])
    return {"seconds": result["seconds"][1:], "accuracy": result["accuracies"][-1], "memory": result["memory"]}


def _medians(results: Iterable[dict]) -> Measured:
    results = list(results)
    medians = [statistics.median(result["seconds"]) for result in results]
    accuracy, memory = (statistics.median(result[name] for result in results) for name in ("accuracy", "memory"))
    return Measured(statistics.median(medians), min(medians), max(medians), accuracy, memory)


def multiplications(hidden: Sequence[int], *, validate: bool = True) -> int:
    """Returns the multiply-adds in an epoch of one replica: forward, dL/dW and, except for the first layer, dL/da."""
    layers = [n * m for n, m in pairwise([784, *hidden, 10])]
    return TRAINED * (3 * sum(layers) - layers[0]) + (VALIDATED * sum(layers) if validate else 0)
