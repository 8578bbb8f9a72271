"""The report of a sweep: verdicts first, then figures, then settings and where it all comes from.

`report.html` is one file that opens offline; `report.md` says the same verdicts for a terminal or an issue;
`figure.svg` is the shortest answer, for a README.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import plotly.offline
from plotly.graph_objects import Figure
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text

from train.errors import UserError
from train.files import damaged, write_whole
from train.report import figures, svg
from train.report.figures import Arms
from train.report.looks import looked_at
from train.report.record import fault
from train.verdict.asked import in_words
from train.verdict.claims import Claim, claims
from train.verdict.outcome import OUTCOMES
from train.verdict.question import Question, cells_over, varying
from train.verdict.runs import Result, by
from train.verdict.words import sentence

COLUMNS = ("compared", "measure", "verdict", "p", "runs", "chosen rates", "at")
METHOD = (
    "Effects are pooled over cells, single cells come last. A difference is the first less the second, of runs paired "
    "by seed, each judged at the rate that the other seeds choose. The intervals of this page hold all together: "
    "Student's t with clusters by seed, the text's own share added, Bonferroni over effects and over cells; p agrees "
    "with them. Better: the interval leaves out zero. The same: it lies within the smallest difference that matters. "
    "Not separable: neither. Runs that fail are counted, and are in no mean."
)
AGAIN = "This question was looked at before with fewer seeds: the intervals are those of a confidence sequence."
FIGURES = (
    ("losses", "Loss against learning rate", "Mean over seeds, one point a run. Dashed: what a model would lose that "
     "knows nothing (log V), the frequency of bytes, or the one byte before.", figures.losses_by_depth),
    ("stable", "Largest usable rate", "Up to which runs work, from the best rate on: mean over seeds with its "
     "95 % interval. ≥: the grid ends there.",
     figures.usable_rates),
    ("sensitivity", "LR sensitivity", "Mean loss over the rates at which every run of all arms works, less that at "
     "the best one: lower is more forgiving.",
     figures.sensitivities),
    ("gradients", "Gradient at initialisation against depth", "Of the last feed-forward matrix, with the exponent that "
     "fits. Theory: 0 for post-norm, -1/2 for pre-norm (Xiong et al. 2020).", figures.gradients_by_depth),
    ("layers", "Gradient at initialisation by block", "At the largest depth.", figures.gradients_by_layer),
    ("curves", "Loss curves", "Running mean over five steps at the largest depth: the mean over seeds in a band from "
     "the lowest to the highest, without those that are no number; crosses mark divergence and spikes.",
     figures.curves),
    ("statistics", "What flows where", "By block at the largest depth, after training at the best rate.",
     figures.statistics_by_layer),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Report:
    """What was written: the answer in words, and the claims."""

    title: str
    answer: list[str]
    claims: list[Claim]
    method: str


def write_report(results: Sequence[Result], folder: Path, question: Question | None) -> Report:
    """Write report.html, report.md and figure.svg of a sweep into `folder`, and that it was looked at. Raises UserError
    where there is nothing to report on, a record lacks or distorts what a report needs, or two are of the same
    settings."""
    if not results:
        raise UserError(f"{folder} has no result to report on")
    for result in results:
        if what := fault(result):
            raise damaged(f"a result of {folder}", what, "remove its line and run the sweep again")
    swept = varying([result["args"] for result in results])
    _refuse_doubles(results, swept, folder)
    looks = looked_at(folder, question, results)
    said = [] if question is None else claims(results, question, looks=looks)
    answer = _answer(results, question, said)
    report = Report(folder.name, answer, said, f"{METHOD} {AGAIN}" if looks else METHOD)
    compared = swept_apart(swept) if question is None else question.compare
    over = swept if question is None else cells_over([result["args"] for result in results], question)
    context = [name for name in over if name not in (*compared, *TUNED, "depth")]
    depths = [name for name in swept if name == "depth" and name not in compared]
    arms = Arms(results, [*compared, *context])
    drawn = {key: (title, caption, draw(arms)) for key, title, caption, draw in FIGURES}
    shown = {key: figure for key, (_, _, figure) in drawn.items() if isinstance(figure, Figure)}
    page = _template().render(
        title=report.title,
        answer=report.answer,
        method=report.method,
        plotly=plotly.offline.get_plotlyjs(),
        verdict_columns=COLUMNS,
        verdict_rows=[{"kind": claim.answer, "cells": row(claim)} for claim in said],
        figures=[
            {"id": k, "title": t, "caption": c, "absent": "" if k in shown else figure}
            for k, (t, c, figure) in drawn.items()
        ],
        data=_script({k: figure.to_plotly_json() for k, figure in shown.items()}),
        **_budgets(arms, depths),
        sections=[{"id": k, "title": t} for k, t in _sections(drawn)],
        command=f"python -m train report {folder}",
        facts=_facts(results, swept),
    )
    files = {"report.html": page, "report.md": markdown(report), "figure.svg": svg.losses_by_depth(arms)}
    for name, text in files.items():
        write_whole(folder / name, text.encode())
    return report


TUNED = ("lr", "seed")  # chosen for each arm, and paired


def swept_apart(swept: Sequence[str]) -> list[str]:
    """What figures tell apart where nothing is compared."""
    return [name for name in swept if name not in (*TUNED, "depth")]


def markdown(report: Report) -> str:
    """The claims as Markdown."""
    lines = [f"# {report.title}", "", *(f"- {line}" for line in report.answer), "", report.method, ""]
    lines += ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    lines += ["| " + " | ".join(row(claim)) + " |" for claim in report.claims]
    return "\n".join(lines) + "\n"


def say_verdicts(report: Report, console: Console | None = None) -> None:
    """Print the answer, and a table of single cells where there are some; it wraps within 80 columns."""
    console = Console() if console is None else console
    cells = [claim for claim in report.claims if claim.kind == "cell"]
    if cells:
        table = Table(title=report.title, box=SIMPLE, pad_edge=False)
        table.add_column("at", overflow="fold")
        table.add_column("verdict", overflow="fold")
        table.add_column("p", justify="right", no_wrap=True)
        for claim in cells:
            style = {"better": "bold", "same": "", "open": "", "withheld": "dim"}[claim.answer]
            table.add_row(Text(claim.where), Text(sentence(claim)), _p(claim), style=style)
        console.print(table)
    for line in report.answer:
        console.print(line, highlight=False, markup=False, soft_wrap=not console.is_terminal)


def row(claim: Claim) -> list[str]:
    """The cells of a claim, in the order of COLUMNS."""
    compared = f"{claim.first} - {claim.second}" if claim.second else claim.first
    rates = " against ".join(dict.fromkeys(rate for rate in claim.rates if rate))
    runs = str(claim.runs) if claim.runs else ""
    left_out = f" ({claim.reason})" if claim.reason and claim.answer != "withheld" else ""
    return [compared, claim.measure, sentence(claim), _p(claim), runs, rates, claim.where + left_out]


def _p(claim: Claim) -> str:
    return "" if claim.answer == "withheld" or claim.kind == "course" else f"{claim.p:.2g}"


def _refuse_doubles(results: Sequence[Result], swept: Sequence[str], folder: Path) -> None:
    """UserError where two runs have the same settings: they are no two seeds, whatever else tells them apart."""
    for same in by(results, *swept).values():
        if len(same) > 1:
            raise UserError(
                f"{folder} has {len(same)} results of the same settings, as a changed text leaves them, with the keys "
                f"{', '.join(repr(r['key']) for r in same[:2])}; remove lines of results.jsonl until one is left"
            )


def _answer(results: Sequence[Result], question: Question | None, said: Sequence[Claim]) -> list[str]:
    """The lines at the top: how many runs, how they ended, and what can be said over all cells."""
    counts = Counter(r["outcome"] for r in results)
    ended = ", ".join(f"{counts[name]} {name}" for name in OUTCOMES if counts[name])
    lines = [f"{len(results)} runs: {ended}."]
    if question is None:
        return [*lines, "Nothing was compared: only seeds differ."]
    lines[0] += f" Asked: {in_words(question, [r['args'] for r in results])}."
    effects = [claim for claim in said if claim.kind != "cell"]
    told = sorted(effects, key=lambda claim: claim.answer == "withheld")
    return [*lines, *(_line(claim) for claim in told)]


def _line(claim: Claim) -> str:
    pair = f"{claim.first} against {claim.second}, {claim.measure}: " if claim.answer == "withheld" else ""
    where = "; ".join(part for part in (claim.where, claim.reason) if part and claim.answer != "withheld")
    return pair + sentence(claim) + (f" ({where})" if where else "")


def _budgets(arms: Arms, context: Sequence[str]) -> dict[str, Any]:
    rows = []
    for settings, group in by(arms.results, *context).items():
        where = ", ".join(f"{name} {value}" for name, value in zip(context, settings, strict=True))
        for name, runs in arms.of(group).items():
            first = runs[0]
            seconds = sum(r["seconds"] for r in runs) / len(runs)
            rows.append([f"{name}, {where}".rstrip(", "), f"{first['params']:,}", f"{first['tokens']:,}",
                         f"{first['flops']:.3g}", f"{seconds:.2f}"])  # fmt: skip
    return {"budget_columns": ("arm", "parameters", "tokens", "FLOPs", "seconds a run"), "budget_rows": rows}


def _sections(drawn: dict[str, tuple]) -> list[tuple[str, str]]:
    titles = [(key, title) for key, (title, _, _) in drawn.items()]
    return [("verdicts", "Verdicts"), *titles, ("budgets", "Budgets"), ("settings", "Settings and provenance")]


def _facts(results: Sequence[Result], swept: Sequence[str]) -> dict[str, str]:
    first = results[0]
    fixed = {name: str(value) for name, value in first["args"].items() if name not in swept}
    grid = {name: ", ".join(str(value) for (value,) in by(results, name)) for name in swept}
    corpus = {f"corpus {name}": str(value) for name, value in first["corpus"].items()}
    names = dict.fromkeys(name for r in results for name in r["provenance"])
    origins = {name: sorted({str(r["provenance"].get(name, "unknown")) for r in results}) for name in names}
    return {**grid, **fixed, **corpus, **{name: "; ".join(values) for name, values in origins.items()}}


def _script(data: dict[str, Any]) -> str:
    """JSON that may stand inside a script element."""
    return json.dumps(data, cls=plotly.utils.PlotlyJSONEncoder).replace("</", "<\\/")


def _template() -> jinja2.Template:
    loader = jinja2.PackageLoader("train.report", "templates")
    return jinja2.Environment(loader=loader, undefined=jinja2.StrictUndefined, autoescape=True).get_template(
        "report.html.j2"
    )
