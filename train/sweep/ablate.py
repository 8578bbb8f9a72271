"""Ablations: the cells of a grid, grouped by compiled program, each run once and kept as one line of results.jsonl."""

import json
import math
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import jax
import numpy as np

import fxformer as fx
from fxformer import accounting
from fxformer.model import Params
from train.config import Config
from train.config.edit import with_rates
from train.config.grid import cell_key
from train.config.values import short
from train.data.corpus import Corpus, batches, entropies, load_corpus
from train.errors import UserError, user_input
from train.files import COUNT, NUMBER, TEXT, Kind, alone, read_object, write_whole
from train.run.loop import held_out_windows
from train.run.progress import Progress, clock
from train.run.provenance import provenance, source_digest
from train.run.signals import stop_signals
from train.step import (
    Judgement,
    Metrics,
    Numbers,
    Recipe,
    evaluate,
    judge,
    numbers_of,
    recipe_of,
    start,
    train_step,
)
from train.sweep.ask import question_for
from train.sweep.kept import is_of, keep_question, named, strangers
from train.sweep.population import PLANS, Plan, choose_plan, fill, in_chunks, once
from train.sweep.results import Results
from train.verdict.extend import next_rungs, planned
from train.verdict.outcome import classify
from train.verdict.question import Question
from train.verdict.runs import packed

CHUNK = 50  # steps a dispatch, at most
DISPATCHES = 4  # in a run, at least, where it has as many steps: the first one compiles, and tells no time
LOOKS = 10  # at the layers, in a run
PLAN = {"name": Kind(f"one of {', '.join(PLANS)}", lambda value: value in tuple(PLANS)), "reason": TEXT,
        "seconds": NUMBER, "devices": COUNT}  # fmt: skip
STATE_COPIES = 4  # of the parameters: themselves, their gradients, two moments
Look = Callable[..., jax.Array]  # (recipe, numbers, params, held-out windows) -> a number of a trained model


class Interrupted(Exception):  # noqa: N818 (nothing is wrong)
    """A signal asked to stop; results of groups that were done are kept."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One run of a sweep: its resolved settings, the key under which its result is kept, and its place in the grid."""

    config: Config
    key: str
    place: int


@dataclass(frozen=True, slots=True)
class Group:
    """Cells that one compiled program serves."""

    recipe: Recipe
    cells: tuple[Cell, ...]

    @property
    def config(self) -> Config:
        """Settings that all cells of the group share, and some that they do not: use it for the shared ones."""
        return self.cells[0].config

    @property
    def work(self) -> float:
        """FLOPs of training the group, for estimates of time."""
        return len(self.cells) * self.config.train.steps * self.config.tokens_a_step * flops_per_token(self.config)


def cells_of(config: Config, corpus: Corpus) -> list[Cell]:
    """Every cell of the grid, resolved; two that say the same are one. Raises UserError for one that cannot be."""
    cells: dict[str, Cell] = {}
    for settings in config.cells:
        with user_input():
            resolved = config.with_settings(settings)
        content = {name: value for name, value in resolved.settings().items() if name != "arm"}
        key = cell_key({**content, "corpus": corpus.sha256})
        cell = cells.setdefault(key, Cell(resolved, key, len(cells)))
        if cell.config.run.arm != resolved.run.arm:
            arms = f"{cell.config.run.arm!r} and {resolved.run.arm!r}"
            raise UserError(f"arms {arms} have the same settings, {short(settings)}; let them differ, or remove one")
    return list(cells.values())


def groups_of(cells: Sequence[Cell]) -> list[Group]:
    """Cells by compiled program: those of equal recipe and number of steps."""
    groups: dict[Any, list[Cell]] = defaultdict(list)
    for cell in cells:
        groups[recipe_of(cell.config), cell.config.train.steps].append(cell)
    return [Group(recipe, tuple(members)) for (recipe, _), members in groups.items()]


