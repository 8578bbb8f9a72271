"""Ablations: the cells of a grid, grouped by compiled program, each run once and kept as one line of results.jsonl."""

import json
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import jax
import numpy as np

import fxformer as fx
from train.config import Config
from train.config.config import BEST
from train.config.edit import with_rates
from train.config.grid import cell_key
from train.config.values import short
from train.data.corpus import Corpus, entropies, unigram_nats
from train.errors import UserError, user_input
from train.files import COUNT, NUMBER, TEXT, Kind, read_object, settled, write_whole
from train.run.progress import Progress, clock
from train.run.provenance import provenance, source_digest
from train.run.signals import Interrupted, exit_code, stop_signals
from train.step import Recipe, recipe_of, start, train_step
from train.sweep.ask import question_for
from train.sweep.best import Best
from train.sweep.cells import Cell, Group
from train.sweep.course import Shelf
from train.sweep.group import Look, Sweep, name_of, run_group, stacked, tokens_of
from train.sweep.kept import is_of, keep_question, named, strangers
from train.sweep.population import PLANS, Plan, choose_plan
from train.sweep.results import Results
from train.sweep.status import PROGRAMS, Status, Work, compile_weight, in_words, time_left
from train.sweep.workers import BEAT, Crew, Turn, crew_of, results_of_workers
from train.trackers import TRACKERS, numbers_in, told
from train.verdict.extend import next_rungs, planned
from train.verdict.question import Question, varying
from train.verdict.race import is_raced, next_rung
from train.verdict.runs import Result

PLAN = {"name": Kind(f"one of {', '.join(PLANS)}", lambda value: value in tuple(PLANS)), "reason": TEXT,
        "seconds": NUMBER, "devices": COUNT,
        "compilation": NUMBER._replace(optional=True)}  # fmt: skip
STRANGE = "groups of other cells, text, code or devices: they are not gone on with, and go when this sweep is done"
STATE_COPIES = 4  # of the parameters: themselves, their gradients, two moments


def cells_of(config: Config, corpus: Corpus) -> list[Cell]:
    """Every cell of the grid, resolved; two that say the same are one. Raises UserError for one that cannot be."""
    cells: dict[str, Cell] = {}
    for settings in config.cells:
        with user_input():
            resolved = config.cell(settings)
        content = {name: value for name, value in resolved.settings().items() if name != "arm"}
        key = cell_key({**content, "corpus": corpus.sha256})
        cell = cells.setdefault(key, Cell(resolved, key, len(cells)))
        if cell.config.run.arm != resolved.run.arm:
            arms = f"{cell.config.run.arm!r} and {resolved.run.arm!r}"
            raise UserError(f"arms {arms} have the same settings, {short(settings)}; let them differ, or remove one")
    return list(cells.values())


def groups_of(cells: Sequence[Cell], grid: Sequence[Cell] = ()) -> list[Group]:
    """Cells by compiled program: those of equal recipe and number of steps.

    grid: all cells of a race, of which these are a rung. A program then takes as many as run with one seed, so that one
    serves all rungs.
    """
    groups, together = defaultdict(list), Counter((_program(cell), cell.config.train.seed) for cell in grid)
    for cell in cells:
        groups[_program(cell)].append(cell)
    cut = []
    for program, members in groups.items():
        size = max((count for (each, _), count in together.items() if each == program), default=len(members))
        cut += [Group(program[0], tuple(members[i : i + size]), size) for i in range(0, len(members), size)]
    return cut


def _program(cell: Cell) -> tuple[Recipe, int]:
    return recipe_of(cell.config), cell.config.train.steps


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
                bar.say(f"{folder.name}: {len(grid.cells)} cells, {len(known)} known, {len(missing)} to run")
                if not missing:
                    shelf.clear()
                    status.plan(len(grid.cells), list(known.values()), {})
                    for line in () if best is None else best.lacking(list(known.values())):
                        bar.say(line)
                    return list(known.values())
                racing = question is not None and question.run == "racing"
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
                    programs = {_program(cell) for cell in missing}
                    bar.say(f"{len(programs)} training programs for {len(missing)} runs")
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


