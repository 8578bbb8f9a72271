"""One run: data in order, steps, a log, checkpoints; interrupted at any moment it goes on where it was, bit for bit."""

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from train.config import Config
from train.data.corpus import Corpus, validation_windows
from train.errors import UserError
from train.files import alone
from train.run.checkpoint import Checkpoints, check_place
from train.run.forensics import examine, investigate
from train.run.layout import layout_of
from train.run.log import Log, claim, write_home
from train.run.longer import agreed, why_not
from train.run.processes import Asked, agree, by_first, check_shared, first_before_others, first_does, is_first, several
from train.run.progress import Progress
from train.run.provenance import source_digest, versions
from train.run.signals import stop_signals
from train.run.steps import Steps, steps_of
from train.step import Judgement, Metrics, State, evaluate, judge
from train.trackers import TRACKERS, told
from train.verdict.outcome import SUSTAINED
from train.verdict.watch import has_spiked


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """How a run stands. outcome: "finished", "interrupted" or "non-finite", which it was at `step`.

    val_loss: nats per token at the last checkpoint, on all held-out windows where the run is finished; None where there
    is none. bits_per_byte: the same of any tokens. seconds: of this session. tokens_per_second: compilation included.
    cause, case: what was found where the run broke, and the folder it is in. asked: the signal to stop, in its last
    step too; 0: none.
    """

    outcome: str
    step: int
    val_loss: float | None
    bits_per_byte: float | None
    seconds: float
    tokens_per_second: float
    cause: str = ""
    case: Path | None = None
    asked: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """What one call of `run` works with: compiled functions, data, and where things are written."""

    config: Config
    home: Path
    steps: Steps
    judge: Callable[[State, np.ndarray], float]
    watched: np.ndarray  # held-out windows for checkpoints, and for the last state
    held_out: np.ndarray
    bytes_a_token: float
    checkpoints: Checkpoints
    log: Log
    bar: Progress


def run(config: Config) -> Result:
    """Train one model as `config` says, in `out/name`; goes on from the last checkpoint where there is one.

    Of several processes each calls it, with the same configuration and its place among them. Raises UserError where the
    folder is in use, is damaged or holds another configuration, the corpus, mesh or batch does not fit, or the
    processes differ.
    """
    folder = Path(config.run.out) / config.name
    check_place(folder)
    tracker = TRACKERS[config.run.tracker if is_first() else "jsonl"](folder, config.name)
    agree({name: value for name, value in config.flat().items() if name != "distributed"})
    corpus = first_before_others(config.corpus)  # a tokenizer is learned once
    agree({"the text": corpus.sha256, "the code": source_digest(), **versions()})
    corpus.check(config.text_length)
    with layout_of(config) as layout, by_first(alone(folder)):
        check_shared(folder)
        shorter = first_does(lambda: claim(folder, config, corpus))
        steps = steps_of(config, corpus, layout)
        state = steps.start()
        keep = 1 if isinstance(config.run.keep, str) else config.run.keep
        with Checkpoints(folder / "checkpoints", keep=keep) as checkpoints:
            if shorter is not None:
                lengthen(folder, config, corpus, checkpoints, shorter)
            if checkpoints.latest() is not None:
                state = checkpoints.restore(state)
            begin = int(state.step)
            with (
                told(tracker, config.settings(), begin),
                Progress(config.name, total=config.train.steps, done=begin, quiet=not is_first()) as bar,
                stop_signals() as stopped,
            ):
                if begin:
                    bar.say(f"going on from step {begin} of {config.train.steps} in {folder}")
                look = jax.jit(partial(evaluate, steps.recipe), out_shardings=layout.told)
                watched, held_out = held_out_windows(config, corpus)

                def judged(state: State, windows: np.ndarray) -> float:
                    def look_at(rows: np.ndarray, part: int) -> Judgement:
                        placed = layout.batch(rows.shape, lambda some: rows[some.start : some.stop])
                        return look(steps.numbers, state.params, placed, part)

                    return float(judge(look_at, windows, len(watched)).loss)

                session = Session(
                    config=config,
                    home=folder,
                    steps=steps,
                    judge=judged,
                    watched=watched,
                    held_out=held_out,
                    bytes_a_token=corpus.bytes_a_token(length=config.text_length, count=len(held_out)),
                    checkpoints=checkpoints,
                    log=Log(folder / "log.jsonl", keep_until=begin, tracker=tracker),
                    bar=bar,
                )
                return train(session, state, Asked(stopped))


def lengthen(folder: Path, config: Config, corpus: Corpus, checkpoints: Checkpoints, steps: int) -> None:
    """Make a run of fewer steps this one, from the last checkpoint that this one would have too. Raises UserError where
    there is none."""
    if checkpoints.latest() is not None and not checkpoints.go_back(agreed(config, steps)):
        raise UserError(f"{folder} cannot be lengthened: {why_not(config, steps)}")
    first_does(lambda: write_home(folder / "config.json", config, corpus))


