"""Train networks from one init scheme, or a sweep of schemes, and record them: see `python train.py --help`."""

import os
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from initlab.sweep import config as configs
from initlab.sweep import launchers
from initlab.sweep.callback import at_exit
from initlab.sweep.errors import concise_errors, override_hints


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(cfg: DictConfig) -> float:
    """Trains one run. Returns its validation accuracy, which sweepers can maximise."""
    from initlab.tracking.run_logger import start_run
    from initlab.training.fit import train

    job = HydraConfig.get()
    with concise_errors():
        launchers.change_to(Path(job.runtime.cwd))
    config = configs.run_config(cfg)
    record = start_run(
        **configs.tracking_target(cfg),
        folder=Path(job.runtime.output_dir),
        name=configs.run_name(job),
        config=config,
        overrides=configs.task_overrides(job),
        sweep=configs.sweep_folder(job) if job.mode == RunMode.MULTIRUN else None,
        resume=cfg.resume is not False,
        allow=configs.allowed_differences(cfg),
        register=configs.registered_model(cfg, job),
        tags=configs.chosen_groups(job),
    )
    with concise_errors(), record as run:
        return train(config, run)


if __name__ == "__main__":
    os.chdir(Path(__file__).parent)  # data, outputs and mlflow.db are in the project, wherever this command is typed
    with override_hints(), at_exit:
        main()
