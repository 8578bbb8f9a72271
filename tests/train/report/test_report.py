"""The report of a synthetic sweep: one offline file, verdicts first, and the same words in HTML and Markdown."""

import base64
import csv
import gzip
import itertools
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import plotly.graph_objects as go
import pytest
from plotly.utils import PlotlyJSONEncoder
from rich.console import Console

from train.errors import UserError
from train.report import svg
from train.report.arms import DARK, LIGHT, Sweep
from train.report.charts import CHARTS, FIRST, Chart
from train.report.charts.chart import whole
from train.report.charts.curves import curves
from train.report.charts.losses import best_of, by_rate, by_size, sensitivities
from train.report.charts.profile import by_layer, gradients
from train.report.charts.rates import outcomes
from train.report.report import BUDGETS, COLUMNS, markdown, row, say_verdicts, write_report
from train.verdict.question import MEASURES, Question, question_of
from train.verdict.runs import packed
from train.verdict.words import sentence

AXES = {
    "placement": ("pre", "post"),
    "norm": ("rms", "layer"),
    "depth": (2, 4, 8, 16),
    "lr": (3e-4, 1e-3, 3e-3, 1e-2, 3e-2),
    "seed": (0, 1, 2),
}
CORPUS = {"name": "stdlib", "sha256": "c0ffee", "bytes": 1_000_003, "log_vocab": 5.545, "unigram_entropy": 3.33}
CORPUS |= {"bigram_entropy": 2.49}
PROVENANCE = {"fxformer": "0.1.0", "jax": "0.10.2", "python": "3.11.7", "device": "cpu x 2", "git": "abc123 (dirty)"}
STEPS = 200


def record(random: np.random.Generator, placement: str, norm: str, depth: int, lr: float, seed: int) -> dict:
    """One run as the toy experiments go: best near 0.01, post-norm stuck when deep and fast, a few runs lost."""
    settings = {"placement": placement, "norm": norm, "depth": depth, "lr": lr, "seed": seed, "warmup": 20}
    best = 2.5 + 0.25 * math.log10(lr / 0.01) ** 2 + 0.01 * seed + 0.004 * random.standard_normal()
    stuck = placement == "post" and depth * lr > 0.03
    diverged = placement == "pre" and lr == 3e-2 and (depth, seed) == (16, 2)
    level = 3.31 + 0.003 * random.standard_normal() if stuck else best
    loss = level + (5.6 - level) * np.exp(-np.arange(STEPS) * lr / 0.05) + 0.04 * random.standard_normal(STEPS)
    outcome, step = ("stuck", 40) if stuck else ("worked", 60)
    if diverged:
        loss[120:], outcome, step, level = np.nan, "diverged", 121, None
    block = np.arange(1, depth + 1)
    gradient = (
        1.6 * (block / depth) ** 0.7 if placement == "post" else 1.1 / np.sqrt(depth) + 0.02 * random.random(depth)
    )
    layers = {
        "grad_norm": gradient.tolist(),
        "residual_rms": (np.ones(depth) if placement == "post" else np.sqrt(1 + 0.6 * block)).tolist(),
        "attention_branch_ratio": (0.5 / block).tolist(),
        "ffn_branch_ratio": (0.7 / block).tolist(),
        "attention_logit_max": (2 + 90 * lr * block).tolist(),
        "attention_entropy": (3.1 - 0.04 * block).tolist(),
    }
    return {
        "key": f"{random.integers(16**12):012x}",
        "args": settings,
        "outcome": outcome,
        "outcome_step": step,
        "initial_loss": 5.61,
        "final_loss": level,
        "val_loss": level,
        "val_bits_per_byte": level and level / math.log(2),
        "windows": packed([np.nan] * 4 if level is None else [level - 0.4, level - 0.1, level + 0.2, level + 0.3]),
        "loss": [float(f"{x:.6g}") if math.isfinite(x) else None for x in loss],
        "loss_every": 1,
        "grad_norm_curve": np.ones(STEPS).tolist(),
        "grad_norm": layers["grad_norm"],
        "last_ffn_grad_norm": (1.6 if placement == "post" else 1.6 / math.sqrt(depth))
        * math.exp(0.03 * random.normal()),
        "stats_init": layers,
        "stats_final": layers,
        "stats_every": 50,
        "stats_curve": {name: [values] * 4 for name, values in layers.items()},
        "params": 17_000 + 12_704 * depth + 64 * depth * (norm == "layer"),
        "tokens": STEPS * 256,
        "flops": 3.1e8 * depth * STEPS,
        "seconds": 0.2 * depth,
        "seconds_a_step": 0.001 * depth,
        "corpus": CORPUS,
        "provenance": PROVENANCE,
    }


