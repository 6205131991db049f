"""What a person sees in the browser: a sweep's jobs, their charts, the report, the model, in a real `mlflow ui`."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import command
from helpers.browser import browser_page
from helpers.servers import MlflowServer, free_port
from playwright.sync_api import Locator, Page, expect

pytestmark = pytest.mark.browser

page = browser_page  # the fixture

expect.set_options(timeout=30_000)  # ms: a small machine at work on other tests too


@pytest.fixture(scope="module")
def printed(project: Path) -> str:
    """What a sweep of two variants says at its end."""
    words = ["-m", "experiment=smoke", "trainer=cpu", "model.hidden=[20]"]
    command([sys.executable, "train.py", *words[1:], "init=lecun"], project)  # one that is not to be seen beside it
    return command([sys.executable, "train.py", *words, "init=kaiming,normal"], project).stdout


@pytest.fixture(scope="module")
def server(project: Path, printed: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with MlflowServer.ui(project, tmp_path_factory.mktemp("ui"), free_port()) as started:
        yield started.uri


def addresses(printed: str, server: str) -> list[str]:
    """Those that the sweep printed: of its own page, and of its jobs side by side."""
    return [address.replace("http://127.0.0.1:5000", server) for address in re.findall(r"http://\S+", printed)]


def section(page: Page, title: str) -> Locator:
    """A row of charts, by its title and their number."""
    return page.get_by_test_id("experiment-view-compare-runs-section-header").filter(has_text=re.compile(f"^{title}"))


def test_from_the_sweep_to_a_chart_of_a_job(printed: str, server: str, page: Page) -> None:
    """The parent's description is the result; its jobs are linked; their charts are grouped by layer."""
    page.goto(addresses(printed, server)[0])
    expect(page.get_by_text(re.compile("networks of|no difference|points below|too few"))).to_be_visible()
    expect(page.get_by_role("link", name="init=normal", exact=True)).to_be_visible()
    page.get_by_role("link", name="init=kaiming", exact=True).click()
    expect(page.get_by_text(re.compile(r"mnist \(b6c29e96"))).to_be_visible()  # the digest of the data set
    page.get_by_role("tab", name="Model metrics").click()
    expect(section(page, r"layer1 *\(\d+\)")).to_be_visible()
    expect(page.get_by_text("act_std", exact=True).first).to_be_visible()
    expect(page.locator(".js-plotly-plot .scatterlayer .trace").first).to_be_visible()


def test_the_report_is_read_in_place(printed: str, server: str, page: Page) -> None:
    page.goto(addresses(printed, server)[0])
    page.get_by_role("tab", name="Artifacts").click()
    page.get_by_text("index.html", exact=True).click()
    frame = page.frame_locator("iframe")
    expect(frame.get_by_text(re.compile("networks of|no difference|points below|too few")).first).to_be_visible()
    expect(frame.locator(".plot svg").first).to_be_visible()
    page.get_by_text("comparison.csv", exact=True).click()
    expect(page.get_by_text("test/accuracy").first).to_be_visible()


def test_variants_side_by_side(printed: str, server: str, page: Page) -> None:
    """The address that the sweep prints: its jobs without their parent, best first, the columns people want, charts."""
    page.goto(addresses(printed, server)[1])
    expect(page.locator(".js-plotly-plot .scatterlayer .trace").first).to_be_visible()
    for name in (r"results *\(4\)", r"act_std *\(2\)", r"dead_fraction *\(1\)"):  # no unit of the last layer can die
        expect(section(page, name)).to_be_attached()
    rows = page.get_by_role("link", name=re.compile("^init="))
    expect(rows).to_have_count(2)
    expect(rows.first).to_have_text(re.compile("^init=kaiming"))
    page.goto(page.url.replace("compareRunsMode=CHART", "compareRunsMode="))
    for name in ("test/accuracy", "test/accuracy.ci95", "val/loss", "replicas", "init"):
        expect(page.get_by_role("columnheader", name=name, exact=True).first).to_be_attached()


def test_the_model_says_what_goes_in_and_what_comes_out(printed: str, server: str, page: Page) -> None:
    page.goto(addresses(printed, server)[1].partition("runs?")[0] + "models?workflowType=machine_learning")
    page.get_by_role("link", name="kaiming", exact=True).click()
    page.get_by_text("Artifacts", exact=True).click()
    page.get_by_text("MLmodel", exact=True).click()
    expect(page.get_by_text(re.compile(r'"dtype": "uint8", "shape": \[-1, 784\]')).first).to_be_visible()
