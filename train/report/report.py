"""The report of a sweep: the question and its answer first, then effects, charts, runs, and where it all comes from.

`report.html` is one file that opens offline; `report.md` says the same for a terminal or an issue; `figure.svg` is the
shortest answer, for a README; `runs.csv` is for other programs.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text

from train.errors import UserError
from train.files import damaged, write_whole
from train.report import svg
from train.report.arms import DARK, LIGHT, SYMBOLS, Style, Sweep, rate
from train.report.charts import CHARTS, FIRST, Chart, Entry
from train.report.export import rows_of, write_runs
from train.report.looks import looked_at
from train.report.page import colours, packed_json, rendered
from train.report.record import fault
from train.report.summary import Summary, summary_of
from train.verdict.asked import in_words
from train.verdict.claims import Claim, claims
from train.verdict.number import number_of
from train.verdict.outcome import OUTCOMES
from train.verdict.question import Question
from train.verdict.runs import Result, by
from train.verdict.words import sentence

COLUMNS = ("compared", "measure", "answer", "p", "runs", "learning rates", "at")
BUDGETS = ("arm", "parameters", "tokens", "FLOPs", "cache a token, bytes", "a step, ms", "a run, s")
METHOD = (
    "Effects are pooled over cells, single cells come last; a cell is one combination of all that is swept but neither "
    "compared, tuned nor the seed. A difference is the first less the second, of runs paired by seed, each judged at "
    "learning rates that the other seeds vote for. The intervals of this page hold all together: "
    "Student's t with clusters by seed, the text's own share added, Bonferroni over effects and over cells; p agrees "
    "with them. Better: the interval leaves out zero. The same: it lies within the smallest difference that matters. "
    "Not separable: neither. Runs that fail are number_of, and are in no mean."
)
AGAIN = "This question was looked at before with fewer seeds: the intervals are those of a confidence sequence."
MARKS = {  # of the legend, as paths around 0
    "circle": "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0 -8 0",
    "square": "M-4 -4H4V4H-4Z",
    "triangle-up": "M0 -5L5 4H-5Z",
    "diamond": "M0 -5L5 0L0 5L-5 0Z",
    "star": "M0 -5L1.4 -1.6L5 -1.6L2 .8L3.2 4.4L0 2.2L-3.2 4.4L-2 .8L-5 -1.6L-1.4 -1.6Z",
    "pentagon": "M0 -5L4.8 -1.5L2.9 4H-2.9L-4.8 -1.5Z",
    "hexagram": "M0 -5L1.7 -2.5H4.6L3.2 0L4.6 2.5H1.7L0 5L-1.7 2.5H-4.6L-3.2 0L-4.6 -2.5H-1.7Z",
}
assert MARKS.keys() == {*SYMBOLS}


@dataclass(frozen=True, slots=True)
class Report:
    """What was written: the question with its answer, every line of it in words, and the claims."""

    name: str
    summary: Summary
    answer: list[str]
    claims: list[Claim]
    method: str


def write_report(
    results: Sequence[Result], folder: Path, question: Question | None, defaults: Mapping[str, Any] | None = None
) -> Report:
    """Write report.html, report.md, figure.svg and runs.csv of a sweep into `folder`, and that it was looked at.

    defaults: of the settings, which need no mention. Raises UserError where there is nothing to report on, a record
    lacks or distorts what a report needs, or two are of the same settings.
    """
    if not results:
        raise UserError(f"{folder} has no result to report on")
    for result in results:
        if what := fault(result):
            raise damaged(f"a result of {folder}", what, "remove its line and run the sweep again")
    sweep = Sweep(results, question)
    _refuse_doubles(results, sweep.swept, folder)
    looks = looked_at(folder, question, results)
    said = [] if question is None else claims(results, question, looks=looks)
    report = Report(
        folder.name, summary_of(sweep, said, folder.name), _answer(results, question, said), said,
        f"{METHOD} {AGAIN}" if looks else METHOD,
    )  # fmt: skip
    page = _page(report, sweep, folder, {} if defaults is None else defaults)
    files = {"report.html": page, "report.md": markdown(report), "figure.svg": svg.losses_by_size(sweep)}
    for name, text in files.items():
        write_whole(folder / name, text.encode())
    write_runs(rows_of(results, [sweep.arms.name(result) for result in results]), folder)
    return report


def _page(report: Report, sweep: Sweep, folder: Path, defaults: Mapping[str, Any]) -> str:
    first, figures = ({k: entry.draw(sweep) for k, entry in table.items()} for table in (FIRST, CHARTS))
    settings, default = _settings(sweep, defaults)
    return rendered(
        "train.report",
        "report.html.j2",
        summary=report.summary,
        method=report.method,
        columns=COLUMNS,
        effects=_rows(sorted((c for c in report.claims if c.kind != "cell"), key=_certainty)),
        cells=_rows(sorted((c for c in report.claims if c.kind == "cell"), key=_certainty)),
        arms=[_legend(name, style) for name, style in sweep.arms.styles.items()],
        filters=_filters(sweep),
        first=[_shown(k, FIRST[k], chart) for k, chart in first.items()],
        figures=[_shown(k, CHARTS[k], chart) for k, chart in figures.items()],
        data=packed_json(_data(sweep, {**first, **figures}, folder)),
        budget_columns=BUDGETS,
        budget_rows=_plain(_budgets(sweep)),
        settings=_plain(settings.items()),
        defaults=_plain(default.items()),
        provenance=_plain(_origins(sweep.results).items()),
        commands=_commands(folder),
    )


def _rows(said: Iterable[Claim]) -> list[dict[str, Any]]:
    return [{"kind": claim.answer, "cells": row(claim)} for claim in said]


def _plain(rows: Iterable[Sequence[str]]) -> list[dict[str, Any]]:
    return [{"kind": "", "cells": list(cells)} for cells in rows]


def _certainty(claim: Claim) -> tuple[int, float]:
    """What is made comes first, the surest before others; what is withheld comes last."""
    return ("better", "same", "open", "withheld").index(claim.answer), claim.p


def _legend(name: str, style: Style) -> dict[str, Any]:
    dark = dict(zip(LIGHT, DARK, strict=True))[style.colour]
    look = {"width": style.width, "dash": svg.STROKES[style.dash], "mark": MARKS[style.symbol]}
    return {"name": name, "light": style.colour, "dark": dark, **look}


def _filters(sweep: Sweep) -> list[dict[str, Any]]:
    """What runs can be picked by, beside their arm."""
    counts = Counter(r["outcome"] for r in sweep.results)
    seeds = sorted({r["args"]["seed"] for r in sweep.results})
    choices = [
        (sweep.size, "size", [sweep.called(size) for size, _ in sweep.sizes]),
        ("outcome", "outcome", [name for name in OUTCOMES if counts[name]]),
        ("seed", "seed", seeds),
    ]
    return [{"name": name, "key": key, "choices": values} for name, key, values in choices if len(values) > 1]


def _shown(key: str, entry: Entry, chart: Chart | str) -> dict[str, str]:
    absent, finding = (chart, chart) if isinstance(chart, str) else ("", chart.finding)
    return {"id": key, "title": entry.title, "caption": entry.caption, "absent": absent, "finding": finding}


def _data(sweep: Sweep, charts: Mapping[str, Chart | str], folder: Path) -> dict[str, Any]:
    """What the page's script reads: charts, runs, and the colours of a dark page."""
    drawn = {key: chart for key, chart in charts.items() if isinstance(chart, Chart)}
    return {
        "charts": {
            key: {
                "panels": [{"place": p.place, "data": p.plot.traces, "layout": p.plot.layout} for p in chart.panels],
                "controls": chart.controls, "together": chart.together, "slides": chart.slides, "start": chart.start,
            }
            for key, chart in drawn.items()
        },
        "runs": [_run(sweep, place, result) for place, result in enumerate(sweep.results)],
        "sized": bool(sweep.size),
        "replay": f"python -m train replay {folder}",
        "colours": colours(),
    }  # fmt: skip


