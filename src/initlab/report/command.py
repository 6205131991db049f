"""Writes the report of any sweeps, from their folders or from the ids of their parent runs."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from initlab import report
from initlab.report import reproduction as reproductions
from initlab.report.recorded_sweep import load_results
from initlab.tracking import results

LESSON_COLUMNS = {
    *("source", "quantity", "expression", "printed", "ours", "theory", "verdict", "low", "high", "percentile")
}


def report_on(
    sweeps: Sequence[str],
    folder: Path | None,
    lesson: Path | None = None,
    reproduction: Path | None = None,
    *,
    uri: str,
) -> Path:
    """Writes the report of a sweep, or one that compares several. Returns the path of its page.

    A single sweep's report is copied to the artifacts of its parent run, if that is in the tracking store.

    sweeps: folders of sweeps, or ids of their parent runs.  folder: where the report goes; by default report/ in the
    folder of the one sweep.  lesson, reproduction: the lesson's table, and the comparison with a reference, to include
    in the report. The verdict of the comparison is printed last.  uri: of the tracking store.
    Raises ValueError or OSError for what can't be read; store.TrackingError.
    """
    table = _lesson(lesson) if lesson is not None else None
    compared = reproductions.read(reproduction) if reproduction is not None else None
    if len(sweeps) > 1 and folder is None:
        raise ValueError("a report on several sweeps needs a folder: --output FOLDER")
    if len({*sweeps}) < len(sweeps):
        raise ValueError(f"expected different sweeps, not {' '.join(sweeps)}")
    loaded = {sweep: load_results(sweep, Path("multirun"), uri=uri) for sweep in sweeps}
    found = {sweep: found for sweep, (found, _) in loaded.items()}
    source = loaded[sweeps[0]][1]
    folder = folder or source / "report"
    names = report.write(report.lay_out(side_by_side(found)), folder, table, compared)
    for name, source_file in (("lesson.csv", lesson), ("reproduction.csv", reproduction)):
        if source_file is not None:
            if source_file.resolve() != (folder / name).resolve():
                shutil.copy(source_file, folder / name)
            names.append(name)
    print(f"report: {folder / 'index.html'}")
    if len(sweeps) == 1:
        run_id = None if Path(sweeps[0]).is_dir() else sweeps[0]
        print(_copied(uri, folder, names, run_id, results.digest(source)))
    if compared is not None:
        print(reproductions.verdict(compared))
    return folder / "index.html"


def side_by_side(sweeps: Mapping[str, results.Results]) -> results.Results:
    """Returns the results of several sweeps as those of one, which varies the key `sweep`; of a single one, as it is.

    sweeps: {name: results}.
    """
    if len(sweeps) == 1:
        return next(iter(sweeps.values()))
    tables, runs, tensors = [], {}, {}
    for name, found in sweeps.items():
        label = {run: f"sweep={name},{run}" for run in found.runs}
        tables.append(found.replicas.assign(run=found.replicas["run"].map(label), sweep=name))
        for run, record in found.runs.items():
            runs[label[run]] = record | {"overrides": record["overrides"] | {"sweep": name}}
            tensors[label[run]] = found.tensors[run]
    table = pd.concat(tables, ignore_index=True)
    swept = [column for found in tables for column in found.columns[1 : found.columns.get_loc("step")]]
    first = ["run", *dict.fromkeys(["sweep", *swept]), "step", "replica"]
    return results.Results(table[[*first, *table.columns.difference(first, sort=False)]], runs, tensors)


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
