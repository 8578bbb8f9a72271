"""The report of a synthetic sweep: one offline file, verdicts first, and the same words in HTML and Markdown."""

import itertools
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import pytest
from rich.console import Console

from train.figures import Arms, curves, gradients_by_depth, losses_by_depth
from train.report import COLUMNS, markdown, row, say_verdicts, write_report

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
    outcome, step = ("stuck", 40) if stuck else ("converged", 60)
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
        "loss": [float(f"{x:.6g}") if math.isfinite(x) else None for x in loss],
        "loss_every": 1,
        "grad_norm_curve": np.ones(STEPS).tolist(),
        "grad_norm": layers["grad_norm"],
        "last_ffn_grad_norm": (1.6 if placement == "post" else 1.6 / math.sqrt(depth))
        * math.exp(0.03 * random.normal()),
        "stats_init": layers,
        "stats_final": layers,
        "params": 17_000 + 12_704 * depth + 64 * depth * (norm == "layer"),
        "tokens": STEPS * 256,
        "flops": 3.1e8 * depth * STEPS,
        "seconds": 0.2 * depth,
        "corpus": CORPUS,
        "provenance": PROVENANCE,
    }


def sweep(**axes) -> list[dict]:
    random = np.random.default_rng(0)
    grid = {**AXES, **axes}
    return [record(random, **dict(zip(grid, values, strict=True))) for values in itertools.product(*grid.values())]


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
    return write_report(results, folder), folder


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
    rows = [row(verdict) for verdict in report.verdicts]
    assert len(rows) == 16  # 2 placements at 2 norms and 4 depths, and the other way round
    assert table[0] == list(COLUMNS) and table[2:] == rows
    start = page.rows.index(list(COLUMNS))
    assert page.rows[start + 1 : start + 17] == rows
    assert report.answer in lines and report.answer in page.text


def test_the_answer_counts_what_the_table_holds(written, results):
    report, _ = written
    sentences = [verdict.sentence for verdict in report.verdicts]
    made = sum("better" in sentence for sentence in sentences)
    withheld = sum(sentence.startswith("withheld") for sentence in sentences)
    ends = [sum(result["outcome"] == name for result in results) for name in ("converged", "stuck", "diverged")]
    assert made and ends == [190, 48, 2]
    assert report.answer.startswith("240 runs: 190 converged, 48 stuck, 2 diverged. ")
    assert f"Of 16 comparisons {made} are separated, {withheld} are withheld. " in report.answer


def test_the_terminal_shows_every_verdict(written):
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    say_verdicts(written[0], console)
    lines = console.export_text().splitlines()
    for verdict in written[0].verdicts:
        (line,) = [line for line in lines if f"{verdict.where}: {verdict.first}, {verdict.second} " in line]
        assert verdict.sentence in line


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


def test_figures_are_valid_and_one_colour_means_one_arm(page):
    colours: dict[str, set[str]] = {}
    for figure in figures_of(page).values():
        for trace in go.Figure(figure).data:
            if trace.name:
                colour = trace.line.color if trace.type == "scatter" and trace.line.color else trace.marker.color
                colours.setdefault(trace.name.split(":")[0], set()).add(colour)
    assert {arm: len(used) for arm, used in colours.items()} == dict.fromkeys(colours, 1)
    assert set(colours) == {"pre · rms", "pre · layer", "post · rms", "post · layer"}
    assert len(set().union(*colours.values())) == 4


def test_the_loss_figure_shows_the_mean_over_seeds_at_every_rate(results):
    figure = losses_by_depth(Arms(results, ["placement", "norm"]))
    (trace,) = [t for t in figure.data if t.name == "post · layer" and t.xaxis == "x3"]
    runs = [r for r in results if list(r["args"].values())[:3] == ["post", "layer", 8]]
    means = [np.mean([r["val_loss"] for r in runs if r["args"]["lr"] == lr]) for lr in AXES["lr"]]
    assert list(trace.x) == list(AXES["lr"])
    assert list(trace.y) == pytest.approx(means)


