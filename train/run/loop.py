"""One run: data in order, steps, a log, checkpoints; interrupted at any moment it goes on where it was, bit for bit."""

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from train.config import Config
from train.data.corpus import Corpus, batches, load_corpus, validation_windows
from train.files import alone
from train.run.checkpoint import Checkpoints, check_place
from train.run.layout import layout_of
from train.run.log import Log, claim
from train.run.progress import Progress
from train.run.signals import stop_signals
from train.step import Metrics, State, evaluate, judge, numbers_of, recipe_of, train_step


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """How a run stands. outcome: "finished", "interrupted" or "non-finite", which it was at `step`.

    val_loss: nats per token at the last checkpoint, on all held-out windows where the run is finished; None where there
    is none. seconds: of this session.
    tokens_per_second: compilation included.
    """

    outcome: str
    step: int
    val_loss: float | None
    seconds: float
    tokens_per_second: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """What one call of `run` works with: compiled functions, data, and where things are written."""

    config: Config
    tokens: Callable[[int], jax.Array]  # of a step
    advance: Callable[[State, jax.Array], tuple[State, Metrics]]
    judge: Callable[[State, np.ndarray], float]
    watched: np.ndarray  # held-out windows for checkpoints, and for the last state
    held_out: np.ndarray
    checkpoints: Checkpoints
    log: Log
    bar: Progress


def run(config: Config) -> Result:
    """Train one model as `config` says, in `out/name`; goes on from the last checkpoint where there is one.

    Raises UserError where the folder is in use, is damaged or holds another configuration, or the corpus, mesh or batch
    does not fit.
    """
    folder = Path(config.run.out) / config.name
    check_place(folder)
    corpus = load_corpus(config.data.path, config.data.task)
    corpus.check(config.text_length)
    recipe, numbers = recipe_of(config), numbers_of(config)
    with layout_of(config) as layout, alone(folder):
        claim(folder, config, corpus)
        state = layout.start(recipe, numbers)
        with Checkpoints(folder / "checkpoints", keep=config.run.keep) as checkpoints:
            if checkpoints.latest() is not None:
                state = checkpoints.restore(state)
            begin = int(state.step)
            with Progress(config.name, total=config.train.steps, done=begin) as bar, stop_signals() as stopped:
                if begin:
                    bar.say(f"going on from step {begin} of {config.train.steps} in {folder}")
                read = partial(sequences, config, corpus)
                look = jax.jit(partial(evaluate, recipe))
                watched, held_out = held_out_windows(config, corpus)

                def judged(state: State, windows: np.ndarray) -> float:
                    told = judge(
                        lambda rows, part: look(numbers, state.params, layout.batch(rows), part), windows, len(watched)
                    )
                    return float(told.loss)

                session = Session(
                    config=config,
                    tokens=lambda step: layout.batch(read(step)),
                    advance=partial(jax.jit(partial(train_step, recipe), donate_argnums=1), numbers),
                    judge=judged,
                    watched=watched,
                    held_out=held_out,
                    checkpoints=checkpoints,
                    log=Log(folder / "log.jsonl", keep_until=begin),
                    bar=bar,
                )
                return train(session, state, stopped)


def train(session: Session, state: State, stopped: Callable[[], bool]) -> Result:
    """Steps until the last one, a signal, or a loss that is not a number; metrics are read one step behind.

    Parameters whose validation loss is not a number are never saved.
    """
    config, steps, log = session.config, session.config.train.steps, session.log

    def windows(step: int) -> np.ndarray:
        return session.held_out if step == steps else session.watched

    first, began = int(state.step) + 1, time.monotonic()
    pending: deque[tuple[int, Metrics]] = deque()
    val_loss = log.val_loss(first - 1)
    if val_loss is None and first > 1:  # the log was lost, the checkpoint was not
        val_loss = session.judge(state, windows(first - 1))
        log.judge(first - 1, val_loss, len(windows(first - 1)))

    def result(outcome: str, step: int) -> Result:
        session.checkpoints.wait()
        seconds = time.monotonic() - began
        speed = config.tokens_a_step * (step - first + 1) / max(seconds, 1e-9)
        return Result(outcome=outcome, step=step, val_loss=val_loss, seconds=seconds, tokens_per_second=speed)

    for step in range(first, steps + 1):
        state, metrics = session.advance(state, session.tokens(step))
        pending.append((step, metrics))
        stopping = stopped()
        saving = step % config.run.save_every == 0 or step == steps or stopping
        while len(pending) > (0 if saving else 1):
            settled, metrics = pending.popleft()
            loss = float(metrics.loss)
            speed = config.tokens_a_step * (settled - first + 1) / (time.monotonic() - began)
            session.bar.advance(1, note=f"loss {loss:.3f}  {speed:,.0f} tokens/s")
            if not math.isfinite(loss):
                log.write({"step": settled, "event": "non-finite loss"})
                return result("non-finite", settled)
            if settled % config.run.log_every == 0 or settled in (1, steps):
                log.write({"step": settled, "tokens_per_second": speed, **readable(metrics)})
        if saving:
            watched = session.judge(state, session.watched)
            judged = session.judge(state, session.held_out) if step == steps else watched
            if not math.isfinite(
                watched + judged
            ):  # the last update spoilt the parameters: what was saved before is kept
                log.write({"step": step, "event": "non-finite validation loss"})
                return result("non-finite", step)
            val_loss = judged
            log.judge(step, val_loss, len(windows(step)))
            session.checkpoints.save(step, state, val_loss=watched)  # checkpoints are compared on the same windows
        if stopping and step < steps:
            return result("interrupted", step)
    return result("finished", steps)


def held_out_windows(config: Config, corpus: Corpus) -> tuple[np.ndarray, np.ndarray]:
    """Windows of the held-out text, uint8 [W, row]: the few that are watched, and all that are judged on."""
    counts = min(config.data.watch, config.data.validation), config.data.validation
    few, every = (validation_windows(corpus.validation, length=config.text_length, count=count) for count in counts)
    return few, every


def sequences(config: Config, corpus: Corpus, step: int) -> np.ndarray:
    """uint8 [batch, row]: what update number `step` reads, counted from 1."""
    data, seed = config.data, config.train.seed
    return batches(corpus.train, seed=seed, steps=range(step - 1, step), batch=data.batch, length=config.text_length)[0]


def readable(metrics: Metrics) -> dict[str, Any]:
    """Metrics as plain numbers and lists."""
    told = jax.device_get(metrics)
    layers = {name: values.tolist() for name, values in told.layers.items()}
    return {"loss": float(told.loss), "grad_norm": float(told.grad_norm), "lr": float(told.lr), "layers": layers}
