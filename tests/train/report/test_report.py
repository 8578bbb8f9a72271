"""The report of a synthetic sweep: one offline file, verdicts first, and the same words in HTML and Markdown."""

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
from rich.console import Console

from train.errors import UserError
from train.report import svg
from train.report.figures import Arms, curves, gradients_by_depth, losses_by_depth
from train.report.report import COLUMNS, markdown, row, say_verdicts, write_report
from train.verdict.question import Question, question_of
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


def figures_of(page: Page) -> dict[str, dict]:
    return json.loads(re.search(r"const figures = (\{.*\});\n", page.script).group(1))


def test_the_page_loads_nothing_from_elsewhere_and_is_below_6_megabytes(written, page):
    assert page.addresses, "the table of contents alone has addresses"
    assert all(address.startswith("#") for address in page.addresses)
    assert "@import" not in (text := (written[1] / "report.html").read_text(encoding="utf8")).split("<script>")[0]
    assert len(text.encode()) < 6_000_000


def test_verdicts_come_first_and_provenance_last(page):
    assert page.headings[:2] == ["norm_by_depth", "Verdicts"]
    assert page.headings[-2:] == ["Budgets", "Settings and provenance"]
    assert len(page.headings) == 11  # title, verdicts, seven figures, budgets, settings


def test_every_entry_of_the_contents_leads_somewhere(written, page):
    identities = re.findall(r'\bid="([^"]+)"', (written[1] / "report.html").read_text(encoding="utf8"))
    assert len(set(identities)) == len(identities)
    assert {address[1:] for address in page.addresses} <= set(identities)


def test_html_markdown_and_the_returned_report_say_the_same_verdicts(written, page):
    report, folder = written
    lines = (folder / "report.md").read_text(encoding="utf8").splitlines()
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    rows = [row(claim) for claim in report.claims]
    cells = [claim for claim in report.claims if claim.kind == "cell" and claim.measure == "loss"]
    assert len(cells) == 16  # 2 placements at 2 norms and 4 depths, and the other way round
    assert table[0] == list(COLUMNS) and table[2:] == rows
    start = page.rows.index(list(COLUMNS))
    assert page.rows[start + 1 : start + 1 + len(rows)] == rows
    for line in report.answer:
        assert f"- {line}" in lines and line in page.text


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
    start = page.rows.index(["arm", "parameters", "tokens", "FLOPs", "seconds a run"])
    rows = {cells[0]: cells[1:] for cells in page.rows[start + 1 : start + 17]}
    assert rows["pre · rms, depth 2"] == ["42,408", "51,200", "1.24e+11", "0.40"]
    assert rows["post · layer, depth 16"] == ["221,288", "51,200", "9.92e+11", "3.20"]
    assert len(rows) == 16


def test_settings_provenance_and_the_command_are_on_the_page(written, page):
    facts = {cells[0]: cells[1] for cells in page.rows if len(cells) == 2}
    assert facts["depth"] == "2, 4, 8, 16"
    assert facts["warmup"] == "20"
    assert facts["corpus sha256"] == "c0ffee"
    assert {name: facts[name] for name in PROVENANCE} == PROVENANCE
    assert f"python -m train report {written[1]}" in (written[1] / "report.html").read_text(encoding="utf8")


def looks(figures: dict[str, dict], take) -> dict[str, set]:
    """What `take` finds in the traces of each arm, in all figures."""
    found: dict[str, set] = {}
    for figure in figures.values():
        for trace in go.Figure(figure).data:
            if trace.name and (look := take(trace)) is not None:
                found.setdefault(trace.name.split(":")[0], set()).add(look)
    return found


@pytest.mark.parametrize(
    "take",
    [lambda t: t.marker.color, lambda t: t.line.dash if t.type == "scatter" else None,
     lambda t: t.marker.symbol if t.type == "scatter" else None],
    ids=["colour", "dash", "marker"],
)  # fmt: skip
def test_figures_are_valid_and_one_look_means_one_arm(page, take):
    found = looks(figures_of(page), take)
    assert {arm: len(used) for arm, used in found.items()} == dict.fromkeys(found, 1)
    assert set(found) == {"pre · rms", "pre · layer", "post · rms", "post · layer"}
    assert len(set().union(*found.values())) == 4