def _run(sweep: Sweep, place: int, result: Result) -> dict[str, Any]:
    args, size = result["args"], sweep.called(result["args"].get(sweep.size)) if sweep.size else ""
    ended = f"{result['outcome']} at step {result['outcome_step']}"
    stopped = f", stopped after {result['stopped']} steps" if result.get("stopped") else ""
    return {
        "place": place, "key": result["key"], "arm": sweep.arms.name(result), "size": size, "lr": args["lr"],
        "seed": args["seed"], "outcome": result["outcome"], "loss": result["val_loss"], "params": result["params"],
        "seconds": result["seconds"], "ended": ended + stopped,
    }  # fmt: skip


def markdown(report: Report) -> str:
    """The question, the answer and the claims as Markdown."""
    lines = [f"# {report.summary.title}", "", *report.summary.answers, "", report.summary.scope, ""]
    lines += [*(f"- {line}" for line in report.answer), "", report.method, ""]
    lines += ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    lines += ["| " + " | ".join(row(claim)) + " |" for claim in report.claims]
    return "\n".join(lines) + "\n"


def say_verdicts(report: Report, console: Console | None = None) -> None:
    """Print the answer, and a table of single cells where there are some; it wraps within 80 columns."""
    console = Console() if console is None else console
    cells = [claim for claim in report.claims if claim.kind == "cell"]
    if cells:
        table = Table(title=report.name, box=SIMPLE, pad_edge=False)
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
    lines = [f"{number_of(len(results), 'run')}: {ended}."]
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


