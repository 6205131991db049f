"""What the commands beside train.py share."""

import argparse
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def add_tracking_uri(parser: argparse.ArgumentParser) -> None:
    """The option that says which store is meant: the one that `train.py` and `mlflow ui` would use, if none is."""
    parser.add_argument(
        "--tracking-uri",
        default=os.environ.get("MLFLOW_TRACKING_URI", f"sqlite:///{Path.cwd()}/mlflow.db"),
        help="MLflow's store (default: MLFLOW_TRACKING_URI, or else mlflow.db here)",
    )


@contextmanager
def one_line(code: int = 1) -> Iterator[None]:
    """Ends the program with this exit code if the body raises: with one line if it refuses something."""
    try:
        yield
    except Exception as error:
        if not isinstance(error, OSError | ValueError) or os.environ.get("HYDRA_FULL_ERROR") == "1":
            traceback.print_exc()
        else:
            print(f"error: {error}", file=sys.stderr)
        sys.exit(code)
