"""Repeats an experiment of a paper, and compares the results with what the paper says.

It trains the preset of that name (`python train.py -m experiment=NAME hydra/launcher=batched`), and writes its section
of docs/papers.md and its figure, docs/papers/NAME.svg. Overrides are those of train.py.
"""

import argparse
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from types import ModuleType

from initlab import atomic_files, processes
from initlab.tracking import results
from papers import charts, critical, edge_of_chaos, glorot2010, he2015, measured, pages

PAPERS: dict[str, ModuleType] = {
    "glorot2010": glorot2010,
    "he2015": he2015,
    "edge_of_chaos": edge_of_chaos,
    "critical": critical,
}
ROOT = Path(__file__).parents[1]


def main(argv: list[str] | None = None) -> None:
    """Runs the command line. Exits with one line if a name, an override or the results can't be used."""
    parser = argparse.ArgumentParser(prog="python -m papers", description=__doc__)
    parser.add_argument("name", choices=list(PAPERS), metavar="NAME", help=f"one of {', '.join(PAPERS)}")
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE", help="as for train.py: model.width=1000")
    parser.add_argument("--results", type=Path, metavar="FOLDER", help="of a finished sweep of the preset: no training")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", help=argparse.SUPPRESS)
    chosen = parser.parse_intermixed_args(argv)
    if chosen.results is not None and chosen.overrides:
        parser.error(f"{chosen.overrides[0]} would change nothing: --results takes a sweep that is finished")
    folder = chosen.results or train(chosen.name, chosen.overrides)
    try:
        write(chosen.name, folder, chosen.docs)
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f"error: {error}")


def train(name: str, overrides: list[str]) -> Path:
    """Trains a preset. Returns the sweep's folder. Exits as train.py does if that fails."""
    folder = Path("multirun", "papers", f"{name}-{datetime.now():%Y-%m-%d-%H-%M-%S}")
    words = ["-m", f"experiment={name}", "hydra/launcher=batched", f"hydra.sweep.dir={folder.as_posix()}", *overrides]
    with processes.exit_on_signals(), subprocess.Popen([sys.executable, "train.py", *words], cwd=ROOT) as child:
        try:
            code = child.wait()
        except SystemExit:
            if processes.ended_by() != "SIGINT":  # which a terminal sends to both
                child.terminate()
            child.wait()  # it records how it ended
            raise
    if code:
        sys.exit(code)
    return ROOT / folder


def write(name: str, folder: Path, docs: Path) -> None:
    """Writes a preset's section and figure from the folder of its sweep.

    Raises FileNotFoundError if there are no results, ValueError if they are of another sweep.
    """
    paper, found, page = PAPERS[name], results.load(folder), docs / "papers.md"
    measured.check_keys(found, paper.KEYS)
    text = paper.section(found)
    new = pages.replaced(page.read_text(encoding="utf-8"), name, text)
    charts.save(paper.figure(found), docs / "papers" / f"{name}.svg")
    atomic_files.write(page, new.encode())
    print(text)


if __name__ == "__main__":
    main()