def weight_of(group: Group) -> float:
    """What its programs take to compile, relative to those of others."""
    return compile_weight(group.config.spec().stack.depth)


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


def home_of(config: Config) -> Path:
    """The folder of a sweep. Raises UserError where it holds a run, and for a mesh or processes: it uses neither."""
    if config.run.distributed:
        raise UserError("distributed does nothing in a sweep, which processes share by --worker K/N; leave it out")
    if config.run.mesh:
        raise UserError(f"mesh={config.run.mesh} does nothing in a sweep, whose runs share the devices; leave it out")
    folder = Path(config.run.out) / config.name
    if (folder / "config.json").exists():
        raise UserError(f"{folder} holds a run, not a sweep; choose another name or run.out")
    return folder


def groups_at_once() -> int:
    """Two on a CPU: while one compiles, which keeps one core busy, the other trains. An accelerator trains beside
    compilers on half of the cores, eight at most: each holds its group's parameters."""
    return 2 if jax.default_backend() == "cpu" else min(8, max(2, (os.cpu_count() or 1) // 2))


def preview(config: Config) -> str:
    """What `ablate` would do, in words: cells, compilations, memory, and the time that one timed step suggests."""
    folder = home_of(config)
    corpus = config.corpus()
    corpus.check(config.text_length)
    results, (question, said) = Results(folder / "results.jsonl"), question_for(config)
    _, cells, why = grown(config, question, config, corpus, results)
    groups, races = groups_of(missing_of(cells, results)), question is not None and question.run == "racing"
    swept = sorted({name for cell in config.cells for name in cell})
    lines = [f"{config.name}: {len(cells)} cells over {', '.join(swept) or 'nothing'}"]
    lines += [*said, *why]
    lines += strangers(results, [cell.key for cell in cells], corpus.sha256, source_digest())
    lines += [f"{len(cells) - sum(len(group.cells) for group in groups)} have results, {len(groups)} compilations"]
    if groups:
        plan = plan_for(groups[0], corpus)
        a_flop, a_weight = plan.seconds / groups[0].flops_a_step, PROGRAMS * (plan.compilation or 0.0)
        parts = [(a_weight * weight_of(group), a_flop * group.work) for group in groups]
        compiling, training = (clock(sum(each)) for each in zip(*parts, strict=True))
        held = sorted(STATE_COPIES * 4 * fx.count(group.config.spec()) * len(group.cells) for group in groups)
        together = held[-groups_at_once() :]
        size = f"at most {sum(together) / 1e6:,.1f} MB for parameters, gradients and moments"
        lines += [plan.reason, f"{size}; groups at once: {len(together)}"]
        took = f"{training} of training, {compiling} of compilation, {groups_at_once()} groups at once"
        lines += [f"{'at most' if races else 'about'} {clock(time_left(parts, groups_at_once()))}: {took}"]
    return "\n".join(lines)


def plan_for(group: Group, corpus: Corpus) -> Plan:
    """The fastest plan for populations here, from one step of all cells of `group`; its compilation is for each unit of
    weight."""
    numbers = stacked(group)
    # Zeros: a step takes as long with any values, and to draw them would be one more program to compile.
    shapes = jax.eval_shape(jax.vmap(partial(start, group.recipe)), numbers)
    state = jax.device_put(jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes))
    step, tokens = partial(train_step, group.recipe), tokens_of(group, corpus, range(1))[:, 0]
    plan = choose_plan(step, (numbers, state, tokens))
    return replace(plan, compilation=(plan.compilation or 0.0) / weight_of(group))


def kept_plan(folder: Path, group: Group, corpus: Corpus) -> Plan:
    """The plan that the sweep in `folder` began with, or the fastest one now: plans round differently, so a sweep that
    goes on keeps to its own. Raises UserError where it is damaged."""
    file = folder / "plan.json"
    if file.exists():
        held = read_object(file, PLAN, "remove it, and the fastest plan now is taken, which may round differently")
        plan = Plan(**{name: held[name] for name in PLAN if name in held})
        if plan.devices == len(jax.devices()):
            return plan
    plan = plan_for(group, corpus)
    write_whole(file, json.dumps(asdict(plan)).encode())
    return plan


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
