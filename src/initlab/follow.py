"""python -m initlab.follow FOLDER: trains one device's share of the run in FOLDER. The run itself starts it."""

import sys
from pathlib import Path

from initlab import experiment, process

GRACE = 2  # seconds to leave by itself, if the run has ended without a word


def main(folder: Path) -> None:
    """Trains, and ends with the process that started it."""
    process.leave_with_parent(GRACE)
    with process.exit_on_signals():
        experiment.follow(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