def ablate(config: Config, *, beside: Mapping[str, Look] = {}) -> list[dict[str, Any]]:
    """Run every cell that has no result yet and return all results of the grid, in its order.

    beside: what else is measured of each trained model; a record holds it under the same names, in its `beside`.
    Results are written a group at a time, so an interrupted sweep loses at most the groups it was in. Raises
    UserError for a corpus that does not fit, a mesh, and a folder that holds a run, is in use, or is damaged.
    """
    folder = home_of(config)
    corpus = load_corpus(config.data.path, config.data.task)
    corpus.check(config.text_length)
    question, said = question_for(config)
    with alone(folder):
        results = Results(folder / "results.jsonl")
        grid = grown(config, question, config, corpus, results, beside)
        said += strangers(results, [cell.key for cell in grid.cells], corpus.sha256, source_digest())
        with Progress(config.name, total=0) as bar, stop_signals() as stopped:
            for line in said:
                bar.say(line)
            while True:
                for line in grid.why:
                    bar.say(line)
                arms = {cell.key: cell.config.run.arm for cell in grid.cells}
                keep_question(folder, question, arms, source_digest())
                run_missing(grid.cells, folder, corpus, results, bar, stopped, beside)
                grid = grown(grid.config, question, config, corpus, results, beside)
                if len(grid.cells) == len(arms):
                    return [named(results[key], arm) for key, arm in arms.items()]


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
    """The grid with the rungs that its question asks for, once each cell has a result; given: as it was at first."""
    why: list[str] = []
    while True:
        cells = cells_of(config, corpus)
        if question is None or not question.extend or missing_of(cells, results, beside):
            return Grid(config, cells, why)
        plan = planned([cell.config.settings() for cell in cells_of(given, corpus)], question)
        rungs = next_rungs(question, plan, [named(results[cell.key], cell.config.run.arm) for cell in cells])
        if not rungs:
            return Grid(config, cells, why)
        why += [rung.why for rung in rungs]
        config = with_rates(config, question, [(rung.place, rung.lr) for rung in rungs])


def run_missing(
    cells: Sequence[Cell],
    folder: Path,
    corpus: Corpus,
    results: Results,
    bar: Progress,
    stopped: Callable[[], bool],
    beside: Mapping[str, Look] = {},
) -> None:
    """Run the cells that have no result yet, and add theirs to `results`."""
    missing = missing_of(cells, results, beside)
    groups = groups_of(missing)
    bar.say(f"{folder.name}: {len(cells)} cells, {len(cells) - len(missing)} known, {len(missing)} to run")
    bar.expect(sum(group.work for group in groups))
    if groups:
        plan = kept_plan(folder, groups[0], corpus)
        bar.say(plan.reason)
        for records in run_groups(groups, corpus, plan, bar, stopped, beside):
            results.add(records)
        bar.say(f"compiled {len(groups)} training programs for {len(missing)} runs")


def missing_of(cells: Sequence[Cell], results: Results, beside: Mapping[str, Look] = {}) -> list[Cell]:
    """Cells that have no result by this code, or one that lacks what is measured beside."""

    def known(record: Mapping[str, Any]) -> bool:
        return is_of(record, source_digest()) and beside.keys() <= record.get("beside", {}).keys()

    return [cell for cell in cells if cell.key not in results or not known(results[cell.key])]


def home_of(config: Config) -> Path:
    """The folder of a sweep. Raises UserError where it holds a run, and for a mesh, which no sweep reads."""
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
    corpus = load_corpus(config.data.path, config.data.task)
    corpus.check(config.text_length)
    results, (question, said) = Results(folder / "results.jsonl"), question_for(config)
    _, cells, why = grown(config, question, config, corpus, results)
    groups = groups_of(missing_of(cells, results))
    swept = sorted({name for cell in config.cells for name in cell})
    lines = [f"{config.name}: {len(cells)} cells over {', '.join(swept) or 'nothing'}"]
    lines += [*said, *why]
    lines += strangers(results, [cell.key for cell in cells], corpus.sha256, source_digest())
    lines += [f"{len(cells) - sum(len(group.cells) for group in groups)} have results, {len(groups)} compilations"]
    if groups:
        plan = plan_for(groups[0], corpus)
        flops = groups[0].work / (len(groups[0].cells) * groups[0].config.train.steps)
        seconds = sum(group.work for group in groups) * plan.seconds / flops
        held = sorted(STATE_COPIES * 4 * fx.count(group.config.spec()) * len(group.cells) for group in groups)
        together = held[-groups_at_once() :]
        size = f"at most {sum(together) / 1e6:,.1f} MB for parameters, gradients and moments"
        lines += [plan.reason, f"{size}; groups at once: {len(together)}"]
        lines += [f"about {clock(seconds)} of training, and compilation besides"]
    return "\n".join(lines)


