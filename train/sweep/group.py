"""A group of cells: those of one structure, which train together in one program, and what is recorded of each."""

import math
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from threading import Lock
from typing import Any, NamedTuple

import jax
import numpy as np

import fxformer as fx
from fxformer import accounting
from fxformer.model import Params
from train.config import Config
from train.data.corpus import Corpus, Entropies, batches
from train.run.loop import held_out_windows
from train.run.progress import Progress
from train.run.provenance import provenance
from train.step import Judgement, Metrics, Numbers, Recipe, evaluate, judge, numbers_of, start, train_step
from train.sweep.population import Plan, Population, Replica, fill, in_chunks, once
from train.verdict.outcome import Outcome, classify
from train.verdict.question import Question
from train.verdict.race import Stop, to_stop
from train.verdict.runs import packed

CHUNK = 50  # steps a dispatch, at most
DISPATCHES = 4  # in a run, at least, where it has as many steps: the first one compiles, and tells no time
LOOKS = 10  # at the layers, in a run
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
    """Cells that one compiled program serves. size: how many it takes; it may serve other groups too."""

    recipe: Recipe
    cells: tuple[Cell, ...]
    size: int

    @property
    def config(self) -> Config:
        """Settings that all cells of the group share, and some that they do not: use it for the shared ones."""
        return self.cells[0].config

    @property
    def crew(self) -> list[Cell]:
        """The cells, the last one repeated until they are as many as the program takes."""
        return fill([*self.cells, *[self.cells[-1]] * (self.size - len(self.cells))])

    @property
    def work(self) -> float:
        """FLOPs of training the group, for estimates of time."""
        return len(self.cells) * self.work_of_one

    @property
    def work_of_one(self) -> float:
        """FLOPs of training one of them."""
        return self.config.train.steps * self.config.tokens_a_step * flops_per_token(self.config)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """What all groups share. nats: of each byte, by its frequency. beside: what else is measured of each trained model.

    turn: groups take it to train, one at a time, so that a step is timed without neighbours; they compile without it.
    """

    corpus: Corpus
    entropies: Entropies
    nats: np.ndarray
    question: Question | None
    plan: Plan
    bar: Progress
    stopped: Callable[[], bool]
    beside: Mapping[str, Look]
    turn: Lock

    def check(self, group: Group) -> None:
        """Raise Interrupted when asked to stop."""
        if self.stopped():
            raise Interrupted(group.config.name)


class Programs(NamedTuple):
    """Compiled functions of a structure: they serve all rungs of a race."""

    begin: Replica
    advance: Population
    look: Population


@lru_cache(maxsize=256)
def programs_of(recipe: Recipe, plan: Plan) -> Programs:
    """Begin a run, advance it by a chunk of steps, and evaluate it."""
    advance = in_chunks(partial(train_step, recipe))
    return Programs(once(partial(start, recipe)), plan(advance), plan(partial(evaluate, recipe)))


class End(NamedTuple):
    """The end of a run. step: its last. stop: why there, None where it is whole. beside: what else was measured."""

    step: int
    stop: Stop | None
    judgement: Judgement
    beside: dict[str, float]


def run_group(group: Group, sweep: Sweep) -> list[dict[str, Any]]:
    """Train the cells of a group together: their records, in order. Raises Interrupted when asked to stop."""
    recipe, steps, count = group.recipe, group.config.train.steps, len(group.crew)
    sweep.check(group)
    watched, held_out = held_out_windows(group.config, sweep.corpus)
    programs, numbers = programs_of(recipe, sweep.plan), stacked(group)
    begin = time.perf_counter()

    def for_each(array: np.ndarray) -> np.ndarray:
        return np.broadcast_to(array, (count, *array.shape))

    def judged(which: np.ndarray, params: Params, windows: np.ndarray) -> Judgement:
        def at(rows: np.ndarray, part: int) -> Judgement:
            return programs.look(which, numbers, params, for_each(rows), for_each(np.array(part)))

        return judge(at, windows, len(watched))

    def measured(which: np.ndarray, params: Params) -> tuple[Judgement, dict[str, np.ndarray]]:
        beside = {
            name: jax.device_get(sweep.plan(partial(look, recipe))(which, numbers, params, for_each(held_out)))
            for name, look in sweep.beside.items()
        }
        return judged(which, params, held_out), beside

    alive, state = np.arange(count) < len(group.cells), programs.begin(numbers)
    first = judged(alive, state.params, watched)
    told: list[Metrics] = []
    unigram: list[np.ndarray] = []
    durations: list[float] = []
    ends: dict[int, End] = {}
    size = max(n for n in range(1, CHUNK + 1) if steps % n == 0 and n * DISPATCHES <= max(steps, DISPATCHES))
    for step in range(size, steps + 1, size):
        sweep.check(group)
        tokens = tokens_of(group, sweep.corpus, range(step - size, step))
        with sweep.turn if told else nullcontext():
            since = time.perf_counter()
            state, metrics = programs.advance(alive, numbers, state, tokens)
            metrics = jax.device_get(metrics)
            durations.append((time.perf_counter() - since) / (size * int(alive.sum())))
        told.append(_thinned(metrics, step - size, steps))
        unigram.append(np.mean(_unigram(group, sweep, tokens), axis=-1))
        sweep.bar.advance(group.work_of_one * size / steps * int(alive.sum()), note=_note(group, metrics.loss[alive]))
        leaving = _leaving(group, sweep.question, alive, told, unigram)
        if leaving:
            which = np.isin(np.arange(count), list(leaving))
            with sweep.turn:
                last, beside = measured(which, state.params)
            for k, stop in leaving.items():
                own = {name: float(values[k]) for name, values in beside.items()}
                ends[k] = End(step, stop, jax.tree.map(lambda x: x[k], last), own)  # noqa: B023
                sweep.bar.advance(group.work_of_one * (steps - step) / steps)
            alive = alive & ~which
        if not alive.any():
            break
    seconds = (time.perf_counter() - begin) / len(group.cells)
    curves: Metrics = jax.tree.map(lambda *chunks: np.concatenate(chunks, axis=1), *told)
    known = np.concatenate(unigram, axis=1), for_each(_unigram(group, sweep, held_out))
    times = {"seconds": seconds, "seconds_a_step": min(durations[1:], default=None)}
    return [
        _record(cell, sweep, jax.tree.map(lambda x: x[k], (first, curves, *known)), ends[k]) | _finite(times)  # noqa: B023
        for k, cell in enumerate(group.cells)
    ]


