"""The report's page in a real browser: its figures, and every control."""

import re
from collections.abc import Iterator

import pytest
from helpers.browser import browser_page
from helpers.sweeps import run, sweep
from playwright.sync_api import Page, expect

from initlab import report

pytestmark = pytest.mark.browser
page = browser_page  # the fixture

DRAWN = "document.documentElement.dataset.drawn"


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("report")
    accuracies = {"kaiming": (0.9, 0.92, 0.91), "normal": (0.2, 0.1, 0.3), "x" * 300: (0.95, 0.97, 0.96)}
    report.write(
        report.lay_out(
            sweep(
                *(
                    run({"init": init, "model": model}, values, hidden=hidden, shift=0.5 * (init[0] == "x"))
                    for model, hidden in (("shallow", 1), ("deep", 4))
                    for init, values in accuracies.items()
                )
            )
        ),
        folder,
    )
    return (folder / "index.html").as_uri()


@pytest.fixture
def said(page: Page, address: str) -> Iterator[list[str]]:
    """The page, drawn; what its console says must be nothing."""
    messages: list[str] = []
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.goto(address)
    page.wait_for_function(DRAWN)
    yield messages
    assert messages == []


def faint(page: Page) -> int:
    return page.locator(".plot svg [opacity='0.08']").count()


@pytest.mark.parametrize("width", [390, 1280])
def test_every_figure_is_drawn_and_fits(width: int, page: Page, address: str, said: list[str]) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    page.reload()
    page.wait_for_function(DRAWN)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    plots = page.locator(".plot")
    assert plots.count() == 27
    for plot in plots.all():
        box = plot.locator("svg.marks, canvas.marks").bounding_box()
        assert box is not None
        assert box["width"] <= width
        assert box["height"] > 40


def test_one_legend_emphasises_a_variant_in_all_figures(page: Page, said: list[str]) -> None:
    assert faint(page) == 0
    legend = page.locator(".legend")
    legend.get_by_role("button", name="normal").click()
    expect(page.locator("#final_accuracy [opacity='0.08']").first).to_be_attached()
    expect(page.locator("#loss_curves [opacity='0.08']").first).to_be_attached()
    once = faint(page)
    legend.get_by_role("button", name="kaiming").click()  # and another one
    page.wait_for_timeout(300)
    assert 0 < faint(page) < once
    legend.get_by_role("button", name="show all").click()
    page.wait_for_timeout(300)
    assert faint(page) == 0


def test_sliders_move_all_figures_of_a_setting(page: Page, said: list[str]) -> None:
    deep = page.locator("#histograms .plot").nth(1)
    shown = deep.locator("svg text").filter(has_text=re.compile("^before step"))
    expect(shown).to_have_text("before step 0")
    deep.locator("input[name=measurement]").fill("2")
    expect(shown).to_have_text("before step 400")
    deep.locator("input[name=layer]").fill("3")
    for figure in ("saturated", "histogram_reference"):
        expect(page.locator(f"#{figure} .plot").nth(1).locator("input[name=layer]")).to_have_value("3")
    page.locator("#histogram_other .plot").nth(1).locator("input[name=layer]").fill("2")
    expect(page.locator("#histogram_reference .plot").nth(1).locator("input[name=layer]")).to_have_value("2")
    assert page.locator("#saturated .plot").nth(0).locator("input[name=layer]").count() == 0  # of one layer


def test_weights_move_through_training(page: Page, said: list[str]) -> None:
    plot = page.locator("#weights .plot").nth(0)
    expect(plot.get_by_text("after epoch 1")).to_be_attached()
    trained = plot.locator("image").first.get_attribute("href")
    plot.locator("input[name=snapshot]").fill("0")
    expect(plot.get_by_text("as drawn")).to_be_attached()
    assert plot.locator("image").first.get_attribute("href") != trained


def test_tables_sort_by_a_click(page: Page, said: list[str]) -> None:
    table = page.locator("table").nth(1)
    heading = table.get_by_role("columnheader", name="test accuracy")
    heading.get_by_role("button").click()
    expect(heading).to_have_attribute("aria-sort", "descending")
    names = table.locator("tbody td:first-child").all_inner_texts()
    assert names == ["x" * 300, "kaiming", "normal"]
    heading.get_by_role("button").click()
    assert table.locator("tbody td:first-child").all_inner_texts() == names[::-1]


@pytest.mark.parametrize("figure", ["difference", "accuracy_curves", "loss_curves", "activation_std", "theory_act_std"])
def test_a_mark_tells_its_numbers(figure: str, page: Page, said: list[str]) -> None:
    page.locator(f"#{figure} .plot").first.locator(".mark-symbol path").first.hover(force=True)
    tooltip = page.locator("#vg-tooltip-element")
    expect(tooltip).to_contain_text(re.compile("normal|kaiming|xxx"))
    expect(tooltip).to_contain_text(re.compile(r"\d\.\d+ ±"))
    assert "undefined" not in tooltip.inner_text()


def test_a_variant_that_a_figure_lacks_does_not_empty_it(page: Page, said: list[str]) -> None:
    page.locator(".legend").get_by_role("button", name="normal").click()
    expect(page.locator("#loss_curves [opacity='0.08']").first).to_be_attached()
    assert page.locator("#histograms [opacity='0.08']").count() == 0


def test_a_pinch_zooms_and_the_wheel_scrolls(page: Page, said: list[str]) -> None:
    plot = page.locator("#loss_curves .plot").first
    plot.scroll_into_view_if_needed()
    labels = plot.locator(".role-axis-label").first
    before, box = labels.text_content(), plot.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    scrolled = page.evaluate("scrollY")
    page.mouse.wheel(0, 100)
    page.wait_for_function(f"scrollY != {scrolled}")
    assert labels.text_content() == before
    page.keyboard.down("Control")
    page.mouse.wheel(0, -300)
    page.keyboard.up("Control")
    expect(labels).not_to_have_text(before)


def test_dark_mode(page: Page, said: list[str]) -> None:
    page.emulate_media(color_scheme="dark")
    page.reload()
    page.wait_for_function(DRAWN)
    text = page.locator("#loss_curves .plot .role-axis-label text").first
    assert text.evaluate("element => getComputedStyle(element).fill") == "rgb(230, 230, 230)"
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(21, 24, 28)"


def test_figures_have_a_text_for_screen_readers(page: Page, said: list[str]) -> None:
    assert page.locator(".plot [role=graphics-document]").count() == page.locator(".plot").count()
    label = page.locator("#final_accuracy [role=graphics-document]").first.get_attribute("aria-label")
    assert label is not None
    assert label.startswith("Test accuracy of every replica by variant")
    assert "kaiming 91.00" in label


def test_without_scripts_there_are_findings_and_tables(page: Page, address: str) -> None:
    context = page.context.browser.new_context(java_script_enabled=False)
    still = context.new_page()
    still.goto(address)
    assert "<noscript><p>The figures need JavaScript." in still.content()
    expect(still.locator(".findings li").first).to_be_visible()
    expect(still.locator("table").nth(1)).to_be_visible()
    context.close()
