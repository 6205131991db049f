"""Checkpoints: written atomically, and read without running code."""

import io
import pickle
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO

from initlab import atomic_files


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint to a file beside its place and renames it, so that no checkpoint is ever incomplete."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Raises OSError if the checkpoint can't be written; an earlier one is kept then."""
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        atomic_files.write(Path(path), buffer.getbuffer())

    def load_checkpoint(self, path: str | Path, map_location: Any = "cpu", weights_only: Any = None) -> dict[str, Any]:
        """Reads with torch's restricted unpickler. Raises ValueError if the file is damaged or would run code."""
        try:
            return torch.load(path, map_location, weights_only=True)
        except (RuntimeError, EOFError, OSError, pickle.UnpicklingError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"{path} is damaged ({reason}); without it the run starts from the beginning") from error
