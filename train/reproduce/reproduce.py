"""Run experiments, hold their claims against what came out, and write one report."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from fxformer.lookup import nearest
from train.config import Config, load
from train.errors import user_input
from train.files import make_folder, write_whole
from train.report.arms import DASHES, LIGHT
from train.report.page import packed_figures, rendered
from train.reproduce.claim import Claim
from train.reproduce.experiments import EXPERIMENTS, Experiment, Found
from train.sweep.ablate import ablate

CONFIGS = Path(__file__).parents[2] / "configs" / "experiments"
COLUMNS = ("claim", "source", "expected", "measured", "95 % interval", "answer")


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """An experiment that was run. runs: of its sweep. seconds: of processors, for what was not known before."""

    name: str
    title: str
    found: Found
    runs: int
    seconds: float


def configuration(experiment: Experiment, out: Path, *, quick: bool) -> Config:
    """The sweep of an experiment; a quick one has the cells whose values are those that `quick` keeps.

    A quick sweep has a folder of its own: the results of the two are never mixed.
    """
    config = load(CONFIGS / f"{experiment.config}.toml", [f"out={out / 'quick' if quick else out}"])
    kept = experiment.quick if quick else {}
    cells = [cell for cell in config.cells if all(cell[name] in values for name, values in kept.items())]
    return replace(config, cells=tuple(cells))


def run_experiment(name: str, out: Path, *, quick: bool) -> Section:
    """Train what is missing of one experiment, and read its claims."""
    experiment, begin = EXPERIMENTS[name], time.process_time()
    config = configuration(experiment, out, quick=quick)
    results = ablate(config, beside=experiment.beside)
    found = experiment.read(config, results)
    return Section(
        name=name, title=experiment.title, found=found, runs=len(results), seconds=time.process_time() - begin
    )


def chosen(names: Sequence[str]) -> list[str]:
    """The experiments of these names, in the order of the table; all where none is named. UserError for another."""
    with user_input():
        wanted = {name.upper() for name in names}
        for name in wanted:
            nearest(EXPERIMENTS, name, "experiment")
    return [name for name in EXPERIMENTS if name in wanted or not names]


def said(section: Section) -> str:
    """A section in plain lines."""
    lines = [f"{section.name}  {section.title} ({section.runs} runs, {section.seconds:.0f} s of processors)"]
    lines += [f"    {claim.sentence}" for claim in section.found.claims]
    return "\n".join([*lines, *([f"    {section.found.note}"] if section.found.note else [])])


def as_data(sections: Sequence[Section]) -> list[dict[str, Any]]:
    """Every claim as JSON can say it; an end of a range or an interval that is infinite is null."""
    return [
        {
            "experiment": section.name,
            "claim": claim.text,
            "source": claim.source,
            "expected": {
                "words": claim.expected.words,
                "low": _finite(claim.expected.low),
                "high": _finite(claim.expected.high),
            },
            "measured": _finite(claim.measured.value),
            "interval": [_finite(claim.measured.low), _finite(claim.measured.high)],
            "answer": claim.answer,
        }
        for section in sections
        for claim in section.found.claims
    ]


def write_report(sections: Sequence[Section], folder: Path) -> Path:
    """Write report.html, one file that opens offline, with a section for each experiment; returns where it is."""
    page = rendered(
        "train.reproduce",
        "reproduce.html.j2",
        columns=COLUMNS,
        sections=[
            {
                "id": section.name,
                "title": f"{section.name}: {section.title}",
                "cost": f"{section.runs} runs, {section.seconds:.0f} s of processors.",
                "rows": [{"answer": claim.answer, "cells": _row(claim)} for claim in section.found.claims],
                "answers": "; ".join(claim.sentence for claim in section.found.claims),
                "note": section.found.note,
            }
            for section in sections
        ],
        data=packed_figures({section.name: _figure(section.found) for section in sections}),
    )
    file = folder / "report.html"
    make_folder(folder)
    write_whole(file, page.encode())
    return file


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None


def _row(claim: Claim) -> list[str]:
    value, low, high = (f"{number:.3g}" for number in claim.measured)
    return [claim.text, claim.source, claim.expected.words, value, f"{low} to {high}", claim.answer]


def _figure(found: Found) -> go.Figure:
    figure = go.Figure()
    for i, curve in enumerate(found.curves):
        line = {"color": LIGHT[i % len(LIGHT)], "dash": DASHES[i % len(DASHES)]}
        figure.add_scatter(x=list(curve.x), y=list(curve.y), name=curve.name, line=line, mode="lines+markers")
    scale = "log" if found.logarithmic else "linear"
    figure.update_xaxes(title=found.axes[0], type=scale)
    figure.update_yaxes(title=found.axes[1], type=scale)
    return figure
