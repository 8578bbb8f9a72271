"""A group of cells at work: they train together in one program; and what is recorded of each."""

import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from threading import Lock
from typing import Any, NamedTuple

import jax
import numpy as np

import fxformer as fx
from fxformer import accounting
from fxformer.model import Params
from train.data.corpus import Corpus, Entropies, batches
from train.run.loop import held_out_windows
from train.run.progress import Progress
from train.run.provenance import provenance
from train.run.signals import Interrupted, exit_code
from train.step import Judgement, Metrics, Numbers, Recipe, State, evaluate, judge, numbers_of, start, train_step
from train.sweep.best import Best
from train.sweep.cells import Group, flops_per_token
from train.sweep.course import Course, End, Shelf, Told
from train.sweep.population import Plan, Population, Replica, in_chunks, once
from train.sweep.status import Status
from train.verdict.outcome import Outcome, classify
from train.verdict.question import Question
from train.verdict.race import Stop, to_stop
from train.verdict.runs import packed

CHUNK = 50  # steps a dispatch, at most
LOOKS = 10  # at the layers, in a run; a dispatch ends at each, and the first one compiles, and tells no time
Look = Callable[..., jax.Array]  # (recipe, numbers, params, held-out windows) -> a number of a trained model


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """What all groups share. nats: of each byte, by its frequency. beside: what else is measured of each trained model.

    turn: groups take it to train, one at a time, so that a step is timed without neighbours; they compile without it.
    shelf: where groups at work are kept. status: is told how they get on. best: keeps parameters, where that is asked.
    """

    corpus: Corpus
    entropies: Entropies
    nats: np.ndarray
    question: Question | None
    plan: Plan
    bar: Progress
    stopped: Callable[[], int]
    beside: Mapping[str, Look]
    turn: Lock
    shelf: Shelf
    status: Status
    best: Best | None

    def check(self, group: Group) -> None:
        """Raise Interrupted when asked to stop."""
        if number := self.stopped():
            raise Interrupted(group.config.name, exit_code(number))


class Programs(NamedTuple):
    """Compiled functions of a structure: they serve all rungs of a race.

    They begin a run, advance it by a chunk of steps, look at its layers, and evaluate it.
    """

    begin: Replica
    advance: Population
    inspect: Population
    evaluate: Population


@lru_cache(maxsize=256)
def programs_of(recipe: Recipe, plan: Plan) -> Programs:
    """What is asked of layers costs a third of a small step, so that the steps between looks do not compute it."""

    def step(numbers: Numbers, state: State, tokens: jax.Array) -> tuple[State, Metrics]:
        state, metrics = train_step(recipe, numbers, state, tokens)
        return state, metrics._replace(layers={})

    def layers(numbers: Numbers, state: State, tokens: jax.Array) -> dict[str, jax.Array]:
        return train_step(recipe, numbers, state, tokens)[1].layers

    return Programs(once(partial(start, recipe)), plan(in_chunks(step)), plan(layers), plan(partial(evaluate, recipe)))


@dataclass(frozen=True, slots=True)
class Crew:
    """The cells of a group at work: what is computed of all of them at once, [K, …]; `which` says of whom, bool [K]."""

    group: Group
    sweep: Sweep
    programs: Programs
    numbers: Numbers
    watched: np.ndarray
    held_out: np.ndarray

    def for_each(self, array: np.ndarray) -> np.ndarray:
        """The same for all."""
        return np.broadcast_to(array, (len(self.group.crew), *array.shape))

    def inspect(self, which: np.ndarray, state: State) -> dict[str, np.ndarray]:
        """What each layer does in the step that is next; the state stays."""
        step = int(np.max(np.asarray(state.step)[which]))
        tokens = tokens_of(self.group, self.sweep.corpus, range(step, step + 1))[:, 0]
        return jax.device_get(self.programs.inspect(which, self.numbers, state, tokens))

    def judge(self, which: np.ndarray, params: Params, windows: np.ndarray) -> Judgement:
        """The loss on windows of held-out text."""

        def at(rows: np.ndarray, part: int) -> Judgement:
            of_all = self.for_each(rows), self.for_each(np.array(part))
            return self.programs.evaluate(which, self.numbers, params, *of_all)

        return judge(at, windows, len(self.watched))

    def measure(self, which: np.ndarray, params: Params) -> dict[str, np.ndarray]:
        """What a sweep measures beside."""
        rows = self.for_each(self.held_out)
        return {
            name: jax.device_get(self.sweep.plan(partial(look, self.group.recipe))(which, self.numbers, params, rows))
            for name, look in self.sweep.beside.items()
        }


