"""Names of the files that runs and sweeps keep in their folders, and of the artifacts they become."""

import re

METRICS, RUN = "metrics.jsonl", "run.json"  # the journal, which is not an artifact

CONFIG, PROVENANCE, THEORY, TRACEBACK = "config.yaml", "provenance.json", "theory.json", "traceback.txt"
REPLICAS, TENSORS = "replicas.csv", "tensors.safetensors"  # of a run, and of a sweep
OF_A_RUN = (CONFIG, PROVENANCE, THEORY, TRACEBACK, REPLICAS, TENSORS)
RUNS = "runs.json"  # of a sweep

CHECKPOINTS, MODEL = "checkpoints", "model"  # folders of a run
LAST_CHECKPOINT = f"{CHECKPOINTS}/last.ckpt"


def registry_name(name: str) -> str:
    """Replaces the characters that MLflow does not allow in the names of models."""
    return re.sub(r"[/:.%\"']", "-", name)
