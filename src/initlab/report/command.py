"""Writes the report of any sweep, from its folder or from the id of its parent run."""

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from initlab import report
from initlab.report import reproduction as reproductions
from initlab.tracking import results

LESSON_COLUMNS = {
    *("source", "quantity", "expression", "printed", "ours", "theory", "verdict", "low", "high", "percentile")
}


def report_on(
    sweep: str, folder: Path | None, lesson: Path | None, reproduction: Path | None = None, *, uri: str
) -> None:
    """Writes a report, and copies it to the artifacts of the sweep's parent run, if that is in the tracking store.

    sweep: a sweep's folder, or the id of its parent run.  folder: where the report goes; by default report/ in the
    sweep's folder.  lesson, reproduction: the lesson's table, and the comparison with a reference, to include in the
    report. The verdict of the comparison is printed last.  uri: of the tracking store.
    Raises ValueError or OSError for what can't be read; store.TrackingError.
    """
    table = _lesson(lesson) if lesson is not None else None
    compared = reproductions.read(reproduction) if reproduction is not None else None
    source, run_id = Path(sweep), None
    if not source.is_dir():
        if not re.fullmatch("[0-9a-f]{32}", sweep):
            raise ValueError(f"{sweep} is neither a folder nor the id of a run")
        from initlab.tracking import parent_run

        source, run_id = Path("multirun", sweep), sweep
        results.save(parent_run.load_results(uri, run_id), source)
    folder = folder or source / "report"
    names = report.write(report.lay_out(results.load(source)), folder, table, compared)
    for name, source_file in (("lesson.csv", lesson), ("reproduction.csv", reproduction)):
        if source_file is not None:
            if source_file.resolve() != (folder / name).resolve():
                shutil.copy(source_file, folder / name)
            names.append(name)
    print(f"report: {folder / 'index.html'}")
    print(_copied(uri, folder, names, run_id, results.digest(source)))
    if compared is not None:
        print(reproductions.verdict(compared))


def _lesson(path: Path) -> pd.DataFrame:
    try:
        table = pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is not the lesson's table: {str(error).strip()}") from error
    if not set(table.columns) >= LESSON_COLUMNS:
        missing = ", ".join(sorted(LESSON_COLUMNS - set(table.columns)))
        raise ValueError(f"{path} is not the lesson's table: it lacks {missing}")
    return table


def _copied(uri: str, folder: Path, names: Sequence[str], run_id: str | None, digest: str) -> str:
    """Copies the report to the run, or to the newest run with these results. Returns a message that says so."""
    from initlab.tracking import parent_run, store

    try:
        run_id = run_id or parent_run.find_parent(uri, digest)
        if run_id is None:
            return "no sweep with these results is in MLflow"
        parent_run.log_files(uri, folder, names, run_id=run_id)
    except store.TrackingError as error:
        return f"not copied to MLflow: {error}"
    return f"copied to the artifacts of run {run_id}"