def run_group(group: Group, sweep: Sweep) -> list[dict[str, Any]]:
    """Train the cells of a group together: their records, in order. Raises Interrupted when asked to stop.

    It goes on from where the shelf has it, which is given what it came to every now and then, and when it stops.
    """
    sweep.check(group)
    began, name, steps = time.perf_counter(), name_of(group, sweep), group.config.train.steps
    windows = held_out_windows(group.config, sweep.corpus)
    crew = Crew(group, sweep, programs_of(group.recipe, sweep.plan), stacked(group), *windows)
    course, pace = _begun(crew, name), sweep.shelf.pace()
    earlier, (size, _) = course.seconds, _pace(steps)
    turn: AbstractContextManager = nullcontext()  # the first dispatch compiles
    for step in range(course.step + size, steps + 1, size):
        _train(crew, course, step, turn, name)
        turn = sweep.turn
        course.seconds = earlier + time.perf_counter() - began
        if not course.alive.any():
            break
        if pace.is_due or sweep.stopped():
            with pace:
                sweep.shelf.put(name, course)
        sweep.check(group)
    if sweep.best is not None:
        _keep_best(crew, course, sweep.best)
    a_step = min(course.told.durations[1:], default=None)
    times = _finite({"seconds": course.seconds / len(group.cells), "seconds_a_step": a_step})
    return [_record(crew, k, course) | times for k in range(len(group.cells))]


def name_of(group: Group, sweep: Sweep) -> str:
    """16 hexadecimal digits that stand for all that decides the bits of a group: cells and text, code and packages, the
    plan, the question that stops runs, and what is measured beside."""
    origin = {name: value for name, value in provenance().items() if name != "git"}  # its source has a digest
    said = {
        "cells": [(cell.key, cell.config.run.arm) for cell in group.cells],
        "size": group.size,
        "origin": origin,
        "plan": (sweep.plan.name, sweep.plan.devices),
        "question": None if sweep.question is None else asdict(sweep.question),
        "beside": sorted(sweep.beside),
    }
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]


def _begun(crew: Crew, name: str) -> Course:
    """A group before its first step, or where the shelf has it."""
    group, sweep = crew.group, crew.sweep
    kept = sweep.shelf.take(name, jax.eval_shape(crew.programs.begin, crew.numbers))
    living = len(group.cells) if kept is None else int(kept.alive.sum())
    sweep.status.begins(name, 0 if kept is None else kept.step, living)
    if kept is not None:
        steps = group.config.train.steps
        sweep.bar.say(f"{len(group.cells)} runs go on from step {kept.step} of {steps}")
        sweep.bar.advance(group.work - living * group.work_of_one * (steps - kept.step) / steps)
        return kept
    alive, state = np.arange(len(group.crew)) < len(group.cells), crew.programs.begin(crew.numbers)
    sweep.check(group)  # each of these compiles, and there is nothing to keep
    first = crew.judge(alive, state.params, crew.watched)
    sweep.check(group)
    layers = crew.inspect(alive, state)
    sweep.check(group)
    return Course(0, alive, state, first, Told(layers={0: layers}))


def _train(crew: Crew, course: Course, step: int, turn: AbstractContextManager, name: str) -> None:
    """Train those that are alive until `step`, look at them, and let those leave whose end it is."""
    group, sweep, told = crew.group, crew.sweep, course.told
    steps, (_, every) = group.config.train.steps, _pace(group.config.train.steps)
    tokens = tokens_of(group, sweep.corpus, range(course.step, step))
    with turn:
        course.state = _advance(crew, course, tokens)
    leaving = _leaving(group, sweep.question, course.alive, told)
    stopped = {k: stop.outcome for k, stop in leaving.items() if stop is not None}
    took = told.durations[-1] * tokens.shape[1] * int(course.alive.sum())
    sweep.status.trained(name, step, course.alive, np.asarray(told.metrics[-1].loss), stopped, took)
    if leaving or step % every == 0:
        told.layers[step] = crew.inspect(course.alive, course.state)
    if leaving:
        which = np.isin(np.arange(len(course.alive)), list(leaving))
        params = course.state.params
        with sweep.turn:
            last, beside = crew.judge(which, params, crew.held_out), crew.measure(which, params)
        for k, stop in leaving.items():
            own = {name: float(values[k]) for name, values in beside.items()}
            course.ends[k] = End(step, stop, jax.tree.map(lambda x: x[k], last), own)  # noqa: B023
            sweep.bar.advance(group.work_of_one * (steps - step) / steps)
        course.alive = course.alive & ~which
    course.step = step


