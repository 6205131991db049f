"""python -m initlab.deliver [FOLDER...]: tells the tracking store what it missed of runs made while it was away."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from initlab import cli, track
from initlab.journal import RUN, BusyError


def main(arguments: Sequence[str] | None = None) -> int:
    """Delivers each run in the folders given, or in outputs/ and multirun/, to the store that it began in.

    What the store has is not told again. Returns the exit code, 1 if something could not be told.
    """
    parser = argparse.ArgumentParser(prog="python -m initlab.deliver", description=__doc__)
    parser.add_argument("folders", nargs="*", type=Path, help="folders of runs or sweeps (default: outputs multirun)")
    parser.add_argument("--tracking-uri", help="MLflow's store (default: the one that each run began in)")
    chosen = parser.parse_args(arguments)
    folders = chosen.folders or [Path("outputs"), Path("multirun")]
    found = sorted({file.parent for folder in folders for file in folder.rglob(RUN)})
    if chosen.folders and not found:
        raise ValueError(f"no run is in {', '.join(map(str, chosen.folders))}")
    told = failed = 0
    for run in found:
        try:
            run_id = track.deliver(chosen.tracking_uri, run)
        except BusyError as error:
            print(f"left alone: {error}")
        except (OSError, ValueError) as error:
            failed += 1
            print(f"not delivered: {run}: {error}")
        else:
            if run_id is not None:
                told += 1
                print(f"delivered: {run} as run {run_id}")
    if not told and not failed:
        print(f"nothing waits: the store has all of {len(found)} runs")
    return 1 if failed else 0


if __name__ == "__main__":
    with cli.one_line():
        raise SystemExit(main())
