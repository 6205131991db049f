"""What each part around the maths adds to an epoch: validation, the Trainer, statistics, the record."""

import pandas as pd

from benchmarks.measure import Peer, in_turn

REPLICAS = 1, 8
PARTS = {
    "the steps": ("bare", ("validate=false",)),
    "+ validation": ("bare", ()),
    "+ Lightning's Trainer": ("trainer", ()),
    "+ statistics, every 200 steps": ("trainer", ("every=200",)),
    "+ checkpoints, MLflow: `train.py`": ("train_py", ()),
    "`train.py` without statistics": ("train_py", ('overrides=["stats.every=1000000"]',)),
}


def table(rounds: int) -> pd.DataFrame:
    """One row per (replicas, part). Each part includes those above it, except for the last."""
    peers = {
        (replicas, part): Peer(f"{part}, {replicas}", module, replicas, epochs=6, options=options)
        for replicas in REPLICAS
        for part, (module, options) in PARTS.items()
    }
    found = in_turn(list(peers.values()), rounds)
    rows = []
    for (replicas, part), peer in peers.items():
        bare = found[peers[replicas, "+ validation"]].seconds
        seconds = found[peer].seconds
        rows.append({"replicas": replicas, "what": part, "s an epoch": seconds, "times the bare loop": seconds / bare})
    return pd.DataFrame(rows)