def sweep(**axes) -> list[dict]:
    random = np.random.default_rng(0)
    grid = {**AXES, **axes}
    return [record(random, **dict(zip(grid, values, strict=True))) for values in itertools.product(*grid.values())]


def report_on(results, folder):
    """The report with the question that the grid seems to ask."""
    return write_report(results, folder, question_of([r["args"] for r in results]))


class Page(HTMLParser):
    """What a test asks of a page: the order of headings, the addresses it loads, cells of tables, scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.headings: list[str] = []
        self.addresses: list[str] = []
        self.rows: list[list[str]] = []
        self.text: list[str] = []
        self.script = ""
        self._open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self._open.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        while self._open.pop() != tag:
            pass

    def handle_data(self, data):
        inside = self._open[-1] if self._open else ""
        if inside in ("h1", "h2"):
            self.headings.append(data)
        elif inside in ("td", "th"):
            self.rows[-1][-1] += data
        elif inside == "script":
            self.script = data
        elif inside == "p":
            self.text.append(data)


@pytest.fixture(scope="module")
def results() -> list[dict]:
    return sweep()


@pytest.fixture(scope="module")
def written(results, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "norm_by_depth"
    folder.mkdir()
    return report_on(results, folder), folder


@pytest.fixture(scope="module")
def page(written) -> Page:
    return Page((written[1] / "report.html").read_text(encoding="utf8"))


def data_of(folder: Path) -> dict:
    """What the page's script reads."""
    text = (folder / "report.html").read_text(encoding="utf8")
    packed = re.search(r'id="data">([^<]*)<', text).group(1)
    return json.loads(gzip.decompress(base64.b64decode(packed)))


def swept(results) -> Sweep:
    return Sweep(results, question_of([r["args"] for r in results]))


def test_the_page_loads_nothing_from_elsewhere_and_is_below_3_megabytes(written, page):
    assert page.addresses == []
    assert "@import" not in (text := (written[1] / "report.html").read_text(encoding="utf8"))
    assert not re.search(r"https?://", re.sub(r'(?s)<script type="text/plain".*?</script>', "", text))
    assert len(text.encode()) < 3_000_000


def test_the_question_and_its_answer_come_first_and_provenance_last(page, written):
    assert page.headings[0] == "Which is better: pre or post, rms or layer?"
    assert page.headings[1:3] == ["Effects", "Single cells"]
    assert page.headings[3:9] == [entry.title for entry in CHARTS.values()]
    assert page.headings[9:] == ["Runs", "Cost", "How", "Where it comes from"]
    assert page.text[:2] == written[0].summary.answers


def test_the_answer_has_size_interval_and_place_and_the_scope_steps_and_tokens(written):
    summary = written[0].summary
    assert len(summary.answers) == 2  # pre against post, rms against layer
    assert re.match(r"pre against post: better by 0\.\d+ nats \[0\.\d+, 0\.\d+\]", summary.answers[0])
    assert all(line.endswith("(depth 2, 4, 8, 16).") for line in summary.answers)
    assert summary.scope.startswith(
        "240 runs, up to 3 seeds a cell, of 42,408 to 221,288 parameters; 200 steps or 51,200 tokens"
    )
    assert "An arm is one combination of what is compared." in summary.asked


def test_html_markdown_and_the_returned_report_say_the_same_verdicts(written, page):
    report, folder = written
    lines = (folder / "report.md").read_text(encoding="utf8").splitlines()
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    rows = [row(claim) for claim in report.claims]
    cells = [claim for claim in report.claims if claim.kind == "cell" and claim.measure == "loss"]
    assert len(cells) == 16  # 2 placements at 2 norms and 4 depths, and the other way round
    assert table[0] == list(COLUMNS) and table[2:] == rows
    start = page.rows.index(list(COLUMNS))
    assert sorted(each for each in page.rows[start:] if each in rows) == sorted(rows)
    for line in report.answer:
        assert f"- {line}" in lines


