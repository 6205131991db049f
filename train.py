"""Train networks from one init scheme, or a sweep of schemes, and record them: see `python train.py --help`."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from initlab import hooks


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(cfg: DictConfig) -> float:
    """One run. Returns its validation accuracy, for sweepers that look for the best."""
    from initlab import mnist, track

    job = HydraConfig.get()
    folder = Path(job.runtime.output_dir)
    config: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    where = config.pop("tracking")  # where a run is recorded is no part of what it is, and may hold a password
    with ExitStack() as stack:
        with hooks.one_line():
            trainer, network, images = hooks.build(cfg, folder)
            run = stack.enter_context(
                track.run(
                    **where,
                    name=hooks.run_name(job),
                    config=config,
                    overrides=hooks.overrides(job),
                    sweep=hooks.sweep_folder(job) if job.mode == RunMode.MULTIRUN else None,
                    data={"name": images.folder.name, "facts": mnist.read_facts(images.folder)},
                )
            )
        network.record = run.log
        trainer.fit(network, images)
        accuracy = trainer.callback_metrics["val/accuracy"].item()
        trainer.test(network, images, verbose=False)
        run.tag(**{"weights.sha256": network.digest()})
        run.evidence(network.theory(), network.tensors())
        run.artifacts(folder / "checkpoints")
    return accuracy


if __name__ == "__main__":
    with hooks.at_exit:
        main()