def _pace(steps: int) -> tuple[int, int]:
    """Steps a dispatch, of which a run is a whole number, and from one look at the layers to the next."""
    size = max(n for n in range(1, CHUNK + 1) if steps % n == 0 and n * LOOKS <= max(steps, LOOKS))
    return size, size * max(1, steps // size // LOOKS)


def _keep_best(crew: Crew, course: Course, best: Best) -> None:
    """Offer the parameters of the runs that came to their last step."""
    cells, corpus = crew.group.cells, crew.sweep.corpus
    losses = {cells[k].key: float(end.judgement.loss) for k, end in course.ends.items() if end.stop is None}
    chosen = set(best.better(losses))
    for k, cell in enumerate(cells):
        if cell.key in chosen:
            state = jax.device_get(jax.tree.map(lambda x: x[k], course.state))  # noqa: B023
            best.keep(cell.config, cell.key, corpus, state, losses[cell.key])


def _advance(crew: Crew, course: Course, tokens: np.ndarray) -> State:
    """Train those that are alive on tokens [K, steps, batch, row]."""
    group, sweep, told, alive, steps = crew.group, crew.sweep, course.told, course.alive, tokens.shape[1]
    since = time.perf_counter()
    state, metrics = crew.programs.advance(alive, crew.numbers, course.state, tokens)
    metrics = jax.device_get(metrics)
    told.durations.append((time.perf_counter() - since) / (steps * int(alive.sum())))
    told.metrics.append(metrics)
    told.unigram.append(np.mean(_unigram(group, sweep, tokens), axis=-1))
    work = group.work_of_one * steps / group.config.train.steps
    sweep.bar.advance(work * int(alive.sum()), note=_note(group, metrics.loss[alive]))
    return state


def _leaving(group: Group, question: Question | None, alive: np.ndarray, told: Told) -> dict[int, Stop | None]:
    """The runs that end here: all that are alive after the last step, and before it those that the question stops."""
    living = np.flatnonzero(alive).tolist()
    losses_KT = told.losses[living]
    if losses_KT.shape[1] == group.config.train.steps:
        return dict.fromkeys(living)
    if question is None:
        return {}
    cells = [group.cells[k].config.settings() for k in living]
    stops = to_stop(cells, losses_KT, told.unigram_losses[living], question)
    return {living[i]: stop for i, stop in stops.items()}


def _unigram(group: Group, sweep: Sweep, rows: np.ndarray) -> np.ndarray:
    """The loss of byte frequencies on rows [..., row], or on average where not all of them is predicted: [...]."""
    if group.recipe.objective == "causal":
        return np.mean(sweep.nats[rows[..., 1:]], axis=-1)
    return np.full(rows.shape[:-1], sweep.entropies.unigram_entropy)


def stacked(group: Group) -> Numbers:
    """The traced settings of each cell, [K]."""
    return jax.tree.map(lambda *values: np.stack(values), *(numbers_of(cell.config) for cell in group.crew))


def tokens_of(group: Group, corpus: Corpus, steps: range) -> np.ndarray:
    """[K, steps, batch, row]: what each cell reads; cells of one seed read the same."""
    seeds = [cell.config.train.seed for cell in group.crew]
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


def _record(crew: Crew, k: int, course: Course) -> dict[str, Any]:
    cell, sweep, corpus = crew.group.cells[k], crew.sweep, crew.sweep.corpus
    first, told, end, last = course.first, course.told, course.ends[k], course.ends[k].judgement
    config, (_, every) = cell.config, _pace(cell.config.train.steps)
    width = corpus.bytes_a_token(length=config.text_length, count=len(crew.held_out))
    losses, tokens = told.losses[k, : end.step], end.step * config.tokens_a_step
    grad_norms = np.concatenate([each.grad_norm for each in told.metrics], axis=1)[k, : end.step]
    looks = {step: jax.tree.map(lambda x: x[k], layers) for step, layers in told.layers.items() if step <= end.step}
    evenly = [layers for step, layers in looks.items() if step % every == 0]
    counted = last.weights > 0  # a window in which nothing is predicted says nothing
    outcome = classify(
        losses,
        windows=last.windows[counted],
        unigram=told.unigram_losses[k, : end.step],
        unigram_windows=_unigram(crew.group, sweep, crew.held_out)[counted],
        initial=first.windows[k][first.weights[k] > 0],
    )
    if end.stop is not None and end.stop.outcome:
        outcome = Outcome(end.stop.outcome, end.step)
    return _finite(
        {
            "key": cell.key,
            "place": cell.place,
            "args": config.settings(),
            "outcome": outcome.name,
            "outcome_step": outcome.step,
            "stopped": None if end.stop is None else end.step,
            "behind": None if end.stop is None else end.stop.behind,
            "initial_loss": first.loss[k],
            "final_loss": np.mean(losses[-max(1, len(losses) // 10) :]),
            "val_loss": last.loss,
            "val_bits_per_byte": last.loss / math.log(2) / width,
            "windows": packed(np.asarray(last.windows)),
            "loss": losses,
            "loss_every": 1,
            "grad_norm_curve": grad_norms,
            "grad_norm": looks[0]["grad_norm"],
            "last_ffn_grad_norm": looks[0]["ffn_down_grad_norm"][-1],
            "stats_init": looks[0],
            "stats_final": looks[end.step],
            "stats_every": every,
            "stats_curve": {name: [layers[name] for layers in evenly] for name in looks[0]},
            "params": fx.count(config.spec()),
            "cache_bytes": accounting.cache_bytes(config.spec()),
            "tokens": tokens,
            "flops": tokens * flops_per_token(config),
            "corpus": {"name": corpus.name, "sha256": corpus.sha256, "bytes": corpus.bytes, "bytes_a_token": width}
            | asdict(sweep.entropies),
            "provenance": provenance(),
        }
        | ({"beside": end.beside} if sweep.beside else {})
    )


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
