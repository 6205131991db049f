"""The same work, one epoch of 784-50-10 with validation, by initlab and by what one would use instead."""

import pandas as pd

from benchmarks.measure import TRAINED, Peer, in_turn, multiplications

MEDIUM = ('overrides=["matmul_precision=medium"]',)
GEMM = Peer("GEMM peak", "gemm", epochs=3)
OURS = [
    Peer("initlab, `train.py`", "train_py", replicas, epochs)
    for replicas, epochs in [(1, 10), (8, 6), (32, 4), (128, 2)]
]
FASTER = [
    Peer("initlab, `train.py matmul_precision=medium`", "train_py", replicas, epochs, MEDIUM)
    for replicas, epochs in [(8, 6), (32, 4)]
]
OTHERS = [
    Peer("Lightning, torchvision transforms", "lightning_stock", epochs=1),
    Peer("Lightning, TensorDataset", "lightning_tensors", epochs=2),
    Peer("torch, autograd", "autograd", epochs=4),
    Peer("scikit-learn, MLPClassifier", "sklearn_mlp", epochs=4),
    Peer("torch, by hand", "handwritten", epochs=6),
    Peer("torch.func, vmap", "func_ensemble", 8, epochs=3),
    Peer("torch.func, vmap", "func_ensemble", 32, epochs=2),
    Peer("JAX, jit", "jax_ensemble", epochs=6),
    Peer("JAX, jit and vmap", "jax_ensemble", 8, epochs=3),
]
BARE = [
    Peer("initlab, steps alone", "bare", replicas, epochs, ("validate=false",))
    for replicas, epochs in [(1, 10), (8, 6), (32, 4), (128, 2)]
]


def table(rounds: int) -> pd.DataFrame:
    """One row per peer: seconds per epoch, and rates and ratios derived from them."""
    found = in_turn([GEMM, *OTHERS, *OURS, *FASTER, *BARE], rounds)
    peak = 1 / found.pop(GEMM).seconds  # multiply-adds per second
    each = {peer: measured.seconds / peer.replicas for peer, measured in found.items()}
    ours = each[OURS[1]]
    rows = []
    for peer, measured in found.items():
        work = peer.replicas * multiplications([50], validate=peer not in BARE)
        rows.append(
            {
                "program": peer.label,
                "replicas": peer.replicas,
                "s an epoch": measured.seconds,
                "lowest": measured.low,
                "highest": measured.high,
                "s a replica": each[peer],
                "images/s x replicas": TRAINED * peer.replicas / measured.seconds,
                "of the GEMM peak": work / measured.seconds / peak,
                "times ours, 8 replicas": each[peer] / ours,
                "accuracy": measured.accuracy,
                "memory, MB": measured.memory,
            }
        )
    return pd.DataFrame(rows).assign(**{"peak, GFLOP/s": 2e-9 * peak})