def train(session: Session, state: State, asked: Asked) -> Result:
    """Steps until the last one, a signal, or a loss that is not a number; metrics are read one step behind.

    Parameters whose validation loss is not a number are never saved. Why it is none, or spiked first, is looked into.
    """
    config, steps, log = session.config, session.config.train.steps, session.log

    def windows(step: int) -> np.ndarray:
        return session.held_out if step == steps else session.watched

    first, began = int(state.step) + 1, time.monotonic()
    pending: deque[tuple[int, Metrics]] = deque()
    losses: list[float] = []
    spiked = False
    signal = 0
    val_loss = log.val_loss(first - 1)
    if val_loss is None and first > 1:  # the log was lost, the checkpoint was not
        val_loss = session.judge(state, windows(first - 1))
        log.judge(first - 1, val_loss, len(windows(first - 1)), session.bytes_a_token)

    def result(outcome: str, step: int) -> Result:
        session.checkpoints.wait()
        seconds = time.monotonic() - began
        speed = config.tokens_a_step * (step - first + 1) / max(seconds, 1e-9)
        bits = None if val_loss is None else val_loss / math.log(2) / session.bytes_a_token
        return Result(
            outcome=outcome,
            step=step,
            val_loss=val_loss,
            bits_per_byte=bits,
            seconds=seconds,
            tokens_per_second=speed,
            asked=signal,
        )

    def broken(step: int, what: str) -> Result:
        log.write({"step": step, "event": f"non-finite {what}"})
        ended = result("non-finite", step)
        if several():
            return replace(ended, cause="why is looked into by one process: the same command without distributed")
        session.bar.say(f"the {what} of step {step} is not a number; looking for where that began")
        case, folder = investigate(session.steps, session.home, until=step)
        return replace(ended, cause=case.finding.sentence, case=folder)

    for step in range(first, steps + 1):
        state, metrics = session.steps.advance(state, session.steps.tokens(step))
        pending.append((step, metrics))
        signal = asked()
        stopping = signal > 0
        saving = step % config.run.save_every == 0 or step == steps or stopping
        while len(pending) > (0 if saving else 1):
            settled, metrics = pending.popleft()
            loss = float(metrics.loss)
            speed = config.tokens_a_step * (settled - first + 1) / (time.monotonic() - began)
            session.bar.advance(1, note=f"loss {loss:.3f}  {speed:,.0f} tokens/s")
            if not math.isfinite(loss):
                del state  # it is spoilt, and there is to be room for another
                return broken(settled, "loss")
            losses.append(loss)
            if not spiked and has_spiked(losses):
                spiked = True
                look_at_spike(session, settled - SUSTAINED + 1)
            if settled % config.run.log_every == 0 or settled in (1, steps):
                log.write({"step": settled, "tokens_per_second": speed, **readable(metrics)})
        if saving:
            watched = session.judge(state, session.watched)
            judged = session.judge(state, session.held_out) if step == steps else watched
            if not math.isfinite(
                watched + judged
            ):  # the last update spoilt the parameters: what was saved before is kept
                del state
                return broken(step, "validation loss")
            val_loss = judged
            log.judge(step, val_loss, len(windows(step)), session.bytes_a_token)
            session.checkpoints.save(step, state, val_loss=watched)  # checkpoints are compared on the same windows
        if stopping and step < steps:
            return result("interrupted", step)
    return result("finished", steps)


def held_out_windows(config: Config, corpus: Corpus) -> tuple[np.ndarray, np.ndarray]:
    """Windows of the held-out text, uint8 [W, row]: the few that are watched, and all that are judged on."""
    counts = min(config.data.watch, config.data.validation), config.data.validation
    few, every = (validation_windows(corpus.validation, length=config.text_length, count=count) for count in counts)
    return few, every


def look_at_spike(session: Session, step: int) -> None:
    """Say, and keep, what grew in the first step of a spike; of several processes none looks."""
    session.checkpoints.wait()
    session.log.write({"step": step, "event": "spike"})
    if several():
        session.bar.say(f"the loss spikes from step {step} on")
        return
    case, folder = examine(session.steps, session.home, step=step)
    session.bar.say(f"the loss spikes: {case.finding.sentence}")
    session.bar.say(f"look again: python -m train replay {folder}")


def readable(metrics: Metrics) -> dict[str, Any]:
    """Metrics as plain numbers and lists."""
    told = jax.device_get(metrics)
    layers = {name: values.tolist() for name, values in told.layers.items()}
    return {"loss": float(told.loss), "grad_norm": float(told.grad_norm), "lr": float(told.lr), "layers": layers}