def test_where_curves_coincide_the_one_beneath_is_wider(results):
    drawn = {t.name: t.line.width for t in losses_by_depth(Arms(results, ["placement", "norm"])).data if t.name}
    widths = list(drawn.values())
    assert widths == sorted(widths, reverse=True) and len(set(widths)) == 4


def test_the_band_spans_the_seeds_and_the_line_is_their_mean(results):
    figure = curves(Arms(results, ["placement", "norm"]))
    panel = {t.name or "band": t for t in figure.data if t.xaxis == "x" and t.legendgroup == "post · rms"}
    runs = [r for r in results if list(r["args"].values())[:4] == ["post", "rms", 16, 3e-4]]
    smooth = np.array([np.convolve(np.pad(r["loss"], 2, mode="edge"), np.ones(5) / 5, "valid") for r in runs])
    assert len(runs) == 3
    np.testing.assert_allclose(panel["post · rms"].y, smooth.mean(axis=0))
    np.testing.assert_allclose(panel["band"].y, np.concatenate([smooth.max(axis=0), smooth.min(axis=0)[::-1]]))


def test_loss_plots_have_the_reference_lines(results):
    arms = Arms(results, ["placement", "norm"])
    for figure, panels in ((losses_by_depth(arms), 4), (curves(arms), 5)):
        heights = [shape.y0 for shape in figure.layout.shapes]
        assert sorted(heights) == sorted(
            [CORPUS[n] for n in ("log_vocab", "unigram_entropy", "bigram_entropy")] * panels
        )


def test_the_loss_figure_shows_the_mean_of_what_works_at_every_rate(results):
    figure = losses_by_depth(Arms(results, ["placement", "norm"]))
    (trace,) = [t for t in figure.data if t.name == "post · layer" and t.xaxis == "x3"]
    runs = [r for r in results if list(r["args"].values())[:3] == ["post", "layer", 8]]
    worked = {lr: [r["val_loss"] for r in runs if r["args"]["lr"] == lr and r["outcome"] == "worked"]
              for lr in AXES["lr"]}  # fmt: skip
    assert list(trace.x) == list(AXES["lr"])
    assert list(trace.y) == pytest.approx([np.mean(each) if each else np.nan for each in worked.values()], nan_ok=True)


def test_gradient_profiles_print_the_exponents_they_were_made_with(results):
    names = [t.name for t in gradients_by_depth(Arms(results, ["placement", "norm"])).data if t.name]
    slopes = {name.split(":")[0]: float(re.search(r"\^(-?[\d.]+)", name).group(1)) for name in names}
    assert slopes == pytest.approx(
        {"pre · rms": -0.5, "pre · layer": -0.5, "post · rms": 0.0, "post · layer": 0.0}, abs=0.05
    )


def test_a_diverged_run_is_crossed_out_where_it_left(results):
    crosses = [t for t in curves(Arms(results, ["placement"])).data if t.marker.symbol == "x"]
    assert [(c.x, c.hovertext) for c in crosses] == [((121,), "diverged")] * 2  # one in each norm


def test_a_run_that_never_had_a_loss_is_crossed_out_too(results):
    """Not a number from the first step on, in one seed: the mean is of the others."""
    lost = [{**r, "loss": [None] * STEPS, "outcome": "diverged", "outcome_step": 1} if r["args"]["seed"] == 0 else r
            for r in results]  # fmt: skip
    crosses = [t for t in curves(Arms(lost, ["placement", "norm"])).data if t.marker.symbol == "x"]
    assert (1,) in [c.x for c in crosses] and all(np.isfinite(c.y[0]) for c in crosses)


@pytest.mark.parametrize("empty", ["all", "some"])
def test_empty_curves_give_one_sentence_and_are_left_out_where_others_are_not(results, tmp_path, empty):
    cut = [{**r, "loss": []} if empty == "all" or r["args"]["seed"] == 0 else r for r in results]
    report_on(cut, tmp_path)
    page = Page((tmp_path / "report.html").read_text(encoding="utf8"))
    said = "No run at the largest depth has a loss curve in its record." in page.text
    assert (said, "curves" in figures_of(page)) == (empty == "all", empty == "some")


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
    assert any(line.startswith("pre against post, loss: withheld: too few runs of both work") for line in answer)


