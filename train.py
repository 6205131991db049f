"""Train networks from one init scheme, or a sweep of schemes, and record them: see `python train.py --help`."""

import os
from pathlib import Path

import hydra
from omegaconf import DictConfig

from initlab.sweep.callback import at_exit
from initlab.sweep.errors import override_hints
from initlab.sweep.job import prepare


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(cfg: DictConfig) -> float:
    """Trains one run. Returns its validation accuracy, which sweepers can maximise."""
    return prepare(cfg).run()


if __name__ == "__main__":
    os.chdir(Path(__file__).parent)  # data, outputs and mlflow.db are in the project, wherever this command is typed
    with override_hints(), at_exit:
        main()
