"""Waiting times in MLflow's UI, in a real browser, for what people look at: lists, charts, comparisons."""

import json
import re
import shutil
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import quote

import pandas as pd
from mlflow import MlflowClient
from playwright.sync_api import Page, expect, sync_playwright

from benchmarks import stores
from initlab.tracking import ui

KINDS = "sqlite", "server"
COMPARED = 2, 10, 100
JOBS = 100, 1_000, 5_000
SMALL = ("experiment=smoke",)  # lists and comparisons read last values, so the number of points does not matter
PATIENCE = 120_000  # ms to wait for a page
BROWSERS = "chromium", "chromium-browser", "google-chrome"
QUIET = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]


def table(
    rounds: int, *, kinds: Sequence[str] = KINDS, jobs: Sequence[int] = JOBS, words: Sequence[str] = SMALL
) -> pd.DataFrame:
    """One row per (store, what is looked at), one column per number of jobs: seconds, medians over rounds.

    words: overrides of the run that the jobs are copies of.
    """
    from servers import MlflowServer, free_port  # type: ignore[import-not-found]

    rows = []
    with TemporaryDirectory() as name:
        model = stores.real_run(Path(name, "model"), *words)
        for kind in kinds:
            folder = Path(name, kind)
            with stores.place(kind, folder) as place:
                for fewer, number in zip((1, *jobs), jobs, strict=False):
                    stores.in_a_process(_filled, place, model, folder / f"{number}", range(fewer, number))
                    with MlflowServer(place.database, folder, free_port()) as server:
                        found = waits(server.uri, rounds)
                    rows += [{"store": kind, "what": what, "jobs": number, "s": s} for what, s in found.items()]
    medians = pd.DataFrame(rows).groupby(["store", "what", "jobs"], sort=False)["s"].median()
    return medians.unstack("jobs").reset_index().rename(columns=lambda name: f"{name:,}" if name in jobs else name)


def _filled(place: stores.Place, model: Path, folder: Path, numbers: range) -> None:
    parent = stores.sweep_of(place, model, folder, numbers)
    parent.set_description("Best is any: they are copies.", "", "")
    parent.end("FINISHED")


def waits(uri: str, rounds: int, pictures: Path | None = None) -> dict[str, float]:
    """Returns {what is looked at: seconds until it can be read}, medians over rounds, each time in a new browser.

    uri: a server whose store has a sweep in the experiment `initlab`.  pictures: a folder for screenshots.
    """
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("initlab").experiment_id
    parent = client.search_runs([experiment], "tags.sweep != '' and attributes.status = 'FINISHED'", max_results=1)[0]
    jobs = client.search_runs([experiment], "tags.init != ''", max_results=max(COMPARED))
    runs = f"{uri}/#/experiments/{experiment}/runs?workflowType=machine_learning"
    row = re.compile("^(sweep$|init=)")  # in order of time, jobs are folded into their sweep

    def compared(number: int) -> str:
        ids, of = (quote(json.dumps(names)) for names in ([job.info.run_id for job in jobs[:number]], [experiment]))
        return f"{uri}/#/compare-runs?runs={ids}&experiments={of}"

    def first_row(page: Page) -> None:
        expect(page.get_by_role("link", name=row).first).to_be_visible(timeout=PATIENCE)

    def filtered(page: Page) -> None:
        first_row(page)
        page.get_by_placeholder(re.compile("^metrics")).fill("tags.init = 'kaiming'")
        with page.expect_response(re.compile("runs/search"), timeout=PATIENCE):
            page.keyboard.press("Enter")
        first_row(page)

    def a_curve(page: Page) -> None:
        expect(page.locator(".js-plotly-plot .trace").first).to_be_visible(timeout=PATIENCE)

    def a_plot(page: Page) -> None:
        expect(page.get_by_text(re.compile("^Comparing .* Runs"))).to_be_visible(timeout=PATIENCE)
        expect(page.locator(".js-plotly-plot .main-svg").first).to_be_visible(timeout=PATIENCE)

    best = f"{runs}&orderByKey={quote('metrics.`test/accuracy`')}&orderByAsc=false"
    looked: dict[str, tuple[str, Callable[[Page], None]]] = {
        "the list of runs": (runs, first_row),
        "best first": (best, first_row),
        "best first, then of them `tags.init = 'kaiming'`": (best, filtered),
        "a sweep": (
            f"{uri}/{ui.address(experiment, parent.info.run_id)}",
            lambda page: expect(page.get_by_text(re.compile("Best is")).first).to_be_visible(timeout=PATIENCE),
        ),
        "its jobs side by side, charts": (f"{uri}/{ui.address_of_jobs(experiment, parent.info.run_id)}", a_curve),
        **{f"{number} runs compared": (compared(number), a_plot) for number in COMPARED},
    }
    taken: dict[str, list[float]] = {what: [] for what in looked}
    for _ in range(rounds):
        for what, (address, seen) in looked.items():
            with browser() as page:
                since = time.perf_counter()
                page.goto(address)
                seen(page)
                taken[what].append(time.perf_counter() - since)
                if pictures is not None:
                    page.screenshot(path=pictures / f"{what}.png")
    return {what: statistics.median(seconds) for what, seconds in taken.items()}


@contextmanager
def browser() -> Iterator[Page]:
    """Yields a page of a new browser."""
    program = next(filter(None, map(shutil.which, BROWSERS)))
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=program, args=QUIET)
        yield launched.new_page(viewport={"width": 1920, "height": 1200})
        launched.close()
