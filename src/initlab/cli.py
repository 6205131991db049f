"""The console command `initlab`. Each subcommand imports what it needs when it is called."""

import argparse
import os
import sys
import traceback
import webbrowser
from collections.abc import Sequence
from pathlib import Path

from initlab.tracking import default_uri


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a subcommand and returns its exit code.

    Expected errors are printed in one line. HYDRA_FULL_ERROR=1 shows the stack trace.
    """
    chosen = _parser().parse_args(arguments)
    try:
        return chosen.run(chosen)
    except Exception as error:
        if not isinstance(error, OSError | ValueError) or os.environ.get("HYDRA_FULL_ERROR") == "1":
            traceback.print_exc()
        else:
            print(f"error: {error}", file=sys.stderr)
        return chosen.failed


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="initlab", description="What weight initialisation does to a neural network. Training: python train.py"
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    replay = commands.add_parser(
        "replay",
        help="run a recorded run again, and compare",
        description="Runs a recorded run again, and says whether it comes out the same. Exit code 0: it does, to the "
        "bit or, on another machine or with other packages, within rounding and chance. 1: it does not. 2: it can't be "
        "run again.",
    )
    which = replay.add_mutually_exclusive_group(required=True)
    which.add_argument("run_id", nargs="?", metavar="RUN_ID", help="the id of a finished run")
    which.add_argument("--all", metavar="RUN_ID", help="the id of a sweep's parent run: replay all its finished jobs")
    replay.add_argument(
        "--allow",
        choices=("code", "data"),
        action="append",
        default=[],
        help="go on although the code, or the data, differ from what the run was made with",
    )
    _add_tracking_uri(replay)
    replay.set_defaults(run=_replay, failed=2)

    report = commands.add_parser(
        "report",
        help="write the report of a sweep, or of several",
        description="Writes a sweep's report, or one that compares several sweeps.",
    )
    report.add_argument("sweeps", nargs="+", metavar="SWEEP", help="a sweep's folder, or the id of its parent run")
    report.add_argument(
        "--output", type=Path, metavar="FOLDER", help="where it goes (default: report/ in the sweep's folder)"
    )
    report.add_argument("--open", action="store_true", help="open it in the browser")
    report.add_argument("--lesson", type=Path, metavar="CSV", help="the lesson's table, to be part of it")
    report.add_argument(
        "--reproduction", type=Path, metavar="CSV", help="what `initlab reproduce` wrote, to be part of it"
    )
    _add_tracking_uri(report)
    report.set_defaults(run=_report, failed=1)

    reproduce = commands.add_parser(
        "reproduce",
        help="compare a sweep's results with the published ones: reproduced, or not?",
        description="Says whether a sweep's results agree with a reference: to the bit, or within rounding and chance.",
    )
    reproduce.add_argument("results", nargs="?", type=Path, default=Path("results"), help="a sweep's folder (results)")
    reproduce.add_argument(
        "--reference", type=Path, default=Path("reference"), help="the reference's folder (reference)"
    )
    reproduce.add_argument("--output", type=Path, metavar="CSV", help="file for the comparison, line by line")
    reproduce.add_argument(
        "--check",
        action="store_true",
        help="exit with code 1 if the results are not reproduced, and with 2 if that can't be told",
    )
    reproduce.add_argument(
        "--make-reference", action="store_true", help="make the reference anew, of these results: takes minutes"
    )
    reproduce.set_defaults(run=_reproduce, failed=2)

    sync = commands.add_parser(
        "sync",
        help="send the tracking store what it missed",
        description="Sends the tracking store what it missed of runs that were made while it was away. Exit code 1: "
        "something could not be sent.",
    )
    sync.add_argument("folders", nargs="*", type=Path, help="folders of runs or sweeps (default: outputs multirun)")
    sync.add_argument("--tracking-uri", help="MLflow's store (default: the one in which each run began)")
    sync.set_defaults(run=_sync, failed=1)

    theory = commands.add_parser(
        "theory",
        help="print what theory expects of a network before training",
        description="Prints what mean-field theory expects of every layer of a network before training, and of layers "
        "without end: fixed points and depth scales. It needs neither data nor torch.",
    )
    theory.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="as python train.py takes them: init=critical"
    )
    theory.set_defaults(run=_theory, failed=1)

    lesson = commands.add_parser(
        "lesson",
        help="compare the lesson's numbers with theory and many draws",
        description="Writes a table of the lesson's numbers, each beside what theory and many draws give.",
    )
    lesson.add_argument("raw", type=Path, help="folder of MNIST's four files")
    lesson.add_argument("normalized", type=Path, help="folder of both normalised data sets")
    lesson.add_argument("table", type=Path, help="CSV file to write")
    lesson.add_argument("--draws", type=int, default=1000, help="how many draws each random number is compared with")
    lesson.set_defaults(run=_lesson, failed=1)

    data = commands.add_parser("data", help="download or normalise the data", description="The data stages.")
    stages = data.add_subparsers(title="stages", metavar="STAGE", required=True)
    download = stages.add_parser("download", help="download the raw files, and verify them")
    download.add_argument("source", type=Path, help="YAML file with `mirrors` and `files`: conf/data/source/NAME.yaml")
    download.add_argument("folder", type=Path, help="where they go")
    download.set_defaults(run=_download, failed=1)
    normalize = stages.add_parser("normalize", help="read, check, split and normalise the raw files")
    normalize.add_argument("raw", type=Path, help="folder of the raw files")
    normalize.add_argument("out", type=Path, help="where each data set gets a folder")
    normalize.add_argument("configs", nargs="+", type=Path, help="YAML files of data sets: conf/data/NAME.yaml")
    normalize.set_defaults(run=_normalize, failed=1)
    restore = stages.add_parser("restore", help="restore the raw files that a .dvc file pins, if one is damaged")
    restore.add_argument("pin", help="the .dvc file: data.dvc")
    restore.set_defaults(run=_restore, failed=1)
    return parser


def _add_tracking_uri(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--tracking-uri",
        default=default_uri(),
        help="MLflow's store (default: MLFLOW_TRACKING_URI, or else mlflow.db here)",
    )


def _replay(chosen: argparse.Namespace) -> int:
    from initlab.replay.command import replay_all

    return 0 if replay_all(chosen.tracking_uri, chosen.run_id, chosen.all, allow=chosen.allow) else 1


def _report(chosen: argparse.Namespace) -> int:
    from initlab.report.command import report_on

    page = report_on(chosen.sweeps, chosen.output, chosen.lesson, chosen.reproduction, uri=chosen.tracking_uri)
    if chosen.open and not webbrowser.open(page.absolute().as_uri()):
        print("no browser was found to open it")
    return 0


def _reproduce(chosen: argparse.Namespace) -> int:
    from initlab.reproduction import command

    if chosen.make_reference:
        command.make_reference(chosen.results, chosen.reference)
        return 0
    reproduced = command.reproduce(chosen.results, chosen.reference, chosen.output)
    return {True: 0, False: 1, None: 2}[reproduced] if chosen.check else 0


def _sync(chosen: argparse.Namespace) -> int:
    from initlab.tracking.sync import sync_runs

    return 1 if sync_runs(chosen.folders, chosen.tracking_uri) else 0


def _theory(chosen: argparse.Namespace) -> int:
    from initlab.theory_table import describe

    print(describe(chosen.overrides))
    return 0


def _lesson(chosen: argparse.Namespace) -> int:
    from initlab.lesson.table import write_table

    write_table(chosen.raw, chosen.normalized, chosen.table, draws=chosen.draws)
    return 0


def _download(chosen: argparse.Namespace) -> int:
    from omegaconf import OmegaConf

    from initlab.data.download import download_files

    config = OmegaConf.load(chosen.source)
    download_files(config.mirrors, config.files, chosen.folder)
    return 0


def _normalize(chosen: argparse.Namespace) -> int:
    from initlab.data import dvc_pin, normalize
    from initlab.data.idx import PREFIXES

    for path in chosen.configs:
        pin, settings = normalize.read_settings(path)
        dvc_pin.check_pinned(chosen.raw, pin, settings.get("prefixes", PREFIXES))
        facts = normalize.write_normalized(chosen.raw, Path(chosen.out, path.stem), **settings)
        print(normalize.describe(path.stem, facts))
    return 0


def _restore(chosen: argparse.Namespace) -> int:
    from initlab.data import dvc_pin

    return 0 if dvc_pin.restore(chosen.pin) else 1
