"""python -m initlab.follow FOLDER: trains one device's share of the run in FOLDER. The run itself starts it."""

import os
import signal
import sys
import threading
import time
from pathlib import Path

from initlab import experiment, process


def main(folder: Path) -> None:
    """Trains, and ends with the process that started it: what waits for other devices would wait for long."""
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    with process.exit_on_signals():
        experiment.follow(folder)


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
