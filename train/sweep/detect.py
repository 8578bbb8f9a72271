"""How many seeds and windows a sweep is to have so that it finds an effect: planned from a pilot, before they run.

The pilot is the grid as it is written, and it plans only: the seeds that answer are others. A plan whose own seeds are
judged with the rest makes more false claims than it says, since fewer are added where the first ones happen to agree
(Stein 1945; Wittes & Brittain 1990): few more after a large pilot, but up to 1.9 times as many after 3 seeds.

Of a question that was looked at before, seeds are added to those that were seen, and all are judged by intervals that
hold however often one looks; they take more seeds, and the plan says so many.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from train.config import Config
from train.config.ask import rows_of
from train.config.edit import with_seeds, without
from train.errors import UserError, user_input
from train.report.looks import looks_at
from train.sweep.ablate import ablate
from train.sweep.ask import question_for
from train.sweep.cells import cells_of
from train.sweep.due import grown, known_of, missing_of
from train.sweep.kept import home_of
from train.sweep.preview import preview
from train.sweep.results import Results
from train.verdict.cells import FEWEST_SEEDS
from train.verdict.claims import Effect, draw, effects
from train.verdict.estimate import student
from train.verdict.plan import MOST_SEEDS, POWER, Critical, Plan, plan
from train.verdict.question import SEED, Question
from train.verdict.runs import Result
from train.verdict.sequential import critical

MOST_PLANNED = 100  # seeds a cell: a smaller effect is not worth what it costs


class Detection(NamedTuple):
    """The sweep that finds the effect, and why it is as large as it is, a sentence each."""

    config: Config
    said: list[str]


def detect(config: Config, effect: float) -> Detection:
    """Run the pilot, where it did not yet, and plan the sweep that finds `effect`, nats. Raises UserError for an effect
    that no plan finds: before training where that can be known, and else after the pilot."""
    question = _checked(config, effect)
    return _planned(config, question, effect, ablate(config))


def preview_detection(config: Config, effect: float) -> str:
    """What `detect` would plan and what would run then, in words; nothing is trained."""
    question, pilot = _checked(config, effect), _known(config)
    if not pilot:
        told = f"the grid as it is written is the pilot, and runs first; what finds {effect:g} nats is planned from it"
        return f"{preview(config)}\n{told}"
    planned = _planned(config, question, effect, pilot)
    return "\n".join([*planned.said, preview(planned.config)])


def _checked(config: Config, effect: float) -> Question:
    """The question. Raises UserError where no pilot could plan for this effect."""
    question, seeds = question_for(config)[0], _seeds_of(config)
    if not 0 < effect < math.inf:
        raise UserError(f"detect={effect:g} is no effect; give nats, more than 0")
    if question is None:
        raise UserError("detect plans for what is compared, and nothing is; add [question] or another arm")
    if "loss" not in question.measure:
        raise UserError(f"detect plans for losses, and measure is {', '.join(question.measure)}; add loss to it")
    if effect < question.smallest:
        raise UserError(
            f"detect={effect:g} nats is less than the smallest difference that matters, {question.smallest:g}: arms so "
            f"close are called the same; give smallest = {effect:g} in [question]"
        )
    if len(seeds) < FEWEST_SEEDS:
        raise UserError(
            f"a pilot takes {FEWEST_SEEDS} seeds, and the grid has {len(seeds)}; add --seeds {FEWEST_SEEDS}"
        )
    if len(config.cells) != len(without(config.cells, SEED)) * len(seeds):
        raise UserError("detect plans seeds that all cells share, and here some have their own; give one list of seeds")
    return question


def _seeds_of(config: Config) -> list[int]:
    return sorted({row[SEED] for row in rows_of(config, config.cells)})


def _known(config: Config) -> list[Result]:
    """The results of the grid as it is written; none where some are missing."""
    results, (question, _) = Results(home_of(config) / "results.jsonl"), question_for(config)
    grid = grown(config, question, config, config.corpus(), results)
    return [] if missing_of(grid.cells, results, question) else list(known_of(grid.cells, results, question).values())


def _planned(config: Config, question: Question, effect: float, pilot: Sequence[Result]) -> Detection:
    seeds, (windows, _) = _seeds_of(config), _windows_of(config)
    begin, looked = seeds[-1] + 1, looks_at(home_of(config), question)
    found = _found(config, question, effect, pilot, 0)
    new = max(found.seeds, len(seeds) + 1)
    if looks := len(looked - {new}):  # beside the one at what this plan ran, where it did
        found = _found(config, question, effect, pilot, looks)
        added = max(0, found.seeds - len(seeds))
        several = [*seeds, *range(begin, begin + added)]
        told = (
            f"this question was looked at before: {added} seeds are added to {len(seeds)}, and all are judged by "
            "intervals that hold however often one looks"
        )
    else:
        several = list(range(begin, begin + new))
        told = f"the {len(seeds)} seeds of the pilot plan, and {new} others answer: {several[0]} to {several[-1]}"
    wider = [f"{windows} windows leave more than a tenth of the variance to the text: all runs get {found.windows}"]
    with user_input():
        planned = with_seeds(config, several, max(found.windows, config.data.validation))
    return Detection(planned, [*found.said, *wider * (found.windows > windows), told])


class _Found(NamedTuple):
    """What finds every effect: seeds for each cell, 0 where nothing is open; windows; and why."""

    seeds: int
    windows: int
    said: list[str]


def _found(config: Config, question: Question, effect: float, pilot: Sequence[Result], looks: int) -> _Found:
    """Raises UserError where no effect can be judged, and where one takes more than MOST_PLANNED seeds.

    Where seeds are added, they are for what is open. Other seeds must find again what the pilot shows, of which its
    interval tells the least that it may be.
    """
    drawn, (windows, available) = draw(pilot, question, looks=looks), _windows_of(config)
    losses = [each.claim for each in drawn if (each.claim.kind, each.claim.measure) == ("effect", "loss")]
    shown = effects(drawn, looks)
    if losses and not shown:
        (one, other), why = (losses[0].first, losses[0].second), losses[0].reason
        raise UserError(f"nothing can be planned: {one} against {other} is withheld, {why}")
    most, wanted, said = 0, windows, []
    for each in shown if not looks else [each for each in shown if each.claim.answer == "open"]:
        least = max(effect, 0.0 if looks else each.least)
        planned = _plan(each, least, windows, available, critical if looks else student)
        most, wanted = max(most, planned.seeds or 0), max(wanted, planned.windows)
        named = f"{least:.2g} nats" + ", the least that the pilot leaves," * (least > effect)
        said.append(
            f"{each.claim.first} against {each.claim.second}: {planned.seeds} seeds a cell find {named} with chance "
            f"{POWER:g} ({planned.needed}, as the spread may be)"
        )
    return _Found(most, wanted, said or ["nothing is open"])


def _windows_of(config: Config) -> tuple[int, int]:
    """Windows of the held-out text that runs are judged on, and how many there are."""
    corpus = config.corpus()
    longest = max(cell.config.text_length for cell in cells_of(config, corpus))
    available = corpus.validation.size // (longest + 1)
    return min(config.data.validation, available), available


def _plan(found: Effect, effect: float, windows: int, available: int, critical: Critical) -> Plan:
    """The plan for one effect. Raises UserError where it takes more than MOST_PLANNED seeds."""

    def of(effect: float) -> Plan:
        return plan(found.estimate, found.seeds, effect, found.level,
                    windows=windows, available=available, critical=critical)  # fmt: skip

    planned = of(effect)
    if planned.seeds is not None and planned.seeds <= MOST_PLANNED:
        return planned
    larger = effect
    while (each := of(larger).seeds) is None or each > MOST_PLANNED:
        larger *= 1.05
    count = f"{MOST_SEEDS} or more" if planned.seeds is None else f"{planned.seeds}"
    raise UserError(
        f"{found.claim.first} against {found.claim.second} would take {count} seeds a cell to find {effect:g} nats, "
        f"and at most {MOST_PLANNED} are planned, which find {larger:.2g}; detect that, or lessen the spread"
    )
