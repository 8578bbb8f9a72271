"""Runs and sweeps that are killed, each in a process of its own: `python -m tests.train.killed FOLDER`.

Processes are forked from this one, which has imported everything and started no device, so that a life costs only what
it does. One lives to its end. Then MOMENTS are killed, each at another share of the time that one takes
when its programs are compiled already; they work in one folder, one after the other, until one is done, and then in the
next. At last one is stopped at its work while another tries to do the same. What happened is printed as JSON.
"""

import json
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp

from train.config import Config
from train.errors import UserError
from train.run import layout, loop, steps
from train.step import Judgement, Metrics, State
from train.sweep import ablate as sweeps
from train.sweep import course, group, plans
from train.sweep.population import Plan
from train.verdict.question import Question

MOMENTS = 20
MODEL = {"width": 8, "heads": 1, "depth": 1}
SETTINGS = {"length": 8, "batch": 2, "validation": 2, "task": "copy", "warmup": 1}
Work = Callable[[Path], object]


def stand_in() -> None:
    """A model of 64 numbers in place of one: traced in a moment, it remembers every token that it read, to the bit."""

    def start(recipe, numbers):
        return State(jnp.zeros((), jnp.int32), {"w": jnp.full(64, numbers.lr)}, {"m": jnp.zeros(64)})

    def loss_of(params):
        return jnp.mean(params["w"])

    def train_step(recipe, numbers, state, tokens):
        m = 0.9 * state.optimizer["m"] + jnp.sin(jnp.mean(tokens, dtype=jnp.float32) * jnp.arange(64.0) + state.step)
        params = {"w": state.params["w"] + numbers.lr * m}
        layers = {"grad_norm": m[:1], "ffn_down_grad_norm": m[:1]}
        metrics = Metrics(loss_of(params), jnp.sum(m), numbers.lr, layers)
        return State(state.step + 1, params, {"m": m}), metrics

    def evaluate(recipe, numbers, params, rows, part):
        return Judgement(loss_of(params), jnp.full(len(rows), loss_of(params)), jnp.ones(len(rows)))

    steps.train_step = plans.train_step = group.train_step = train_step
    loop.evaluate = group.evaluate = evaluate
    layout.start = plans.start = group.start = start
    advance = group._advance

    def counted(crew, *arguments):
        """What is trained, each chunk a byte of a file."""
        with (crew.sweep.shelf.folder.parent / "chunks").open("ab") as file:
            file.write(b".")
        return advance(crew, *arguments)

    group._advance = counted
    sweeps.Shelf, course.SHARE = partial(course.Shelf, seconds=0.0), 0  # groups are kept after each chunk
    # Plans round differently, and timings choose them.
    plans.choose_plan = lambda *_: Plan(name="loop", reason="always", seconds=1.0, devices=len(jax.devices()))


def config(name: str, out: Path, **settings: object) -> Config:
    return Config(name=name, model=MODEL).with_settings({**SETTINGS, "out": str(out), **settings})


def train(out: Path) -> object:
    """A run that saves often: 10 checkpoints."""
    return loop.run(config("run", out, steps=40, save_every=4, log_every=1))


def sweep(out: Path) -> object:
    """Six groups of two cells."""
    structures = [{"placement": p, "steps": n} for p in ("pre", "post") for n in (2, 3, 4)]
    cells = [{**structure, "seed": seed} for structure in structures for seed in (0, 1)]
    return sweeps.ablate(replace(config("sweep", out), cells=cells))


def race(out: Path) -> object:
    """Two arms at three rates, of 10 chunks; rung by rung, and with runs that stop before the end."""
    cells = [{"placement": p, "lr": lr, "seed": seed} for p in ("pre", "post") for lr in RATES for seed in (0, 1)]
    question = Question(compare=("placement",), run="racing")
    return sweeps.ablate(replace(config("sweep", out, steps=100), cells=cells, question=question))


RATES = (1e-3, 1e-2, 1e36)  # at the last one the loss overflows after some steps


def begin(work: Work, out: Path) -> int:
    """The process that works in `out`; 2 is its exit code where the user is told something."""
    if child := os.fork():
        return child
    code = 1
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        work(out)
        code = 0
    except UserError as error:
        (out / "said").write_text(str(error))
        code = 2
    except BaseException:
        traceback.print_exc()
    os._exit(code)


def ended(child: int, seconds: float = 300) -> int | None:
    """The exit code of a process that ends by itself; None for one that has not after `seconds`, and is killed."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return None if code == -signal.SIGKILL else code


def finish(work: Work, out: Path) -> float:
    """Work to the end, and say how long it took."""
    started = time.monotonic()
    if (code := ended(begin(work, out))) != 0:
        raise SystemExit(f"a process ended with {code}")
    return time.monotonic() - started


def killed(work: Work, folder: Path) -> list[Path]:
    """The folders in which processes were killed and went on, all done now."""
    life = finish(work, folder / "timed")
    shares = [(k + 0.5) / MOMENTS for k in range(MOMENTS)]
    random.Random(0).shuffle(shares)
    folders, fresh = [folder / "killed0"], True
    while shares:
        started = time.monotonic()
        code = ended(begin(work, folders[-1]), life * shares[-1])
        if code is None:
            shares.pop()
            fresh = False
        elif code:
            raise SystemExit(f"after a kill a process ended with {code}")
        else:  # it was done before its moment came
            life = time.monotonic() - started if fresh else life
            folders.append(folder / f"killed{len(folders)}")
            fresh = True
    finish(work, folders[-1])
    return folders


def beside(work: Work, out: Path) -> dict[str, object]:
    """What a second process is told while the first is stopped at its work, which it does afterwards."""
    first = begin(work, out)
    while not any(owner.stat().st_size for owner in out.glob("*/.owner")):
        time.sleep(0.002)
    os.kill(first, signal.SIGSTOP)
    code = ended(begin(work, out))
    os.kill(first, signal.SIGCONT)
    return {"first": first, "code": code, "said": (out / "said").read_text(), "done": ended(first)}


def all_of(work: Work, folder: Path) -> dict[str, object]:
    """One that lives, those that are killed, and two at once: in which folders, and what was said."""
    finish(work, folder / "whole")
    folders = [folder / "whole", *killed(work, folder), folder / "beside"]
    return {"folders": list(map(str, folders)), **beside(work, folder / "beside")}


if __name__ == "__main__":
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    stand_in()
    print(json.dumps({work.__name__: all_of(work, Path(sys.argv[1]) / work.__name__) for work in (train, sweep, race)}))
