"""A run's configuration as MLflow's params, and its digest."""

import hashlib
import json
from collections.abc import Iterator


def flatten(config: object, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yields ("init.scale", "1") for {"init": {"scale": 1}}. Items of a list are named by their number."""
    if isinstance(config, dict | list) and config:
        for key, value in config.items() if isinstance(config, dict) else enumerate(config):
            yield from flatten(value, f"{prefix}{key}.")
    else:
        yield prefix[:-1], json.dumps(config) if not isinstance(config, str) else config


def sha256(text: str) -> str:
    """Returns the SHA-256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()
