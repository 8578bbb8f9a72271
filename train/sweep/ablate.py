"""Ablations: the cells of a grid, grouped by compiled program, each run once and kept as one line of results.jsonl."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

from train.config import Config
from train.config.config import BEST
from train.config.grid import cell_key
from train.data.corpus import Corpus, entropies, unigram_nats
from train.files import settled
from train.report.looks import seeds_in, too_few
from train.run.progress import Progress
from train.run.provenance import provenance, source_digest
from train.run.signals import Interrupted, exit_code, stop_signals
from train.sweep.ask import question_for
from train.sweep.best import Best
from train.sweep.cells import Cell, Group, cells_of, groups_of, program_of
from train.sweep.course import Shelf
from train.sweep.due import grown, known_of, missing_of
from train.sweep.group import Look, Sweep, name_of, run_group
from train.sweep.kept import home_of, keep_question, strangers
from train.sweep.plans import groups_at_once, kept_plan, weight_of
from train.sweep.population import Plan
from train.sweep.results import Results
from train.sweep.status import Status, Work, in_words
from train.sweep.workers import BEAT, Crew, Turn, crew_of, results_of_workers
from train.trackers import TRACKERS, numbers_in, told
from train.verdict.number import number_of
from train.verdict.question import Question, varying
from train.verdict.runs import Result

STRANGE = "groups of other cells, text, code or devices: they are not gone on with, and go when this sweep is done"


def ablate(config: Config, *, beside: Mapping[str, Look] = {}, turn: Turn | None = None) -> list[Result]:
    """Run every cell that has no result yet and return all results of the grid, in its order.

    A race runs rung by rung, and returns the results of what ran.
    beside: what else is measured of each trained model; a record holds it under the same names, in its `beside`.
    turn: which of several workers this is, that share the folder and the cells; it returns when all cells are done.
    Results are written a group at a time, and what groups are at is kept while they train: a sweep that is interrupted
    or killed goes on from there, and its records have the same bits. Raises UserError for a corpus that does not fit, a
    mesh, and a folder that holds a run, is in use, or is damaged.
    """
    folder = home_of(config)
    TRACKERS[config.run.tracker](folder, config.name)  # is its package there?
    corpus = config.corpus()
    corpus.check(config.text_length)
    question, said = question_for(config)
    with crew_of(folder, turn, {} if turn is None else agreed(config, question, corpus)) as crew:
        results = Results(folder / "results.jsonl", crew.home / "results.jsonl")
        grid = grown(config, question, config, corpus, results, beside)
        said += too_few(folder, question, seeds_in(cell.config.settings() for cell in grid.cells))
        said += strangers(results, [cell.key for cell in grid.cells], corpus.sha256, source_digest())
        status = Status(crew.home, workers=groups_at_once())
        with Progress(config.name, total=0) as bar, stop_signals() as stopped, status:
            shelf = Shelf(folder / "at_work", bar.say)
            for line in said:
                bar.say(line)
            sweep: Sweep | None = None
            while True:
                for line in grid.why:
                    bar.say(line)
                arms = {cell.key: cell.config.run.arm for cell in grid.cells}
                keep_question(folder, question, arms, source_digest())
                known = known_of(grid.cells, results, question, beside)
                missing = missing_of(grid.cells, results, question, beside)
                best = best_of(folder, config, grid.cells, question)
                racing = question is not None and question.run == "racing"
                size, more = number_of(len(grid.cells), "cell"), ", then the race says what else" if racing else ""
                bar.say(f"{folder.name}: {size}, {len(known)} known, {len(missing)} to run{more if missing else ''}")
                if not missing:
                    shelf.clear()
                    status.plan(len(grid.cells), list(known.values()), {})
                    for line in () if best is None else best.lacking(list(known.values())):
                        bar.say(line)
                    return list(known.values())
                groups = groups_of(missing, grid.cells if racing else ())
                bar.expect(sum(group.work for group in groups))
                if sweep is None:
                    plan = agreed_plan(folder, groups[0], corpus, crew, partial(check, stopped, config.name))
                    bar.say(plan.reason)
                    sweep = Sweep(
                        corpus=corpus,
                        entropies=entropies(corpus),
                        nats=unigram_nats(corpus),
                        question=question,
                        plan=plan,
                        bar=bar,
                        stopped=stopped,
                        beside=beside,
                        turn=Lock(),
                        shelf=shelf,
                        status=status,
                        best=None,
                    )
                    status.believe(plan.seconds / groups[0].flops_a_step, plan.compilation)
                    if count := shelf.others([name_of(group, sweep) for group in groups]):
                        bar.say(f"{shelf.folder} has {count} {STRANGE}")
                sweep = replace(sweep, best=best)
                rows = [cell.config.settings() for cell in grid.cells]
                works = {name_of(group, sweep): work_of(group, rows) for group in groups}
                status.plan(len(grid.cells), list(known.values()), works)
                is_done = partial(are_known, results.path, grid.cells, question, beside)
                ran = 0
                for group, records in run_groups(crew.order(groups), sweep, crew, is_done):
                    ran += len(records)
                    results.add(records)
                    crew.release(name_of(group, sweep))
                    tell(config.run.tracker, folder, records, varying(rows))
                    shelf.drop([name_of(group, sweep)])
                    status.ended(name_of(group, sweep), records)
                sweep.check(groups[-1])
                if ran:
                    programs = {program_of(cell) for cell in missing}
                    bar.say(f"{number_of(len(programs), 'training program')} for {number_of(len(missing), 'run')}")
                else:
                    bar.say(f"other workers are at the last {len(missing)} cells of {len(grid.cells)}; this one waits")
                    wait_for(groups, sweep, crew, is_done)
                if turn is not None:
                    results.read()
                grid = grown(grid.config, question, config, corpus, results, beside)


def check(stopped: Callable[[], int], name: str) -> None:
    """Raise Interrupted when asked to stop."""
    if number := stopped():
        raise Interrupted(name, exit_code(number))


def agreed(config: Config, question: Question | None, corpus: Corpus) -> dict[str, str]:
    """What the workers of a sweep must have in common, by name."""
    keys = sorted(cell.key for cell in cells_of(config, corpus))
    origin = provenance()
    versions = {name: origin[name] for name in ("code", "jax", "device")}
    return {
        **versions,
        "text": corpus.sha256[:12],
        "cells": cell_key({"": keys}),
        "question": cell_key({"": repr(question)}),
    }


def agreed_plan(folder: Path, group: Group, corpus: Corpus, crew: Crew, check: Callable[[], None]) -> Plan:
    """The plan of all workers: one of them times it, or finds it."""
    while not crew.take("plan", lambda: False):
        crew.wait(1.0, check)
    try:
        return kept_plan(folder, group, corpus)
    finally:
        crew.release("plan")


def are_known(
    file: Path, cells: Sequence[Cell], question: Question | None, beside: Mapping[str, Look], group: Group
) -> bool:
    """Are there results of all cells of a group, whoever has run them? It waits for one who is writing some."""
    with settled([file, *results_of_workers(file)]):
        results = Results(file)
    known = {cells[number].key for number in known_of(cells, results, question, beside)}
    return known >= {cell.key for cell in group.cells}


def wait_for(groups: Sequence[Group], sweep: Sweep, crew: Crew, is_done: Callable[[Group], bool]) -> None:
    """Wait until others have done all of these, or one can be claimed, since its worker died."""
    left = [*groups]
    while left:
        crew.wait(BEAT, partial(sweep.check, groups[0]))
        left = [group for group in left if not is_done(group)]
        for name in (name_of(group, sweep) for group in left):
            if crew.take(name, lambda: False):
                crew.release(name)
                return


def best_of(folder: Path, config: Config, cells: Sequence[Cell], question: Question | None) -> Best | None:
    """Where the best run of each arm is kept, if that is asked."""
    if config.run.keep != BEST:
        return None
    return Best(folder / "best", question, {cell.key: cell.config.settings() for cell in cells}, source_digest())


def tell(kind: str, folder: Path, records: Sequence[Mapping[str, Any]], names: Sequence[str]) -> None:
    """Tell a tracker of runs that are done, each under the settings that it has of those that differ."""
    if kind == "jsonl":
        return
    for record in records:
        called = f"{folder.name} {in_words(record['args'], names)} {record['key'][:6]}"
        with told(TRACKERS[kind](folder, called), record["args"]) as tracker:
            curves = zip(record["loss"], record["grad_norm_curve"], strict=True)
            for step, (loss, grad_norm) in enumerate(curves, 1):
                tracker.log(step, numbers_in({"loss": loss, "grad_norm": grad_norm}))
            tracker.log(step, numbers_in({"val_loss": record["val_loss"]}))


def work_of(group: Group, rows: Sequence[Mapping[str, Any]]) -> Work:
    """A group as its sweep's status tells of it, by the settings that differ between the rows of the grid."""
    names, own = varying(rows), [cell.config.settings() for cell in group.cells]
    shared = [name for name in names if len({str(settings.get(name)) for settings in own}) == 1]
    return Work(
        title=in_words(own[0], shared),
        cells={k: in_words(settings, names) for k, settings in enumerate(own)},
        steps=group.config.train.steps,
        flops=group.work_of_one,
        weight=weight_of(group),
    )


def run_claimed(group: Group, sweep: Sweep, crew: Crew, is_done: Callable[[Group], bool]) -> list[dict[str, Any]]:
    """The records of a group; none where another worker has it, or had."""
    sweep.check(group)
    if not crew.take(name_of(group, sweep), partial(is_done, group)):
        return []
    return run_group(group, sweep)


def run_groups(
    groups: Sequence[Group], sweep: Sweep, crew: Crew, is_done: Callable[[Group], bool]
) -> Iterator[tuple[Group, list[dict[str, Any]]]]:
    """Groups with their records as soon as each is done, several at once: a short one waits for no long one. Those that
    other workers have are left to them.

    Raises Interrupted when asked to stop, after those that were done by then.
    """
    with ThreadPoolExecutor(groups_at_once()) as pool:
        running = {pool.submit(run_claimed, group, sweep, crew, is_done): group for group in groups}
        interrupted: Interrupted | None = None
        try:
            for done in as_completed(running):
                try:
                    if records := done.result():
                        yield running[done], records
                except Interrupted as stopped:  # so will be those that have not begun
                    interrupted = stopped
        finally:
            for each in running:
                each.cancel()
    if interrupted is not None:
        raise interrupted