def plan_for(group: Group, corpus: Corpus) -> Plan:
    """The fastest plan for populations here, from one step of all cells of `group`."""
    numbers = _stacked(group)
    # Zeros: a step takes as long with any values, and to draw them would be one more program to compile.
    shapes = jax.eval_shape(jax.vmap(partial(start, group.recipe)), numbers)
    state = jax.device_put(jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes))
    return choose_plan(partial(train_step, group.recipe), (numbers, state, _tokens(group, corpus, range(1))[:, 0]))


def kept_plan(folder: Path, group: Group, corpus: Corpus) -> Plan:
    """The plan that the sweep in `folder` began with, or the fastest one now: plans round differently, so a sweep that
    goes on keeps to its own. Raises UserError where it is damaged."""
    file = folder / "plan.json"
    if file.exists():
        held = read_object(file, PLAN, "remove it, and the fastest plan now is taken, which may round differently")
        plan = Plan(**{name: held[name] for name in PLAN})
        if plan.devices == len(jax.devices()):
            return plan
    plan = plan_for(group, corpus)
    write_whole(file, json.dumps(asdict(plan)).encode())
    return plan


def run_groups(
    groups: Sequence[Group],
    corpus: Corpus,
    plan: Plan,
    bar: Progress,
    stopped: Callable[[], bool],
    beside: Mapping[str, Look],
) -> Iterator[list[dict[str, Any]]]:
    """The records of each group as soon as it is done, several groups at once: a short one waits for no long one."""
    turn = Lock()
    with ThreadPoolExecutor(groups_at_once()) as pool:
        running = [pool.submit(run_group, group, corpus, plan, bar, stopped, beside, turn) for group in groups]
        try:
            for done in as_completed(running):
                yield done.result()
        finally:
            for each in running:
                each.cancel()


def run_group(
    group: Group,
    corpus: Corpus,
    plan: Plan,
    bar: Progress,
    stopped: Callable[[], bool],
    beside: Mapping[str, Look],
    turn: Lock,
) -> list[dict[str, Any]]:
    """Train the cells of a group together: their records, in order. Raises Interrupted when asked to stop.

    turn: groups take it to train, one at a time, so that a step is timed without neighbours; they compile without it.
    """
    recipe, config, numbers = group.recipe, group.config, _stacked(group)
    _check(stopped, group)
    steps = config.train.steps
    watched, held_out = held_out_windows(config, corpus)
    begin = time.perf_counter()
    look = plan(partial(evaluate, recipe))
    advance = plan(in_chunks(partial(train_step, recipe)))

    def for_each(array: np.ndarray) -> np.ndarray:
        return np.broadcast_to(array, (len(fill(group.cells)), *array.shape))

    def judged(params: Params, windows: np.ndarray) -> Judgement:
        def at(rows: np.ndarray, part: int) -> Judgement:
            return look(alive, numbers, params, for_each(rows), for_each(np.array(part)))

        return judge(at, windows, len(watched))

    state, alive = once(partial(start, recipe))(numbers), np.ones(len(fill(group.cells)), bool)
    first = judged(state.params, watched)
    told: list[Metrics] = []
    durations: list[float] = []
    size = max(n for n in range(1, CHUNK + 1) if steps % n == 0 and n * DISPATCHES <= max(steps, DISPATCHES))
    for chunk in range(0, steps, size):
        _check(stopped, group)
        tokens = _tokens(group, corpus, range(chunk, chunk + size))
        with turn if told else nullcontext():
            since = time.perf_counter()
            state, metrics = advance(alive, numbers, state, tokens)
            metrics = jax.device_get(metrics)
            durations.append((time.perf_counter() - since) / (size * len(tokens)))
        told.append(_thinned(metrics, chunk, steps))
        bar.advance(group.work * size / steps, note=_note(group, metrics.loss))
    with turn:
        last = judged(state.params, held_out)
    seconds = (time.perf_counter() - begin) / len(group.cells)
    besides = {
        name: jax.device_get(plan(partial(look_beside, recipe))(alive, numbers, state.params, for_each(held_out)))
        for name, look_beside in beside.items()
    }
    curves: Metrics = jax.tree.map(lambda *chunks: np.concatenate(chunks, axis=1), *told)
    return [
        _record(cell, corpus, jax.tree.map(lambda x: x[k], (first, last, curves)), seconds, durations)  # noqa: B023
        | ({"beside": _finite({name: float(values[k]) for name, values in besides.items()})} if beside else {})
        for k, cell in enumerate(group.cells)
    ]