def test_gradient_profiles_print_the_exponents_they_were_made_with(results):
    names = [t.name for t in gradients_by_depth(Arms(results, ["placement", "norm"])).data if t.name]
    slopes = {name.split(":")[0]: float(re.search(r"\^(-?[\d.]+)", name).group(1)) for name in names}
    assert slopes == pytest.approx(
        {"pre · rms": -0.5, "pre · layer": -0.5, "post · rms": 0.0, "post · layer": 0.0}, abs=0.05
    )


def test_a_diverged_run_is_crossed_out_where_it_left(results):
    crosses = [t for t in curves(Arms(results, ["placement"])).data if t.marker.symbol == "x"]
    assert [(c.x, c.hovertext) for c in crosses] == [((121,), "diverged")] * 2  # one in each norm


def test_a_sweep_without_depth_reports_without_figures_against_it(tmp_path):
    write_report(sweep(depth=(4,)), tmp_path)
    page = Page((tmp_path / "report.html").read_text(encoding="utf8"))
    assert "gradients" not in figures_of(page)
    assert {"losses", "curves", "statistics"} <= figures_of(page).keys()


def test_a_single_rate_leaves_out_what_needs_several_and_withholds_every_verdict(tmp_path):
    report = write_report(sweep(lr=(1e-3,)), tmp_path)
    assert len(report.verdicts) == 16
    assert {verdict.sentence for verdict in report.verdicts} == {"withheld: only the rate 0.001 was tried"}
    page = Page((tmp_path / "report.html").read_text(encoding="utf8"))
    assert not {"stable", "sensitivity"} & figures_of(page).keys()


def test_a_single_seed_withholds_every_verdict_and_says_why(tmp_path):
    report = write_report(sweep(seed=(0,)), tmp_path)
    assert len(report.verdicts) == 16
    assert "withheld: 1 seeds ran, 3 are needed" in {verdict.sentence for verdict in report.verdicts}


def test_widths_are_not_averaged_into_one_curve(tmp_path):
    """Two placements at two widths are four curves, and the wider ones lie lower by what was taken off."""
    runs = {width: sweep(norm=("rms",), depth=(4,)) for width in (32, 64)}
    for width, results in runs.items():
        for result in results:
            result["args"]["width"] = width
            result["val_loss"] -= width == 64
    write_report(runs[32] + runs[64], tmp_path)
    page = Page((tmp_path / "report.html").read_text(encoding="utf8"))
    figure = go.Figure(figures_of(page)["losses"])
    means = {t.name: t.y for t in figure.data if t.name}
    assert means.keys() == {"pre · 32", "pre · 64", "post · 32", "post · 64"}
    for placement in ("pre", "post"):
        assert means[f"{placement} · 64"] == pytest.approx(np.subtract(means[f"{placement} · 32"], 1))
    start = page.rows.index(["arm", "parameters", "tokens", "FLOPs", "seconds a run"])
    assert [cells[0] for cells in page.rows[start + 1 : start + 5]] == list(means)


def test_names_are_text_and_never_markup(tmp_path):
    folder = tmp_path / "a<b>&c"
    folder.mkdir()
    runs = sweep(norm=("<script>alert(1)</script>", "layer"))
    write_report(runs, folder)
    page = Page((folder / "report.html").read_text(encoding="utf8"))
    assert page.headings[0] == "a<b>&c" or "".join(page.headings).startswith("a<b>&c")
    assert figures_of(page).keys() >= {"losses"}
    assert any("<script>alert(1)</script>" in cell for cells in page.rows for cell in cells)


def test_an_empty_sweep_is_refused_and_leaves_nothing_behind(tmp_path):
    with pytest.raises(ValueError, match="has no result"):
        write_report([], tmp_path)
    assert not list(tmp_path.iterdir())


def test_markdown_is_that_of_the_file(written):
    assert (written[1] / "report.md").read_text(encoding="utf8") == markdown(written[0])


def test_writing_again_gives_the_same_bytes(written, results):
    _, folder = written
    before = {path.name: path.read_bytes() for path in Path(folder).iterdir()}
    write_report(results, folder)
    assert {path.name: path.read_bytes() for path in Path(folder).iterdir()} == before
    assert before.keys() == {"report.html", "report.md"}
