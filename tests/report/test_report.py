"""The report: it lays out any sweep, says what its numbers say, and is one page that needs nothing else."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from helpers.sweeps import run, sweep

from initlab import report
from initlab.report import figures, findings, page, sentences, swept, tables, theme
from initlab.report.command import report_on, side_by_side
from initlab.report.layout import growth, lay_out
from initlab.tracking import results

PER_SETTING = {
    *("final_accuracy", "difference", "accuracy_curves", "loss_curves", "saturated", "weights"),
    *("theory_act_std", "theory_act_cosine", "theory_gradients"),
    *("histograms", "histogram_reference", "histogram_other"),
}
BY_DEPTH = {"activation_std", "activation_mean", "gradients"}
ALL = {f"{name}_{number}" for name in PER_SETTING for number in (1, 2)}
ALL |= {f"{name}_2" for name in BY_DEPTH} | {"overview", "lesson"}  # one hidden layer has no depth to show
EVEN, HIGHER = (0.90, 0.92, 0.91), (0.95, 0.97, 0.96)


@pytest.fixture(scope="module")
def two_settings() -> results.Results:
    return sweep(
        *(
            run({"init": init, "model": model}, accuracies, hidden=hidden, shift=shift)
            for model, hidden in (("shallow", 1), ("deep", 4))
            for init, accuracies, shift in (
                ("kaiming", EVEN, 0),
                ("normal", (0.2, 0.1, 0.3), 0),
                ("shifted", HIGHER, 0.5),
            )
        )
    )


@pytest.fixture(scope="module")
def lesson() -> pd.DataFrame:
    rows = [
        ("A", "mean", "x.mean()", "33.3184", "33.3184", "33.3184", "exact", None, None, None, ""),
        ("A", "relu mean", "relu(x).mean()", "0.39", "0.4", "0.394", "inside", 0.3, 0.5, 47.1, "why"),
        ("C", "randn is uniform", "kurtosis", "1.8", "3.0", "3.0", "outside", 2.9, 3.1, 0.0, "<b>"),
    ]
    names = "source quantity expression printed ours theory verdict low high percentile note"
    return pd.DataFrame(rows, columns=names.split())


class Page(HTMLParser):
    """What a browser would fetch, the text a reader sees, and the figures: {name: Vega-Lite specification}."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.figures: dict[str, dict] = {}
        self.legend: list[str] = []
        self.anchors: set[str] = set()
        self.text = self.name = self.script = ""
        self.feed(html)
        self.text = re.sub(r"\s+", " ", self.text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = dict(attributes)
        self.addresses += [value for name, value in attributes if name in ("src", "href") and value is not None]
        self.anchors |= {value for name, value in attributes if name == "id" and value is not None}
        self.script = found.get("type") or tag if tag in ("script", "style") else ""
        self.name = found.get("data-name") or self.name
        if found.get("data-variant") is not None:
            self.legend.append(found["data-variant"] or "")

    def handle_data(self, data: str) -> None:
        if self.script == "application/json":
            self.figures[self.name] = json.loads(data)
        elif not self.script:
            self.text += data

    def handle_endtag(self, tag: str) -> None:
        self.script = ""


def write(found: results.Results, folder: Path, lesson: pd.DataFrame | None = None) -> Page:
    report.write(lay_out(found), folder, lesson)
    return Page((folder / "index.html").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def written(two_settings: results.Results, lesson: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of both."""
    folder = tmp_path_factory.mktemp("written")
    report.write(lay_out(two_settings), folder, lesson)
    return folder


def test_every_figure_is_on_the_page_and_beside_it(written: Path) -> None:
    page = Page((written / "index.html").read_text(encoding="utf-8"))
    drawn = {path.stem: ElementTree.parse(path).getroot().tag for path in (written / "figures").iterdir()}
    assert drawn == dict.fromkeys(ALL - {"overview"}, "{http://www.w3.org/2000/svg}svg")
    assert page.figures.keys() == ALL - {"overview"}  # for a README; its parts are on the page
    assert all(figure["description"] and figure["width"] == "container" for figure in page.figures.values())
    assert page.legend == ["kaiming", "normal", "shifted"]
    assert {"comparison.csv", "comparison.md", "layers.csv", "metrics", "overview.svg", "validation.csv"} <= {
        path.name for path in written.iterdir()
    }


def test_the_page_needs_no_network(written: Path) -> None:
    html = (written / "index.html").read_text(encoding="utf-8")
    page = Page(html)
    assert all(address.removeprefix("#") in page.anchors for address in page.addresses)
    assert not re.search(r"<script[^>]* src|@import|<link", html)
    assert "&lt;b&gt;" in html  # what a table says is text
    assert len(html) < 3_000_000


def test_a_name_can_not_end_a_script(tmp_path: Path) -> None:
    name = "</script><b>"
    page = write(sweep(run({"init": "kaiming"}), run({"init": name})), tmp_path)
    assert page.legend == ["kaiming", name]
    assert any(name in str(figure) for figure in page.figures.values())


def test_the_same_results_give_the_same_bytes(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        report.write(lay_out(run({"init": "kaiming"}, hidden=2)), tmp_path / folder)
    for path in (tmp_path / "a").rglob("*.*"):
        assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes()


@pytest.mark.parametrize(
    ("shifted", "said"),
    [
        (HIGHER, "by +5.00 ± 0.00 points: significant."),
        ((0.85, 0.87, 0.86), "by -5.00 ± 0.00 points: significant."),
        ((0.92, 0.90, 0.91), "by +0.00 ± 4.97 points: not significant."),  # differences 2, -2, 0: 4.303 x 2/sqrt(3)
    ],
)
def test_another_result_reads_differently(shifted: tuple[float, ...], said: str, tmp_path: Path) -> None:
    found = sweep(run({"init": "kaiming"}, EVEN), run({"init": "other"}, shifted, shift=0.5))
    text = write(found, tmp_path).text.replace("\N{NO-BREAK SPACE}", " ")
    assert f"Shifting the activation down by 0.5 (other) changes test accuracy {said}" in text
    best = "other" if shifted == HIGHER else "kaiming"
    assert f"with {best}. Compared with kaiming" in text


def test_replicas_that_diverge_are_said_and_set_apart(tmp_path: Path) -> None:
    found = sweep(run({"init": "kaiming"}, EVEN), run({"init": "wild"}, (0.9, 0.9, 0.1), diverged=1))
    view = lay_out(found)
    assert sentences.verdicts(view, "")["diverged"] == ["wild"]
    assert list(view.steps("wild", "", "val/loss")["mean"]) == [0.01, 0.005]  # of the two that are left
    assert list(view.steps("wild", "", "val/accuracy")["mean"]) == pytest.approx([0.45, 0.9])
    assert view.accuracy("wild", "").replace("\N{NO-BREAK SPACE}", " ") == "90.00 ± 0.00 % (1 of 3 diverged)"
    assert view.difference("wild", "", "test/accuracy") is None
    text = write(found, tmp_path).text
    assert "1 of 3 networks of wild diverge." in text
    assert "nan ±" not in text


def test_nothing_is_compared_with_a_reference_that_diverges() -> None:
    view = lay_out(sweep(run({"init": "kaiming"}, (0.9, 0.9, 0.1), diverged=1), run({"init": "other"}, EVEN)))
    assert sentences.verdicts(view, "") == {"better": [], "worse": [], "not told apart": [], "diverged": ["kaiming"]}


def test_what_all_replicas_have_left_has_no_end() -> None:
    view = lay_out(sweep(run({"init": "kaiming"}, EVEN), run({"init": "wild"}, (0.1, 0.1), diverged=2)))
    assert np.isnan(view.dead("wild", ""))
    assert view.accuracy("wild", "") == "2 of 2 diverged"
    assert "wild" not in " ".join(sentences.inside(view))


def test_runs_of_other_batches_are_not_paired() -> None:
    """With two replicas of one seed and three of another, replica r does not mean the same batches."""
    view = lay_out(sweep(run({"init": "kaiming", "seed": "0"}, EVEN), run({"init": "other", "seed": "1"}, EVEN)))
    assert view.difference("other", "", "test/accuracy") is None
    text = " ".join(sentences.method(view))
    assert "not paired" in text
    assert "same batches" not in text


def test_seeds_are_pooled() -> None:
    """Five seeds of two schemes are two variants of fifteen networks, paired network by network."""
    found = sweep(*(run({"init": init, "seed": str(seed)}, EVEN) for init in ("kaiming", "b") for seed in range(5)))
    view = lay_out(found)
    assert view.run == {("kaiming", ""): "init=kaiming", ("b", ""): "init=b"}
    assert len(view.replicas("b", "", "test/accuracy")) == 15
    assert view.difference("b", "", "test/accuracy") == pytest.approx((0, 0), abs=1e-12)
    assert view.pooled["init=b"] == [f"init=b,seed={seed}" for seed in range(5)]
    assert sentences.method(view)[0].startswith("2 variants, 2 runs of 15 replicas: 30 networks")
    assert "Each variant pools the replicas of 5 seeds." in sentences.method(view)[0]
    each = [np.mean(EVEN)] * 5
    assert view.replicas("b", "", "test/accuracy").mean() == pytest.approx(np.mean(each))
    assert report.terminal_table(view, dict.fromkeys(found.runs, 2.0)).count("10 s") == 2
    assert len(tables.tables(view.recorded.replicas)["comparison.md"].splitlines()) == 2 + 10  # files have each run


def test_pooled_runs_of_other_seeds_are_not_paired() -> None:
    seeds = {"kaiming": (0, 1), "b": (1, 2)}
    view = lay_out(sweep(*(run({"init": i, "seed": str(n)}, EVEN) for i, both in seeds.items() for n in both)))
    assert view.difference("b", "", "test/accuracy") is None


def test_what_becomes_of_the_scale() -> None:
    """Made-up runs lose a fifth a layer; with numbers put in by hand the other three come about too."""
    names = ("loses", "keeps", "settles", "grows")
    stds = {"keeps": [1, 1.02, 0.99, 1], "settles": [1, 0.5, 0.4, 0.4], "grows": [1, 3, 9, 27]}
    found = sweep(*(run({"init": name}, hidden=4) for name in names))
    for name, values in stds.items():
        for layer, value in enumerate(values, start=1):
            found.replicas.loc[found.replicas["init"] == name, f"layer{layer}/act_std"] = value
    (_, text) = sentences.at_the_start(lay_out(found))
    assert text == (
        "From layer to layer, the scale of activations stays within 10 % with `keeps`; settles at another value with "
        "`settles`; shrinks with `loses`; grows with `grows`."
    )
    table = sentences.growth_table(lay_out(found), "")
    assert table is not None
    assert table.set_index("variant").loc["grows", "forward"] == pytest.approx(3)
    assert table.set_index("variant").loc["loses", "forward"] == pytest.approx(0.8)


def test_the_cause_is_named_only_if_it_sets_them_apart() -> None:
    found = sweep(*(run({"init": name}, (0.9, 0.1), diverged=lost) for name, lost in (("a", 0), ("b", 1), ("c", 0))))
    assert "does not set them apart" in findings.lead(lay_out(found))
    found.replicas.loc[found.replicas["init"] == "b", "layer1/grad_std"] = 7.0
    assert "The first gradients of `b` are the largest" in findings.lead(lay_out(found))
    assert "at least 7, elsewhere at most 0.36" in findings.lead(lay_out(found))


def test_findings_are_claims_with_numbers_largest_effect_first(two_settings: results.Results) -> None:
    found = findings.findings(lay_out(two_settings))
    texts = [finding.text.replace("\N{NO-BREAK SPACE}", " ") for finding in found]
    assert texts == [
        "With one hidden layer, `normal`, which starts late (10 % after its first epoch), ends 71.00 ± 26.17 points "
        "below `kaiming` (91.00 ± 2.48 %).",
        "With four hidden layers, `normal`, which starts late (10 % after its first epoch), ends 71.00 ± 26.17 points "
        "below `kaiming` (91.00 ± 2.48 %).",
        "With one hidden layer, `shifted` ends 5.00 ± 0.00 points above `kaiming` (91.00 ± 2.48 %).",
        "With four hidden layers, `shifted` ends 5.00 ± 0.00 points above `kaiming` (91.00 ± 2.48 %).",
        "Shifting the activation down by 0.5 (`shifted`) changes test accuracy by +5.00 ± 0.00 points with one hidden "
        "layer and by +5.00 ± 0.00 points with four hidden layers: both are significant.",
    ]
    assert {finding.figure for finding in found} == {"difference"}


def test_a_scheme_that_never_learns_comes_first() -> None:
    lost = run({"init": "normal"}, (0.1, 0.1, 0.1), diverged=3)
    text = findings.lead(lay_out(sweep(run({"init": "kaiming"}, EVEN), run({"init": "other"}, HIGHER), lost)))
    assert text.startswith("`normal` never learns: all 3 networks diverge.")
    assert "`other` ends 5.00" in text


def test_no_difference_is_a_finding_too() -> None:
    near = [
        run({"init": name}, [value + d for value, d in zip(EVEN, shift, strict=True)])
        for name, shift in (("a", (0.001, 0, 0)), ("b", (0, 0.002, 0)))
    ]
    text = findings.lead(lay_out(sweep(run({"init": "kaiming"}, EVEN), *near))).replace("\N{NO-BREAK SPACE}", " ")
    assert "With 3 networks each, no difference from `kaiming` shows for `b` and `a`" in text
    assert "the largest measured is +0.07 ± 0.29 points (`b`)." in text


def test_verdicts_of_the_lesson_are_counted(lesson: pd.DataFrame) -> None:
    first, second = sentences.lesson(lesson)
    assert first.startswith("Of 2 printed numbers, 1 are functions of the data")
    assert first.endswith("None lies outside.")
    assert second == "Of 1 claims, 0 hold; these do not: “randn is uniform”."
    doubted = lesson.assign(verdict="outside")
    assert "Outside are x.mean() and relu(x).mean()." in sentences.lesson(doubted)[0]


@pytest.mark.parametrize(
    "found",
    [
        run({"init": "kaiming"}),
        run({"init": "kaiming"}, (0.9,)),
        run({"init": "kaiming"}, hidden=0),
        run({"init": "kaiming"}, (0.1, 0.1), diverged=2, hidden=4),
        run({"init": "kaiming"}, inputs=15),
        sweep(run({"init": "a"}, (0.9, 0.8)), run({"init": "b"}, (0.9,))),
        sweep(run({"init": "a", "model.hidden": "[]"}, hidden=0), run({"init": "a", "model.hidden": "[5]"})),
        sweep(*(run({"init": "a", "seed": str(seed)}) for seed in range(5))),
        sweep(*(run({"init": init, "stats.every": str(every)}) for init in "ab" for every in range(1, 6))),
        sweep(*(run({"init": f"a{number}"}, (0.9 + number / 1000, 0.91)) for number in range(50))),
        sweep(run({"init": "a", "seed": "0"}), run({"init": "b", "optimizer.lr": "0.1"})),
    ],
    ids=[
        "one run",
        "one replica",
        "no hidden layer",
        "nothing but nan",
        "no square images",
        "unequal replicas",
        "some with hidden layers",
        "many seeds",
        "many settings",
        "fifty variants",
        "overrides that differ",
    ],
)
def test_any_sweep_has_a_report(found: results.Results, tmp_path: Path) -> None:
    page = write(found, tmp_path)
    assert "Left out:" not in page.text
    assert "measured on 200 validation images" in page.text  # as many as there were, of the 256 asked for
    assert len(page.figures) >= 4


def bare(found: results.Results) -> results.Results:
    """The results, with configurations that leave what has a default to it."""
    for record in found.runs.values():
        del record["config"]["optimizer"]["lr"]
        del record["config"]["activation"]["shift"]
    return found


def overflowing(found: results.Results, init: str, first: int) -> results.Results:
    """The results, with activations of a variant that overflow at step 0, from layer `first` on, as float32's do."""
    rows = (found.replicas["init"] == init) & (found.replicas["step"] == 0)
    layers = [int(name.removeprefix("layer").split("/")[0]) for name in found.replicas if name.startswith("layer")]
    for layer in sorted({*layers}):
        for name in [name for name in found.replicas if name.startswith(f"layer{layer}/")]:
            if "delta" in name or "grad" in name or layer > first:
                found.replicas.loc[rows, name] = np.nan
            elif layer == first:
                found.replicas.loc[rows, name] = np.where(np.arange(rows.sum()) % 2, np.inf, -np.inf)
    return found


@pytest.mark.parametrize(
    "found",
    [
        overflowing(
            sweep(run({"init": "kaiming"}, hidden=6), run({"init": "normal"}, (0.1, 0.1), hidden=6, diverged=2)),
            "normal",
            3,
        ),
        overflowing(run({"init": "normal"}, (0.1,), hidden=4, diverged=1), "normal", 1),
        sweep(
            *(
                run({"init": "a", "model.hidden": str([5] * hidden), "optimizer.lr": lr}, hidden=hidden)
                for hidden in (0, 1)
                for lr in ("0.05", "0.1")
            )
        ),
        bare(run({"init": "kaiming"})),
        sweep(*(run({"init": init}) for init in ("kaiming", "Kaiming", "x" * 300, r'C:\data\<a>|"b"?*/c%2f#'))),
    ],
    ids=[
        "activations overflow",
        "all activations overflow",
        "reference without hidden layers",
        "configuration of one's own",
        "names that no file can have",
    ],
)
def test_nothing_is_left_out_of_odd_but_honest_sweeps(found: results.Results, tmp_path: Path) -> None:
    layout = lay_out(found)
    (tmp_path / report.ERRORS).write_text("of an earlier report", encoding="utf-8")
    names = report.write(layout, tmp_path)
    read = Page((tmp_path / "index.html").read_text(encoding="utf-8"))
    assert "Left out:" not in read.text
    assert not (tmp_path / report.ERRORS).exists()
    assert len(read.figures) == len([name for name in names if name.startswith("figures/")]) >= 4
    assert not re.search(r"\bnan [%±]|[( ]inf\b", read.text)
    metrics = [name for name in names if name.startswith("metrics/")]
    assert len({name.casefold() for name in metrics}) == len(found.runs)
    assert all(len(Path(name).name.encode()) < 143 and not re.search(r'[:\\?*"<>|]', name) for name in metrics)
    assert report.terminal_table(layout, {})
    assert report.summary(layout, {})


def test_what_overflows_is_said(tmp_path: Path) -> None:
    found = sweep(run({"init": "kaiming"}, hidden=6), run({"init": "normal"}, (0.1, 0.1), hidden=6, diverged=2))
    text = write(overflowing(found, "normal", 3), tmp_path).text
    assert "activations overflow float32 with normal." in text.lower()
    assert "grows with normal." in text
    assert "the standard deviation of dL/dW in layer 1 is too large for float32, elsewhere at most 0.36." in text


def test_what_can_not_be_drawn_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two figures, a text, all tables: the rest is there, and the page says what is not."""

    def fail(*_: object, **__: object) -> None:
        raise KeyError("broken")

    monkeypatch.setattr(figures, "curves", fail)
    monkeypatch.setattr(tables, "tables", fail)
    monkeypatch.setitem(page.TEXTS, "inside", fail)
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "loss_curves.svg").write_text("of an earlier report", encoding="utf-8")
    names = report.write(lay_out(run({"init": "kaiming"})), tmp_path)
    read = Page((tmp_path / "index.html").read_text(encoding="utf-8"))
    alone = PER_SETTING | BY_DEPTH - {"difference", "histogram_other"}
    assert read.figures.keys() == alone - {"difference", "histogram_other", "accuracy_curves", "loss_curves"}
    for part in ("the tables", "the figure accuracy_curves", "the figure loss_curves", "the text on inside"):
        assert f"Left out: {part}: KeyError: 'broken'" in read.text
    assert (tmp_path / report.ERRORS).read_text(encoding="utf-8").count("Traceback") == 4
    assert {report.ERRORS, "index.html", "overview.svg", "figures/final_accuracy.svg"} <= {*names}
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.*")} == {*names}


@pytest.mark.parametrize(
    ("classes", "first", "late"),
    [(10, 0.12, True), (10, 0.25, False), (26, 0.12, True), (26, 0.16, False), (2, 0.53, True), (2, 0.6, False)],
)
def test_chance_is_one_over_the_classes_of_the_data(classes: int, first: float, late: bool) -> None:
    found = run({"init": "kaiming"}, (0.9, 0.9))
    found.replicas.loc[found.replicas["step"] == 200, "val/accuracy"] = first
    found.replicas.loc[found.replicas["step"] == 0, "val/accuracy"] = 1 / classes  # a check before the first step
    (record,) = found.runs.values()
    if classes != 10:  # older records have ten
        record["theory"]["chance"] = 1 / classes
    better = run({"init": "better"}, (0.95, 0.95))
    both = lay_out(sweep(better, found))
    both.results.runs["init=better"]["theory"]["chance"] = 1 / classes
    assert both.reference == "kaiming"
    told = findings.lead(
        lay_out(
            sweep(
                better,
                results.Results(
                    found.replicas.assign(init="slow", run="init=slow"),
                    {"init=slow": record | {"overrides": {"init": "slow"}}},
                    {"init=slow": found.tensors["init=kaiming"]},
                ),
            )
        )
    )
    assert ("starts late" in told) == late


def test_variants_and_settings(two_settings: results.Results) -> None:
    view = lay_out(two_settings)
    assert (view.variants, view.settings) == (["kaiming", "normal", "shifted"], ["model=shallow", "model=deep"])
    assert view.run["shifted", "model=deep"] == "init=shifted,model=deep"
    assert view.pair("model=deep") == ["kaiming", "shifted"]

    view = lay_out(sweep(*(run({"optimizer": name}) for name in ("sgd", "adam"))))
    assert (view.variants, view.settings) == (["optimizer=sgd", "optimizer=adam"], [""])

    many = lay_out(sweep(*(run({"init": init, "stats.every": str(n)}) for init in "ab" for n in range(1, 6))))
    assert (len(many.variants), many.settings) == (10, [""])
    assert many.variants[0] == "init=a, stats.every=1"


def test_differences_are_paired() -> None:
    """Of replicas 0.95 - 0.90, 0.97 - 0.92, ...: 0.05 without spread, where the unpaired intervals are 0.025 wide."""
    view = lay_out(sweep(run({"init": "kaiming"}, EVEN), run({"init": "other"}, HIGHER)))
    difference = view.difference("other", "", "test/accuracy")
    assert difference == pytest.approx((0.05, 0), abs=1e-12)
    assert view.difference("kaiming", "", "test/accuracy") is None


def test_gradients_theory_starts_at_the_output_and_follows_the_ratios() -> None:
    """5 units, Kaiming's 2/5: a ratio of 1 between hidden layers; below the output of 10 units 10 x 2/5 / 2 = 2."""
    view = lay_out(run({"init": "kaiming"}, hidden=3))
    found = view.gradients("kaiming", "")
    output = 0.45 * 0.8**4
    assert list(found["theory"]) == pytest.approx([output * np.sqrt(2)] * 3)
    assert list(found["mean"]) == pytest.approx([0.45 * 0.8, 0.45 * 0.8**2, 0.45 * 0.8**3])


def test_growth_of_a_geometric_series() -> None:
    assert growth(pd.Series([3.0, 1.5, 0.75, 0.375])) == pytest.approx(0.5, rel=1e-12)
    assert np.isnan(growth(pd.Series([1.0])))
    assert np.isnan(growth(pd.Series([1.0, np.inf, 2.0])))


def test_sweeps_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Sweeps of other keys too; each run stays what it is, and settings are the sweeps' names."""
    one = sweep(run({"init": "kaiming"}, EVEN), run({"init": "b"}, HIGHER))
    two = sweep(run({"init": "kaiming", "model": "deep"}, EVEN, hidden=3), run({"init": "b", "model": "deep"}, EVEN))
    for name, found in (("one", one), ("two", two)):
        (tmp_path / name).mkdir()
        results.save(found, tmp_path / name)
    folders = [str(tmp_path / name) for name in ("one", "two")]
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    page = report_on(folders, tmp_path / "both", uri=uri)
    assert capsys.readouterr().out == f"report: {page}\n"
    assert "4 runs of 3 replicas" in Page(page.read_text(encoding="utf-8")).text
    view = lay_out(side_by_side({"one": one, "two": two}))
    assert view.variants == ["kaiming", "b"]
    assert view.settings == ["sweep=one", "sweep=two, model=deep"]
    assert view.difference("b", "sweep=one", "test/accuracy") == pytest.approx((0.05, 0), abs=1e-12)
    with pytest.raises(ValueError, match="needs a folder: --output FOLDER"):
        report_on(folders, None, uri=uri)
    with pytest.raises(ValueError, match=r"expected different sweeps, not .*one .*one"):
        report_on([folders[0], folders[0]], tmp_path / "both", uri=uri)


@pytest.mark.parametrize(
    ("key", "values", "x", "log"),
    [
        ("model.hidden", ("[5]", "[5, 5]", "[5, 5, 5]"), "hidden layers", False),
        ("data.batch_size", ("16", "64", "256"), "data.batch_size", True),
    ],
)
def test_accuracy_over_a_number_that_was_swept(key: str, values: tuple[str, ...], x: str, log: bool) -> None:
    accuracies = dict(zip(values, (0.8, 0.9, 0.95), strict=True))
    found = sweep(
        *(
            run({"init": init, key: value}, (accuracy, accuracy + 0.01), hidden=max(value.count("5"), 1))
            for init in ("kaiming", "b")
            for value, accuracy in accuracies.items()
        )
    )
    ((view),) = swept.views(lay_out(found))
    assert isinstance(view, swept.Curves)
    assert (view.x, view.log) == (x, log)
    assert list(view.table[view.table["variant"] == "b"]["mean"]) == pytest.approx([0.805, 0.905, 0.955])
    assert "swept_1" in figures.figures(lay_out(found))


def test_schemes_and_activations_are_a_matrix() -> None:
    names = "relu", "tanh", "gelu"
    found = sweep(
        *(
            run({"init": i, "activation": a}, (0.8 + 0.05 * n,) * 2)
            for i in ("kaiming", "b")
            for n, a in enumerate(names)
        )
    )
    (view,) = swept.views(lay_out(found))
    assert isinstance(view, swept.Map)
    assert (view.x, view.y, view.rows) == ("activation", "init", ["b", "kaiming"])
    assert list(view.table[view.table["best"]]["x"]) == ["gelu", "gelu"]
    specification = figures.figures(lay_out(found))["swept_1"]().to_dict()
    assert theme.svg(specification).count(">90.0<") == 2


def test_two_numbers_are_a_map() -> None:
    found = sweep(
        *(
            run({"init": "gaussian", "init.weights.sigma_w": w, "model.hidden": h}, hidden=h.count("5"))
            for w in ("1", "1.5", "2")
            for h in ("[5]", "[5,5]", "[5,5,5]")
        )
    )
    (view,) = swept.views(lay_out(found))
    assert isinstance(view, swept.Map)
    assert (view.x, view.columns, view.y, view.rows) == (
        "init.weights.sigma_w",
        ["1", "1.5", "2"],
        "hidden layers",
        ["1", "2", "3"],
    )


def test_other_sweeps_have_no_such_figure(two_settings: results.Results) -> None:
    assert swept.views(lay_out(two_settings)) == []
    assert swept.views(lay_out(sweep(*(run({"init": "a", "optimizer.lr": f"0.{n}"}) for n in range(1, 4))))) == []