def _leaving(
    group: Group, question: Question | None, alive: np.ndarray, told: list[Metrics], unigram: list[np.ndarray]
) -> dict[int, Stop | None]:
    """The runs that end here: all that are alive after the last step, and before it those that the question stops."""
    living = np.flatnonzero(alive).tolist()
    losses_KT, unigram_KT = (np.concatenate(e, axis=1)[living] for e in ([each.loss for each in told], unigram))
    if losses_KT.shape[1] == group.config.train.steps:
        return dict.fromkeys(living)
    if question is None:
        return {}
    stops = to_stop([group.cells[k].config.settings() for k in living], losses_KT, unigram_KT, question)
    return {living[i]: stop for i, stop in stops.items()}


def _unigram(group: Group, sweep: Sweep, rows: np.ndarray) -> np.ndarray:
    """The loss of byte frequencies on rows [..., row], or on average where not all of them is predicted: [...]."""
    if group.recipe.objective == "causal":
        return np.mean(sweep.nats[rows[..., 1:]], axis=-1)
    return np.full(rows.shape[:-1], sweep.entropies.unigram_entropy)


def _thinned(metrics: Metrics, begin: int, steps: int) -> Metrics:
    """Metrics [K, steps, …] from step `begin` on, counted from 0, with layers at the steps that are looked at only."""
    looks = [step - begin for step in _looks(steps) if begin <= step < begin + metrics.loss.shape[1]]
    return metrics._replace(layers={name: values[:, looks] for name, values in metrics.layers.items()})


def _looks(steps: int) -> list[int]:
    """Steps, counted from 0, at which layers are looked at: evenly spaced ones, and the last."""
    return sorted({*range(0, steps, _every(steps)), steps - 1})


def _every(steps: int) -> int:
    return max(1, steps // LOOKS)


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


def _record(
    cell: Cell, sweep: Sweep, told: tuple[Judgement, Metrics, np.ndarray, np.ndarray], end: End
) -> dict[str, Any]:
    (first, curves, unigram_T, unigram_W), last, corpus = told, end.judgement, sweep.corpus
    config, steps = cell.config, cell.config.train.steps
    losses, tokens = np.asarray(curves.loss)[: end.step], end.step * config.tokens_a_step
    looks = [step for step in _looks(steps) if step < end.step]
    layers = {name: values[: len(looks)] for name, values in curves.layers.items()}
    stats_init, stats_final = ({name: values[look] for name, values in layers.items()} for look in (0, -1))
    evenly = sum(step % _every(steps) == 0 for step in looks)
    counted = last.weights > 0  # a window in which nothing is predicted says nothing
    outcome = classify(
        losses,
        windows=last.windows[counted],
        unigram=unigram_T[: end.step],
        unigram_windows=unigram_W[counted],
        initial=first.windows[first.weights > 0],
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
            "initial_loss": first.loss,
            "final_loss": np.mean(losses[-max(1, len(losses) // 10) :]),
            "val_loss": last.loss,
            "val_bits_per_byte": last.loss / math.log(2),
            "windows": packed(np.asarray(last.windows)),
            "loss": losses,
            "loss_every": 1,
            "grad_norm_curve": curves.grad_norm[: end.step],
            "grad_norm": stats_init["grad_norm"],
            "last_ffn_grad_norm": stats_init["ffn_down_grad_norm"][-1],
            "stats_init": stats_init,
            "stats_final": stats_final,
            "stats_every": _every(steps),
            "stats_curve": {name: values[:evenly] for name, values in layers.items()},
            "params": fx.count(config.spec()),
            "tokens": tokens,
            "flops": tokens * flops_per_token(config),
            "corpus": {"name": corpus.name, "sha256": corpus.sha256, "bytes": corpus.bytes, **asdict(sweep.entropies)},
            "provenance": provenance(),
        }
        | ({"beside": end.beside} if sweep.beside else {})
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
