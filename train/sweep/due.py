"""Which cells of a grid run next: those without a result, rung by rung of a race, and those by which the grid grows."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from train.config import Config
from train.config.edit import with_rates
from train.data.corpus import Corpus
from train.run.provenance import source_digest
from train.sweep.cells import Cell, cells_of
from train.sweep.group import Look
from train.sweep.kept import is_of, named
from train.sweep.results import Results
from train.verdict.extend import next_rungs, planned
from train.verdict.question import Question
from train.verdict.race import is_raced, next_rung
from train.verdict.runs import Result


class Grid(NamedTuple):
    """A grid as far as results let it grow: its configuration, its cells, and why it grew, in words."""

    config: Config
    cells: list[Cell]
    why: list[str]


def grown(
    config: Config,
    question: Question | None,
    given: Config,
    corpus: Corpus,
    results: Results,
    beside: Mapping[str, Look] = {},
) -> Grid:
    """The grid with the rungs that its question asks for, once no cell is missing; given: as it was at first."""
    why: list[str] = []
    while True:
        cells = cells_of(config, corpus)
        if question is None or not question.extend or missing_of(cells, results, question, beside):
            return Grid(config, cells, why)
        plan = planned([cell.config.settings() for cell in cells_of(given, corpus)], question)
        rungs = next_rungs(question, plan, list(known_of(cells, results, question, beside).values()))
        if not rungs:
            return Grid(config, cells, why)
        why += [rung.why for rung in rungs]
        config = with_rates(config, question, [(rung.place, rung.lr) for rung in rungs])


def known_of(
    cells: Sequence[Cell], results: Results, question: Question | None, beside: Mapping[str, Look] = {}
) -> dict[int, Result]:
    """The results that answer the question, by the cell's number: by this code, with all that is measured beside.

    A run that a race has stopped is known to races only; one that was only behind, where rates may be left out.
    """

    def is_known(record: Result) -> bool:
        whole = record.get("stopped") is None or (
            question is not None and question.run == "racing" and (record["behind"] is None or is_raced(question))
        )
        return whole and is_of(record, source_digest()) and beside.keys() <= record.get("beside", {}).keys()

    found = ((number, cell) for number, cell in enumerate(cells) if cell.key in results)
    return {n: named(results[cell.key], cell.config.run.arm) for n, cell in found if is_known(results[cell.key])}


def missing_of(
    cells: Sequence[Cell], results: Results, question: Question | None = None, beside: Mapping[str, Look] = {}
) -> list[Cell]:
    """The cells that run next: those that are not known; of a race, those of its first rung that is not complete.

    A rung follows from the results of those before it alone: workers that know parts of one decide the same.
    """
    known = known_of(cells, results, question, beside)
    if question is None:
        return [cell for number, cell in enumerate(cells) if number not in known]
    rows, seen = [cell.config.settings() for cell in cells], dict[int, Result]()
    while True:
        due = next_rung(rows, seen, question).due
        if missing := [number for number in due if number not in known]:
            return [cells[number] for number in missing]
        if not due:
            return []
        seen |= {number: known[number] for number in due}
