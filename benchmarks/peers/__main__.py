"""Runs one peer, and prints one line of JSON: seconds and accuracy of each epoch, and the memory it took."""

import argparse
import json
from importlib import import_module

from benchmarks.peers import Clock, peak_memory

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("name")
parser.add_argument("--epochs", type=int, default=2)
parser.add_argument("--replicas", type=int, default=1)
parser.add_argument("options", nargs="*", help="NAME=VALUE, what else the peer's `train` takes")
chosen = parser.parse_intermixed_args()

options = {name: json.loads(value) for name, _, value in (item.partition("=") for item in chosen.options)}
clock = Clock()
import_module(f"benchmarks.peers.{chosen.name}").train(chosen.epochs, chosen.replicas, clock, **options)
print(json.dumps({"seconds": clock.seconds, "accuracies": clock.accuracies, "memory": peak_memory()}))
