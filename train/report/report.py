"""The report of a sweep: verdicts first, then figures, then settings and where it all comes from.

`report.html` is one file that opens offline; `report.md` says the same verdicts for a terminal or an issue;
`figure.svg` is the shortest answer, for a README.
"""

import json
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
from train.report.record import fault
from train.verdict.question import SIZES
from train.verdict.stats import Result, Verdict, by, outcomes, verdicts

NUISANCE = ("lr", "seed")  # chosen for each arm, and paired
COLUMNS = ("compared", "at", "verdict", "difference, nats", "95 % interval", "effect d", "n", "p (Holm)", "best rates",
           "all runs")  # fmt: skip
METHOD = (
    "Validation loss at each side's best rate, runs paired by seed. Difference: first less second, negative where the "
    "first is better. Intervals and p by Student's paired t, p corrected by Holm for all claims made. A loss counts at "
    "most as much as the loss at initialisation. Claims are withheld where the comparison would not be fair."
)
FIGURES = (
    ("losses", "Loss against learning rate", "Mean over seeds, one point a run. Dashed: what a model would lose that "
     "knows nothing (log V), the frequency of bytes, or the one byte before.", figures.losses_by_depth),
    ("stable", "Largest stable rate", "At which at least half of the seeds worked, and at all smaller ones.",
     figures.stable_rates),
    ("sensitivity", "LR sensitivity", "Mean loss over the rates less the best: lower is more forgiving.",
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
    """What was written: the answer in words, and the verdicts."""

    title: str
    answer: str
    verdicts: list[Verdict]


def write_report(results: Sequence[Result], folder: Path) -> Report:
    """Write report.html, report.md and figure.svg of a sweep into `folder`. Raises UserError where there is nothing to
    report on, a record lacks or distorts what a report needs, or two are of the same settings."""
    if not results:
        raise UserError(f"{folder} has no result to report on")
    for result in results:
        if what := fault(result):
            raise damaged(f"a result of {folder}", what, "remove its line and run the sweep again")
    names = dict.fromkeys(name for result in results for name in result["args"])
    swept = [name for name in names if len(by(results, name)) > 1]
    _refuse_doubles(results, swept, folder)
    axes = [name for name in swept if name not in (*NUISANCE, *SIZES)]
    context = [name for name in swept if name in SIZES]
    said = verdicts(results, axes, context) if axes else []
    report = Report(folder.name, _answer(results, said, axes, context), said)
    depths = [name for name in context if name == "depth"]  # the size that figures and budgets are laid out by
    arms = Arms(results, [*axes, *(name for name in context if name not in depths)])
    drawn = {key: (title, caption, draw(arms)) for key, title, caption, draw in FIGURES}
    shown = {key: figure for key, (_, _, figure) in drawn.items() if isinstance(figure, Figure)}
    page = _template().render(
        title=report.title,
        answer=report.answer,
        method=METHOD,
        plotly=plotly.offline.get_plotlyjs(),
        verdict_columns=COLUMNS,
        verdict_rows=[{"kind": v.kind, "cells": row(v)} for v in said],
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


def markdown(report: Report) -> str:
    """The verdicts as Markdown."""
    lines = [f"# {report.title}", "", report.answer, "", METHOD, ""]
    lines += ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    lines += ["| " + " | ".join(row(v)) + " |" for v in report.verdicts]
    return "\n".join(lines) + "\n"


def say_verdicts(report: Report, console: Console | None = None) -> None:
    """Print the verdicts, a block for each two rivals; the table wraps within 80 columns."""
    console = Console() if console is None else console
    table = Table(title=report.title, box=SIMPLE, pad_edge=False)
    table.add_column("at", overflow="fold")
    table.add_column("verdict", overflow="fold")
    table.add_column("nats", justify="right", no_wrap=True)
    table.add_column("p (Holm)", justify="right", no_wrap=True)
    rivals: dict[str, list[Verdict]] = {}
    for verdict in report.verdicts:
        rivals.setdefault(row(verdict)[0], []).append(verdict)
    for name, said in rivals.items():
        table.add_section()
        table.add_row(Text(name, style="italic"))
        for verdict in said:
            _, where, sentence, difference, _, _, _, p, _, _ = row(verdict)
            style = {"claim": "bold", "open": "", "withheld": "dim"}[verdict.kind]
            table.add_row(Text(where), Text(sentence), difference, p, style=style)
    if report.verdicts:
        console.print(table)
    console.print(report.answer, highlight=False, markup=False, soft_wrap=not console.is_terminal)


def row(verdict: Verdict) -> list[str]:
    """The cells of a verdict, in the order of COLUMNS."""
    c, sides = verdict.comparison, f"{verdict.first}: {verdict.outcomes[0]}; {verdict.second}: {verdict.outcomes[1]}"
    rates = f"{verdict.rates[0]:g}, {verdict.rates[1]:g}"
    numbers = ["", "", "", ""]
    if c is not None:
        numbers = [f"{c.difference:+.4f}", f"{c.low:+.4f} to {c.high:+.4f}", f"{c.effect:+.1f}", str(c.n)]
    p = "" if verdict.p is None else f"{verdict.p:.2g}"
    return [f"{verdict.first} - {verdict.second}", verdict.where, verdict.sentence, *numbers, p, rates, sides]


def _refuse_doubles(results: Sequence[Result], swept: Sequence[str], folder: Path) -> None:
    """UserError where two runs have the same settings: they are no two seeds, whatever else tells them apart."""
    for same in by(results, *swept).values():
        if len(same) > 1:
            raise UserError(
                f"{folder} has {len(same)} results of the same settings, as a changed text leaves them, with the keys "
                f"{', '.join(repr(r['key']) for r in same[:2])}; remove lines of results.jsonl until one is left"
            )


def _answer(results: Sequence[Result], said: Sequence[Verdict], axes: Sequence[str], context: Sequence[str]) -> str:
    """The one paragraph at the top: how many runs, how they ended, and which claims can be made."""
    text = f"{len(results)} runs: {outcomes(results)}. "
    if not axes:
        return text + "Nothing was compared: a verdict needs a swept setting that is no size, rate or seed."
    if not said:
        apart = f"runs that differ in {', '.join(axes)} differ in {', '.join(context)} too"
        return text + f"Nothing was compared: {apart}, so no two of them have the same size."
    claims = [v for v in said if v.kind == "claim"]
    withheld = sum(v.kind == "withheld" for v in said)
    text += f"Of {len(said)} comparisons {len(claims)} are separated, {withheld} are withheld. "
    by_claim: dict[str, list[str]] = {}
    for verdict in claims:
        by_claim.setdefault(verdict.claim, []).append(verdict.where)
    places = {claim: " and at ".join(where for where in wheres if where) for claim, wheres in by_claim.items()}
    sentences = [f"{claim} at {where}" if where else claim for claim, where in places.items()]
    return text + "; ".join([*sentences, *(v.failure for v in said if v.failure)])


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
