"""How the groups of a sweep are computed, and how long that takes: by one step that is timed, before anything runs."""

import json
import os
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import jax
import numpy as np

from train.data.corpus import Corpus
from train.files import COUNT, NUMBER, TEXT, Kind, read_object, write_whole
from train.step import start, train_step
from train.sweep.cells import Group
from train.sweep.group import stacked, tokens_of
from train.sweep.population import PLANS, Plan, choose_plan
from train.sweep.status import compile_weight

PLAN = {"name": Kind(f"one of {', '.join(PLANS)}", lambda value: value in tuple(PLANS)), "reason": TEXT,
        "seconds": NUMBER, "devices": COUNT,
        "compilation": NUMBER._replace(optional=True)}  # fmt: skip


def groups_at_once() -> int:
    """Two on a CPU: while one compiles, which keeps one core busy, the other trains. An accelerator trains beside
    compilers on half of the cores, eight at most: each holds its group's parameters."""
    return 2 if jax.default_backend() == "cpu" else min(8, max(2, (os.cpu_count() or 1) // 2))


def weight_of(group: Group) -> float:
    """What its programs take to compile, relative to those of others."""
    return compile_weight(group.config.spec().stack.depth)


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