def test_the_answer_counts_how_runs_ended_and_says_every_effect(written, results):
    report, _ = written
    ends = [sum(result["outcome"] == name for result in results) for name in ("worked", "stuck", "diverged")]
    assert ends == [190, 48, 2]
    assert report.answer[0].startswith("240 runs: 2 diverged, 48 stuck, 190 worked. Asked: compares placement and norm")
    effects = [claim for claim in report.claims if claim.kind != "cell"]
    assert len(report.answer) == 1 + len(effects)
    for claim in effects:
        assert any(sentence(claim) in line for line in report.answer)


def test_the_terminal_shows_every_cell(written):
    console = Console(width=400, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    say_verdicts(written[0], console)
    lines = console.export_text().splitlines()
    for claim in written[0].claims:
        if claim.kind == "cell":
            assert any(line.strip().startswith(claim.where) and sentence(claim) in line for line in lines)


def test_the_terminal_shows_every_word_within_80_columns(written):
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    say_verdicts(written[0], console)
    table = console.export_text().split(written[0].answer[0][:20])[0]
    assert max(map(len, table.splitlines())) <= 80
    assert "…" not in table
    (start,) = [line.index("verdict") for line in table.splitlines() if "verdict" in line]
    sentences = " ".join(line[start:].split("   ")[0].strip() for line in table.splitlines())
    assert all(sentence(claim) in sentences for claim in written[0].claims if claim.kind == "cell")


def test_budgets_show_parameters_tokens_and_flops_of_every_arm(page):
    start = page.rows.index(list(BUDGETS))
    rows = {cells[0]: cells[1:] for cells in page.rows[start + 1 : start + 17]}
    assert rows["pre · rms, depth 2"] == ["42,408", "51,200", "1.24e+11", "", "2.00", "0.40"]
    assert rows["post · layer, depth 16"] == ["221,288", "51,200", "9.92e+11", "", "16.00", "3.20"]
    assert len(rows) == 16


def test_settings_provenance_and_the_command_are_on_the_page(written, page):
    facts = {cells[0]: cells[1] for cells in page.rows if len(cells) == 2}
    assert facts["depth (layers)"] == "2, 4, 8, 16"
    assert facts["warmup"] == "20"
    assert facts["corpus sha256"] == "c0ffee"
    assert {name: facts[name] for name in PROVENANCE} == PROVENANCE
    assert f"python -m train report {written[1]}" in (written[1] / "report.html").read_text(encoding="utf8")


def test_what_was_swept_comes_first_and_what_is_as_by_default_last(results, tmp_path):
    runs = [{**r, "args": {**r["args"], "clip": 0.5}} for r in results]
    write_report(runs, tmp_path, None, {"warmup": 20, "clip": 1.0})
    rows = Page((tmp_path / "report.html").read_text(encoding="utf8")).rows
    start = rows.index(["setting", "value"])
    names = [cells[0] for cells in rows[start + 1 :]]
    assert names[:7] == ["placement", "norm", "depth (layers)", "lr (learning rate)", "seed", "clip", "setting"]
    assert names[7] == "warmup"


@pytest.mark.parametrize("key", [*FIRST, *CHARTS])
def test_every_chart_is_valid_and_has_a_finding(results, key):
    chart = {**FIRST, **CHARTS}[key].draw(swept(results))
    assert isinstance(chart, Chart) and chart.finding
    assert len({panel.place for panel in chart.panels}) == len(chart.panels)
    assert all(len(panel.place) == len(chart.controls) for panel in chart.panels)
    assert chart.start in ((), *(panel.place for panel in chart.panels))
    for panel in chart.panels[:3] + chart.panels[-1:]:
        plot = {"data": panel.plot.traces, "layout": panel.plot.layout}
        go.Figure(json.loads(json.dumps(plot, cls=PlotlyJSONEncoder)))  # ValueError for what plotly does not know
        assert all("arm" in trace["meta"] for trace in panel.plot.traces)


LOOKS = {
    "colour": lambda trace: trace["line"]["color"],
    "dash": lambda trace: trace["line"]["dash"],
    "mark": lambda trace: trace["marker"]["symbol"][0],
}


@pytest.mark.parametrize("take", LOOKS.values(), ids=LOOKS)
def test_one_look_means_one_arm(results, take):
    traces = by_size(swept(results)).panels[0].plot.traces
    assert [t["meta"]["arm"] for t in traces] == ["pre · rms", "pre · layer", "post · rms", "post · layer"]
    assert len({take(t) for t in traces}) == 4


def luminance(colour: str) -> float:
    """Relative luminance of WCAG 2.2."""
    parts = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


def contrast_of(one: str, other: str) -> float:
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_words_and_lines_stand_out_from_the_page(written):
    """WCAG AA: 4.5 for words, 3 for lines of a dark page; light ones are told by dashes and marks besides."""
    text = (written[1] / "report.html").read_text(encoding="utf8")
    light, dark = (
        dict(re.findall(r"--(ink|faint|paper|link|band): (#\w{6})", part))
        for part in re.findall(r":root \{[^}]*\}", text)
    )
    for scheme in (light, dark):
        for name in ("ink", "faint", "link"):
            assert contrast_of(scheme[name], scheme["paper"]) >= 4.5
            assert contrast_of(scheme[name], scheme["band"]) >= 4.5
    assert min(contrast_of(colour, dark["paper"]) for colour in DARK) >= 3
    assert sum(contrast_of(colour, light["paper"]) >= 3 for colour in LIGHT) >= 5


def test_where_curves_coincide_the_one_beneath_is_wider(results):
    widths = [t["line"]["width"] for t in by_size(swept(results)).panels[0].plot.traces]
    assert widths == sorted(widths, reverse=True) and len(set(widths)) == 4


def panel_of(chart: Chart, *place: str):
    (panel,) = (panel for panel in chart.panels if panel.place == place)
    return panel.plot


def test_a_curve_is_drawn_for_every_run_and_the_thick_line_is_their_mean(results):
    plot = panel_of(curves(swept(results)), "depth 16", "0.0003")
    own = [t for t in plot.traces if t["meta"]["arm"] == "post · rms"]
    runs = [r for r in results if list(r["args"].values())[:4] == ["post", "rms", 16, 3e-4]]
    smooth = np.array([np.convolve(np.pad(r["loss"], 2, mode="edge"), np.ones(5) / 5, "valid")[::2] for r in runs])
    assert len(own) == len(runs) + 1 == 4
    assert [results[t["meta"]["run"]] for t in own[:3]] == runs
    np.testing.assert_allclose([t["y"] for t in own[:3]], smooth, atol=1e-4)
    np.testing.assert_allclose(own[3]["y"], smooth.mean(axis=0), atol=1e-4)


def test_loss_plots_have_the_reference_lines(results):
    for chart in (by_rate(swept(results)), curves(swept(results)), by_size(swept(results))):
        for panel in chart.panels:
            heights = [shape["y0"] for shape in panel.plot.layout["shapes"]]
            assert sorted(heights) == sorted(CORPUS[n] for n in ("log_vocab", "unigram_entropy", "bigram_entropy"))


def test_the_loss_chart_shows_the_mean_of_what_works_at_every_rate(results):
    plot = panel_of(by_rate(swept(results)), "depth 8")
    trace = next(t for t in plot.traces if t["meta"]["arm"] == "post · layer")
    runs = [r for r in results if list(r["args"].values())[:3] == ["post", "layer", 8]]
    worked = {lr: [r["val_loss"] for r in runs if r["args"]["lr"] == lr and r["outcome"] == "worked"]
              for lr in AXES["lr"]}  # fmt: skip
    assert trace["x"] == [lr for lr, each in worked.items() if each]
    assert trace["y"] == pytest.approx([np.mean(each) for each in worked.values() if each])
    assert plot.layout["xaxis"]["tickvals"] == list(AXES["lr"]), "the rates that were tried are the ticks"


def test_every_run_is_a_mark_that_says_what_it_is(results):
    plots = [panel.plot for panel in by_rate(swept(results)).panels]
    marks = [(t, k) for plot in plots for t in plot.traces if "runs" in t["meta"] for k in range(len(t["x"]))]
    assert sorted(t["meta"]["runs"][k] for t, k in marks) == list(range(240))
    for t, k in marks:
        run = results[t["meta"]["runs"][k]]
        assert all(said in t["hovertext"][k] for said in (run["key"], run["outcome"], f"seed {run['args']['seed']}"))
        assert (t["marker"]["symbol"][k] == "x-thin-open") == (run["outcome"] in ("stuck", "diverged"))


def test_the_map_of_outcomes_counts_every_run_once(results):
    chart = outcomes(swept(results))
    counted: dict[str, int] = {}
    for panel in chart.panels:
        for trace in panel.plot.traces:
            name = trace["meta"]["outcome"]
            counted[name] = counted.get(name, 0) + sum(map(int, trace["text"]))
    assert counted == {name: sum(r["outcome"] == name for r in results) for name in counted}
    assert sum(counted.values()) == 240
    assert chart.finding == "of 240 runs 190 worked, 48 stuck, 2 diverged"


def test_profiles_have_a_panel_for_every_look_on_one_scale(results):
    chart = by_layer(swept(results))
    panels = [panel for panel in chart.panels if panel.place[:2] == ("depth 16", "residual stream, RMS")]
    assert [panel.place[2] for panel in panels] == ["0", "50", "100", "150"]
    assert len({tuple(panel.plot.layout["yaxis"]["range"]) for panel in panels}) == 1
    assert chart.start == panels[-1].place


def test_gradient_profiles_print_the_exponents_they_were_made_with(results):
    found = re.findall(r"(\w+ · \w+) depth\^(-?[\d.]+)", gradients(swept(results)).finding)
    slopes = {name: float(slope) for name, slope in found}
    assert slopes == pytest.approx(
        {"pre · rms": -0.5, "pre · layer": -0.5, "post · rms": 0.0, "post · layer": 0.0}, abs=0.05
    )


def test_a_diverged_run_is_crossed_out_where_it_left(results):
    chart = curves(swept(results))
    crosses = [t for p in chart.panels for t in p.plot.traces if t["mode"] == "markers"]
    assert [t["x"] for t in crosses] == [[121]] * 2  # one in each norm
    assert all("diverged at step 121" in t["hovertext"] for t in crosses)


def test_a_run_that_never_had_a_loss_is_crossed_out_too(results):
    """Not a number from the first step on, in one seed: the mean is of the others."""
    lost = [{**r, "loss": [None] * STEPS, "outcome": "diverged", "outcome_step": 1} if r["args"]["seed"] == 0 else r
            for r in results]  # fmt: skip
    crosses = [t for p in curves(swept(lost)).panels for t in p.plot.traces if t["mode"] == "markers"]
    assert [1] in [t["x"] for t in crosses] and all(np.isfinite(t["y"][0]) for t in crosses)


@pytest.mark.parametrize("empty", ["all", "some"])
def test_empty_curves_give_one_sentence_and_are_left_out_where_others_are_not(results, empty):
    cut = [{**r, "loss": []} if empty == "all" or r["args"]["seed"] == 0 else r for r in results]
    assert (curves(swept(cut)) == "No run has a loss curve in its record.") == (empty == "all")


def test_a_result_that_lacks_something_is_refused_in_one_sentence(results, tmp_path):
    lacking = {name: value for name, value in results[0].items() if name != "flops"}
    with pytest.raises(UserError, match=r"a result of .* has no flops; remove its line and run the sweep again"):
        report_on([*results[1:], lacking], tmp_path)
    assert not list(tmp_path.iterdir())


def test_arms_that_were_never_given_the_same_are_not_compared(tmp_path):
    runs = [r for r in sweep() if (r["args"]["placement"], r["args"]["depth"]) in (("pre", 4), ("post", 16))]
    report = write_report(runs, tmp_path, Question(compare=("placement",), across=("depth", "norm")))
    assert report.claims == []


def test_the_answer_names_who_fails_everywhere(results, tmp_path):
    failed = [{**r, "outcome": "stuck"} if r["args"]["placement"] == "post" else {**r, "outcome": "worked"}
              for r in results]  # fmt: skip
    answer = report_on(failed, tmp_path).answer
    assert any(line.startswith("pre fails less often than post, 0 of 24 runs against 24 of 24") for line in answer)
    assert any(
        line.startswith("pre against post, loss: withheld: too few runs of both did not fail") for line in answer
    )


def test_runs_that_are_slow_count_as_those_that_work_do_and_the_words_say_so(results):
    slow = [{**r, "outcome": "slow"} if r["outcome"] == "worked" else r for r in results]
    for key, entry in {"best": FIRST["best"], **{key: CHARTS[key] for key in ("losses", "sensitivity")}}.items():
        ours, theirs = (entry.draw(swept(runs)) for runs in (slow, results))
        assert ours.finding == theirs.finding and "work" not in f"{entry.caption} {ours.finding}", key
        for mine, other in zip(ours.panels, theirs.panels, strict=True):
            for one, two in zip(mine.plot.traces, other.plot.traces, strict=True):
                np.testing.assert_array_equal(one["y"], two["y"])
    for name in ("loss", "failure", "lr sensitivity", "depth reach"):
        assert "work" not in MEASURES[name].what


@pytest.mark.parametrize(
    ("last", "ticks"), [(2, [1, 2]), (12, [*range(1, 13)]), (13, [*range(2, 13, 2)]), (96, [*range(10, 91, 10)])]
)
def test_blocks_are_whole_numbers(last, ticks):
    assert whole(last)["tickvals"] == ticks


def test_the_axis_of_blocks_has_the_blocks_of_the_deepest_arm(results):
    plot = by_layer(swept([r for r in results if r["args"]["depth"] == 2] or results)).panels[0].plot
    deepest = max(len(trace["x"]) for trace in plot.traces)
    assert plot.layout["xaxis"]["tickvals"] == whole(deepest)["tickvals"]


def test_no_chart_ranks_dead_runs(results, tmp_path):
    """Where post-norm fails at every rate it has no bar, whatever its losses; nor has anybody beside it."""
    failed = [{**r, "outcome": "stuck", "val_loss": 3.3} if r["args"]["placement"] == "post" else r for r in results]
    assert sensitivities(swept(failed)) == "Nowhere are there two learning rates at which no run of any arm fails."
    report_on(failed, tmp_path)
    assert "sensitivity" not in data_of(tmp_path)["charts"]
    (panel,) = data_of(tmp_path)["charts"]["usable"]["panels"]
    highest = {trace["meta"]["arm"]: trace["y"] for trace in panel["data"]}
    assert max(highest["post · rms"]) < min(highest["pre · rms"])


def test_the_small_figure_has_a_mark_for_every_arm_and_depth_at_its_place(written, results):
    """Heights are linear in the loss: from two marks the others follow. Hollow marks failed everywhere."""
    root = ElementTree.fromstring((written[1] / "figure.svg").read_text(encoding="utf8"))
    marks = [m for m in root.findall("{*}circle") if float(m.get("cy")) > 60]  # below the legend
    losses = []
    for placement, norm, depth in itertools.product(AXES["placement"], AXES["norm"], AXES["depth"]):
        group = [r for r in results if list(r["args"].values())[:3] == [placement, norm, depth]]
        at = {lr: [r["val_loss"] or 5.61 for r in group if r["args"]["lr"] == lr] for lr in AXES["lr"]}
        losses.append(min(np.mean(values) for values in at.values()))
    heights = [float(mark.get("cy")) for mark in marks]
    slope, offset = np.polyfit(losses, heights, 1)
    assert slope < 0
    np.testing.assert_allclose(heights, np.polyval([slope, offset], losses), atol=0.11)
    assert [mark.get("fill") == "none" for mark in marks] == [False] * 16
    assert (written[1] / "figure.svg").stat().st_size < 100_000


def test_many_arms_have_a_legend_of_several_rows():
    runs = sweep(depth=(2, 4))
    sweep_ = Sweep(runs, Question(compare=("placement", "norm", "lr"), across=("depth",), tune=(), at="the same rate"))
    root = ElementTree.fromstring(svg.losses_by_size(sweep_))
    legend = [each for each in root.findall("{*}text") if each.text in sweep_.arms.styles]
    assert len(legend) == 20
    assert max(float(each.get("x")) + 6 * len(each.text) for each in legend) <= svg.WIDTH
    lowest = max(float(each.get("y")) for each in legend)
    assert min(float(line.get("points").split()[0].split(",")[1]) for line in root.findall("{*}polyline")) > lowest


def test_a_sweep_without_depth_reports_without_charts_against_it(tmp_path):
    report_on(sweep(depth=(4,)), tmp_path)
    charts = data_of(tmp_path)["charts"]
    assert "gradients" not in charts
    assert {"best", "losses", "curves", "layers"} <= charts.keys()


def test_a_single_rate_leaves_out_what_needs_several_and_withholds_no_verdict_at_that_rate(tmp_path):
    report = report_on(sweep(lr=(1e-3,)), tmp_path)
    assert {claim.answer for claim in report.claims} <= {"same", "open"}
    assert not {"usable", "losses", "sensitivity"} & data_of(tmp_path)["charts"].keys()


def test_a_single_seed_withholds_every_verdict_and_says_why(tmp_path):
    report = report_on(sweep(seed=(0,)), tmp_path)
    assert {sentence(claim) for claim in report.claims} == {"withheld: 1 seed ran, 3 are needed"}


def test_widths_are_not_averaged_into_one_curve(tmp_path):
    """Two placements at two widths: a panel a width, and the wider ones lie lower by what was taken off."""
    runs = {width: sweep(norm=("rms",), depth=(4,)) for width in (32, 64)}
    for width, results in runs.items():
        for result in results:
            result["args"]["width"] = width
            result["val_loss"] -= width == 64
    both = swept(runs[32] + runs[64])
    assert [panel.place for panel in by_rate(both).panels] == [("width 32",), ("width 64",)]
    for placement, results in both.arms.of(both.results).items():
        narrow, wide = best_of(both, results)
        assert wide.mean == pytest.approx(narrow.mean - 1), placement


def test_the_runs_are_a_table_for_other_programs(written, results):
    import pandas

    rows = list(csv.DictReader((written[1] / "runs.csv").open()))
    assert [row["key"] for row in rows] == [r["key"] for r in results]
    table = pandas.read_csv(written[1] / "runs.csv")
    means = table[table.outcome == "worked"].groupby(["arm", "depth", "lr"]).val_loss.mean()
    some = [r["val_loss"] for r in results if list(r["args"].values())[:4] == ["pre", "rms", 4, 1e-3]]
    assert means["pre · rms", 4, 1e-3] == pytest.approx(np.mean(some))


def test_names_are_text_and_never_markup(tmp_path):
    folder = tmp_path / "a<b>&c"
    folder.mkdir()
    runs = sweep(norm=("<script>alert(1)</script>", "layer"))
    report_on(runs, folder)
    page = Page((folder / "report.html").read_text(encoding="utf8"))
    assert "<script>alert(1)</script>" in "".join(page.headings)
    assert data_of(folder)["charts"].keys() >= {"losses"}
    assert any("<script>alert(1)</script>" in cell for cells in page.rows for cell in cells)
    assert "<script>alert" not in (folder / "report.html").read_text(encoding="utf8")


def test_an_empty_sweep_is_refused_and_leaves_nothing_behind(tmp_path):
    with pytest.raises(ValueError, match="has no result"):
        report_on([], tmp_path)
    assert not list(tmp_path.iterdir())


def test_markdown_is_that_of_the_file(written):
    assert (written[1] / "report.md").read_text(encoding="utf8") == markdown(written[0])


def test_writing_again_gives_the_same_bytes(written, results):
    _, folder = written
    before = {path.name: path.read_bytes() for path in Path(folder).iterdir()}
    report_on(results, folder)
    assert {path.name: path.read_bytes() for path in Path(folder).iterdir()} == before
    assert before.keys() >= {"report.html", "report.md", "figure.svg", "runs.csv", "looks.jsonl"}


def test_the_same_table_is_a_parquet_file_where_pyarrow_is_installed(results, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    mixed = [{**r, "args": {**r["args"], "window": None if r["args"]["depth"] == 2 else 8}} for r in results]
    report_on(mixed, tmp_path)
    table = parquet.read_table(tmp_path / "runs.parquet").to_pandas()
    assert list(table.key) == [r["key"] for r in results]
    assert table.window.isna().sum() == sum(r["args"]["depth"] == 2 for r in results)
    assert table.val_loss.dtype == float and table.lr.dtype == float