def test_no_chart_ranks_dead_runs(results, tmp_path):
    """Where post-norm fails at every rate it has no bar, whatever its losses; nor has anybody beside it."""
    failed = [{**r, "outcome": "stuck", "val_loss": 3.3} if r["args"]["placement"] == "post" else r for r in results]
    report_on(failed, tmp_path)
    page = Page((tmp_path / "report.html").read_text(encoding="utf8"))
    assert "sensitivity" not in figures_of(page)
    assert "At no depth are there two rates at which every run of all arms works." in page.text
    low = {t["name"]: t["y"] for t in figures_of(page)["stable"]["data"]}
    assert max(low["post · rms"]) < min(low["pre · rms"])


def test_the_small_figure_has_a_mark_for_every_arm_and_depth_at_its_place(written, results):
    """Heights are linear in the loss: from two marks the others follow. Hollow marks are arms that worked nowhere."""
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
    arms = Arms(sweep(depth=(2, 4)), ["placement", "norm", "lr"])
    root = ElementTree.fromstring(svg.losses_by_depth(arms))
    legend = [each for each in root.findall("{*}text") if each.text in arms.styles]
    assert len(legend) == 20
    assert max(float(each.get("x")) + 6 * len(each.text) for each in legend) <= svg.WIDTH
    lowest = max(float(each.get("y")) for each in legend)
    assert min(float(line.get("points").split()[0].split(",")[1]) for line in root.findall("{*}polyline")) > lowest


def test_a_sweep_without_depth_reports_without_figures_against_it(tmp_path):
    report_on(sweep(depth=(4,)), tmp_path)
    page = Page((tmp_path / "report.html").read_text(encoding="utf8"))
    assert "gradients" not in figures_of(page)
    assert {"losses", "curves", "statistics"} <= figures_of(page).keys()


def test_a_single_rate_leaves_out_what_needs_several_and_withholds_no_verdict_at_that_rate(tmp_path):
    report = report_on(sweep(lr=(1e-3,)), tmp_path)
    assert {claim.answer for claim in report.claims} <= {"same", "open"}
    page = Page((tmp_path / "report.html").read_text(encoding="utf8"))
    assert not {"stable", "sensitivity"} & figures_of(page).keys()


def test_a_single_seed_withholds_every_verdict_and_says_why(tmp_path):
    report = report_on(sweep(seed=(0,)), tmp_path)
    assert {sentence(claim) for claim in report.claims} == {"withheld: 1 seeds ran, 3 are needed"}


def test_widths_are_not_averaged_into_one_curve(tmp_path):
    """Two placements at two widths are four curves, and the wider ones lie lower by what was taken off."""
    runs = {width: sweep(norm=("rms",), depth=(4,)) for width in (32, 64)}
    for width, results in runs.items():
        for result in results:
            result["args"]["width"] = width
            result["val_loss"] -= width == 64
    report_on(runs[32] + runs[64], tmp_path)
    page = Page((tmp_path / "report.html").read_text(encoding="utf8"))
    figure = go.Figure(figures_of(page)["losses"])
    means = {t.name: np.array(t.y, float) for t in figure.data if t.name}
    assert means.keys() == {"pre · width 32", "pre · width 64", "post · width 32", "post · width 64"}
    for placement in ("pre", "post"):
        assert means[f"{placement} · width 64"] == pytest.approx(
            np.subtract(means[f"{placement} · width 32"], 1), nan_ok=True
        )
    start = page.rows.index(["arm", "parameters", "tokens", "FLOPs", "seconds a run"])
    assert [cells[0] for cells in page.rows[start + 1 : start + 5]] == list(means)


def test_names_are_text_and_never_markup(tmp_path):
    folder = tmp_path / "a<b>&c"
    folder.mkdir()
    runs = sweep(norm=("<script>alert(1)</script>", "layer"))
    report_on(runs, folder)
    page = Page((folder / "report.html").read_text(encoding="utf8"))
    assert page.headings[0] == "a<b>&c" or "".join(page.headings).startswith("a<b>&c")
    assert figures_of(page).keys() >= {"losses"}
    assert any("<script>alert(1)</script>" in cell for cells in page.rows for cell in cells)


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
    assert before.keys() >= {"report.html", "report.md", "figure.svg", "looks.jsonl"}