def _budgets(sweep: Sweep) -> list[list[str]]:
    rows = []
    for size, group in sweep.sizes:
        for name, runs in sweep.arms.of(group).items():
            first, told = runs[0], f"{name}, {sweep.called(size)}" if sweep.size else name
            steps = [r["seconds_a_step"] for r in runs if r["seconds_a_step"]]
            cache = f"{first['cache_bytes']:,}" if first.get("cache_bytes") else ""
            tokens, flops = (max(r[name] for r in runs) for name in ("tokens", "flops"))
            spent = [_mean(steps, 1e3), _mean([r["seconds"] for r in runs])]
            rows.append([told, f"{first['params']:,}", f"{tokens:,}", f"{flops:.3g}", cache, *spent])
    return rows


def _mean(values: Sequence[float], times: float = 1.0) -> str:
    return f"{times * sum(values) / len(values):.2f}" if values else ""


def _settings(sweep: Sweep, defaults: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, str]]:
    """What is swept, with its values, then what is not as it is by default; and what is."""
    swept = {
        _named(name): ", ".join(_said(name, value) for (value,) in by(sweep.results, name)) for name in sweep.swept
    }
    fixed = {name: value for name, value in sweep.results[0]["args"].items() if name not in sweep.swept}
    told = {name: name not in defaults or defaults[name] != value for name, value in fixed.items()}
    own, rest = (
        {_named(name): _said(name, v) for name, v in fixed.items() if told[name] is is_own} for is_own in (True, False)
    )
    return {**swept, **own}, rest


def _named(name: str) -> str:
    """A setting beside the name that papers give it, where that is another."""
    papers = {"lr": "learning rate", "inner": "d_ff", "width": "d_model", "depth": "layers"}
    return f"{name} ({papers[name]})" if name in papers else name


def _said(name: str, value: Any) -> str:
    return rate(value) if name == "lr" else "none" if value is None or value == "" else str(value)


def _origins(results: Sequence[Result]) -> dict[str, str]:
    """Text, versions and device, of all runs."""
    corpus = {f"corpus {name}": str(value) for name, value in results[0]["corpus"].items()}
    names = dict.fromkeys(name for r in results for name in r["provenance"])
    origins = {name: sorted({str(r["provenance"].get(name, "unknown")) for r in results}) for name in names}
    return {**corpus, **{name: "; ".join(values) for name, values in origins.items()}}


def _commands(folder: Path) -> list[dict[str, str]]:
    return [
        {"command": f"python -m train report {folder}", "does": "writes this page again from its results"},
        {"command": f"python -m train replay {folder} --cell KEY", "does": "makes a run again and looks at its end"},
    ]