def _check(stopped: Callable[[], bool], group: Group) -> None:
    if stopped():
        raise Interrupted(group.config.name)


def _thinned(metrics: Metrics, begin: int, steps: int) -> Metrics:
    """Metrics [K, steps, …] from step `begin` on, counted from 0, with layers at the steps that are looked at only."""
    count = metrics.loss.shape[1]
    looked_at = {*_looks(steps), steps - 1}
    looks = [step for step in range(count) if begin + step in looked_at]
    return metrics._replace(layers={name: values[:, looks] for name, values in metrics.layers.items()})


def _looks(steps: int) -> range:
    """Steps, counted from 0, at which layers are looked at; they are at the last one too."""
    return range(0, steps, max(1, steps // LOOKS))


def _stacked(group: Group) -> Numbers:
    return jax.tree.map(lambda *values: np.stack(values), *(numbers_of(cell.config) for cell in fill(group.cells)))


def _tokens(group: Group, corpus: Corpus, steps: range) -> np.ndarray:
    """[K, steps, batch, row]: what each cell reads; cells of one seed read the same."""
    seeds = [cell.config.train.seed for cell in fill(group.cells)]
    by_seed = {
        seed: batches(
            corpus.train, seed=seed, steps=steps, batch=group.config.data.batch, length=group.config.text_length
        )
        for seed in dict.fromkeys(seeds)
    }
    return np.stack([by_seed[seed] for seed in seeds])


def _note(group: Group, losses: np.ndarray) -> str:
    """The best of the last losses, and which structure is at work."""
    now = losses[:, -1]
    best = np.min(now, initial=math.inf, where=np.isfinite(now))
    structure = " ".join(
        f"{name}={value}" for name, value in group.recipe.model if name in ("placement", "norm", "depth")
    )
    return f"{structure}  best loss {best:.3f}"


def _record(
    cell: Cell, corpus: Corpus, told: tuple[Judgement, Judgement, Metrics], seconds: float, durations: Sequence[float]
) -> dict[str, Any]:
    (first, last, curves), looks = told, _looks(cell.config.train.steps)
    config, known, losses = cell.config, entropies(corpus), np.asarray(curves.loss)
    tokens = config.train.steps * config.tokens_a_step
    stats_init, stats_final = ({name: values[step] for name, values in curves.layers.items()} for step in (0, -1))
    tail = losses[-max(1, len(losses) // 10) :]
    outcome = classify(losses, initial_loss=float(losses[0]), unigram_entropy=known.unigram_entropy)
    return _finite(
        {
            "key": cell.key,
            "place": cell.place,
            "args": config.settings(),
            "outcome": outcome.name,
            "outcome_step": outcome.step,
            "initial_loss": first.loss,
            "final_loss": np.mean(tail),
            "val_loss": last.loss,
            "val_bits_per_byte": last.loss / math.log(2),
            "windows": packed(np.asarray(last.windows)),
            "loss": losses,
            "loss_every": 1,
            "grad_norm_curve": curves.grad_norm,
            "grad_norm": stats_init["grad_norm"],
            "last_ffn_grad_norm": stats_init["ffn_down_grad_norm"][-1],
            "stats_init": stats_init,
            "stats_final": stats_final,
            "stats_every": looks.step,
            "stats_curve": {name: values[: len(looks)] for name, values in curves.layers.items()},
            "params": fx.count(config.spec()),
            "tokens": tokens,
            "flops": tokens * flops_per_token(config),
            "seconds": seconds,
            "seconds_a_step": min(durations[1:], default=None),
            "corpus": {"name": corpus.name, "sha256": corpus.sha256, "bytes": corpus.bytes, **asdict(known)},
            "provenance": provenance(),
        }
    )


def flops_per_token(config: Config) -> float:
    """FLOPs of training on one token."""
    return 3 * accounting.flops(config.spec(), config.data.length)


def _finite(value: Any) -> Any:
    """Arrays as lists of 6 significant digits, non-finite numbers as null: what JSON can say."""
    match value:
        case dict():
            return {key: _finite(each) for key, each in value.items()}
        case np.ndarray() | jax.Array() | list() if np.ndim(value):
            return [_finite(each) for each in np.asarray(value).tolist()]
        case float() | np.floating() | np.ndarray() | jax.Array():
            return float(f"{float(value):.6g}") if math.isfinite(value) else None
    return value
