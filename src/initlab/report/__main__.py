"""python -m initlab.report SWEEP: the report of any sweep, from its folder or from the id of its parent run."""

import argparse
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from initlab import cli, report, results

NEEDED = {"source", "quantity", "expression", "printed", "ours", "theory", "verdict", "low", "high", "percentile"}


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes the report, and copies it into the artifacts of the sweep's parent run, if the tracking store has that."""
    parser = argparse.ArgumentParser(prog="python -m initlab.report", description="The report of a sweep.")
    parser.add_argument("sweep", help="a sweep's folder, as multirun/DATE/TIME, or the id of its parent run")
    parser.add_argument("folder", nargs="?", type=Path, help="where the report goes (default: report/ in the sweep's)")
    parser.add_argument("--lesson", type=Path, help="the lesson's table, to be part of it")
    cli.add_tracking_uri(parser)
    chosen = parser.parse_args(arguments)
    lesson = _lesson(chosen.lesson) if chosen.lesson is not None else None
    sweep, run_id = Path(chosen.sweep), None
    if not sweep.is_dir():
        if not re.fullmatch("[0-9a-f]{32}", chosen.sweep):
            raise ValueError(f"{sweep} is neither a folder nor the id of a run")
        from initlab import sweep as sweeps

        run_id = chosen.sweep
        sweep = Path("multirun", run_id)
        results.save(sweeps.collect(chosen.tracking_uri, run_id), sweep)
    folder = chosen.folder or sweep / "report"
    names = report.write(results.load(sweep), folder, lesson)
    if lesson is not None:
        if chosen.lesson.resolve() != (folder / "lesson.csv").resolve():
            shutil.copy(chosen.lesson, folder / "lesson.csv")
        names.append("lesson.csv")
    print(f"report: {folder / 'index.html'}")
    print(_attached(chosen.tracking_uri, folder, names, run_id, results.digest(sweep)))


def _lesson(path: Path) -> pd.DataFrame:
    try:
        table = pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is not the lesson's table: {str(error).strip()}") from error
    if not set(table.columns) >= NEEDED:
        missing = ", ".join(sorted(NEEDED - set(table.columns)))
        raise ValueError(f"{path} is not the lesson's table: it lacks {missing}")
    return table


def _attached(uri: str, folder: Path, names: Sequence[str], run_id: str | None, digest: str) -> str:
    """Copies the report to the run, or to the newest one with these results; says where it went."""
    from initlab import store
    from initlab import sweep as sweeps

    try:
        run_id = run_id or sweeps.find(uri, digest)
        if run_id is None:
            return "no sweep with these results is in MLflow"
        sweeps.attach(uri, folder, names, run_id=run_id)
    except store.TrackingError as error:
        return f"not copied to MLflow: {error}"
    return f"copied to the artifacts of run {run_id}"


if __name__ == "__main__":
    with cli.one_line():
        main()
