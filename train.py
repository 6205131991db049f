"""Train networks from one init scheme, or a sweep of schemes, and record them: see `python train.py --help`."""

from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from initlab import composed, hooks, launchers


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(cfg: DictConfig) -> float:
    """One run. Returns its validation accuracy, for sweepers that look for the best."""
    from initlab import experiment, track

    job = HydraConfig.get()
    with hooks.one_line():
        launchers.go_to(Path(job.runtime.cwd))
    config = composed.plain(cfg)
    record = track.run(
        **composed.place(cfg),
        folder=Path(job.runtime.output_dir),
        name=composed.run_name(job),
        config=config,
        overrides=composed.overrides(job),
        sweep=composed.sweep_folder(job) if job.mode == RunMode.MULTIRUN else None,
        resume=cfg.resume is not False,
        register=composed.registered_model(cfg, job),
        tags=composed.choices(job),
    )
    with hooks.one_line(), record as run:
        return experiment.train(config, run)


if __name__ == "__main__":
    with hooks.at_exit:
        main()
