"""python -m initlab.deliver [FOLDER...]: tells the tracking store what it missed of runs made while it was away."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from initlab import cli, track
from initlab.journal import RUN, BusyError


def main(arguments: Sequence[str] | None = None) -> None:
    """Delivers each run in the folders given, or in outputs/ and multirun/; what the store has is not told again."""
    parser = argparse.ArgumentParser(prog="python -m initlab.deliver", description=__doc__)
    parser.add_argument("folders", nargs="*", type=Path, help="folders of runs or sweeps (default: outputs multirun)")
    cli.add_tracking_uri(parser)
    chosen = parser.parse_args(arguments)
    for folder in chosen.folders:
        if not folder.is_dir():
            raise ValueError(f"{folder} is no folder")
    folders = chosen.folders or [Path("outputs"), Path("multirun")]
    found = sorted(file.parent for folder in folders for file in folder.rglob(RUN))
    if chosen.folders and not found:
        raise ValueError(f"no run is in {', '.join(map(str, chosen.folders))}")
    told = 0
    for run in found:
        try:
            run_id = track.deliver(chosen.tracking_uri, run)
        except BusyError as error:
            print(f"left alone: {error}")
            continue
        if run_id is not None:
            told += 1
            print(f"delivered: {run} as run {run_id}")
    print(f"{told} of {len(found)} runs had something left to tell")


if __name__ == "__main__":
    with cli.one_line():
        main()
