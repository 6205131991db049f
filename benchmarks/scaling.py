"""The time of a step as replicas, width, depth or batch grows: the maths alone, by default 8 replicas of 784-50-10."""

import pandas as pd

from benchmarks.measure import Peer, in_turn, multiplications

GEMM = Peer("GEMM peak", "gemm", epochs=3)
GROWING = {
    "replicas": (1, 2, 4, 8, 16, 32, 64, 128),
    "width": (25, 50, 100, 200, 400),
    "depth": (1, 2, 4, 8),
    "batch": (16, 32, 64, 128, 256, 512),
}


def table(rounds: int) -> pd.DataFrame:
    """One row per (what grows, its value)."""
    cases = [(what, value) for what, values in GROWING.items() for value in values]
    peers = {case: _peer(*case) for case in cases}
    found = in_turn([GEMM, *peers.values()], rounds)
    peak = 1 / found[GEMM].seconds
    rows = []
    for (what, value), peer in peers.items():
        seconds = found[peer].seconds
        work = peer.replicas * multiplications(_hidden(what, value), validate=False)
        rows.append(
            {
                "grows": what,
                "to": value,
                "s an epoch": seconds,
                "s a replica": seconds / peer.replicas,
                "of the GEMM peak": work / seconds / peak,
            }
        )
    return pd.DataFrame(rows)


def _hidden(what: str, value: int) -> list[int]:
    return {"width": [value], "depth": [50] * value}.get(what, [50])


def _peer(what: str, value: int) -> Peer:
    replicas, batch = value if what == "replicas" else 8, value if what == "batch" else 64
    options = f"hidden={_hidden(what, value)}", f"batch={batch}", "validate=false"
    return Peer(f"{what} {value}", "bare", replicas, epochs=1, options=options)
