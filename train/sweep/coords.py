"""The coordinate check: how the size of every activation, and what a few steps change of it, go with width and depth.

Where a parametrisation is right, what training changes of an activation neither vanishes nor blows up as a model grows:
its slope in log-log is 0. Yang et al. 2022 (Tensor Programs V), appendix D.1. It is at one rate, that of [train],
constant from the first step on; what a grid tries of rates and schedules is left aside.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from fxformer.block import BlockModule
from fxformer.model import Params
from fxformer.ops.statistic import Whole
from train.config import Config
from train.data.corpus import Corpus, batches, validation_windows
from train.errors import UserError, user_input
from train.objectives.objective import answer
from train.step import Numbers, Recipe, State, numbers_of, start, train_step
from train.sweep.cells import Cell, Group, cells_of, groups_of
from train.verdict.stats import Slope, loglog_slope

SIZES = ("width", "depth")
ASIDE = ("lr", "schedule", "warmup", "final", "steps")  # of a sweep: the check has its own
FEWEST = 3  # sizes that a slope with an error goes through
FLAT = 0.05  # a slope within it is 0, in models as small as these


class Sizes(NamedTuple):
    """Root mean squares of a tensor: before the first step, after the last one, and of the difference of the two."""

    start: Any
    end: Any
    change: Any


class Coordinate(NamedTuple):
    """Exponents with which the sizes of one tensor go with a setting, in one arm.

    arm: the other settings that vary. tensor: the path of the module that gives it, "block" for all blocks together.
    A slope is None where the tensor is 0, as what a gate of 0 lets through.
    """

    arm: Mapping[str, Any]
    against: str
    tensor: str
    slopes: Sizes

    @property
    def flat(self) -> bool:
        """Is what training changes of it of one size at every width or depth, within FLAT?"""
        return self.slopes.change is not None and abs(self.slopes.change.slope) <= FLAT


def coordinates(config: Config, *, steps: int = 4, say: Callable[[str], None] = print) -> list[Coordinate]:
    """The exponents of every tensor in every arm of a sweep, against each of SIZES that it varies.

    Raises UserError where it varies none in FEWEST values or more, and for a corpus that does not fit.
    """
    corpus = config.corpus()
    corpus.check(config.text_length)
    cells = cells_of(_at_one_rate(config, steps), corpus)
    rows = {cell.key: cell.config.flat() for cell in cells}
    varied = [name for name in SIZES if len({row[name] for row in rows.values()}) >= FEWEST]
    if not varied:
        raise UserError(f"a slope goes through {FEWEST} sizes or more; give the grid as many widths or depths")
    swept = dict.fromkeys(name for cell in config.cells for name in cell if name not in (*ASIDE, "seed"))
    groups = groups_of(cells)
    measured: dict[str, dict[str, Sizes]] = {}
    for i, group in enumerate(groups, 1):
        shape = ", ".join(f"{name} {rows[group.cells[0].key][name]}" for name in swept)
        say(f"{i} of {len(groups)}: {shape}")
        measured |= _of_group(group, corpus, steps)
    return [
        Coordinate(arm, name, tensor, slopes)
        for name in varied
        for arm, keys in _arms(rows, [other for other in swept if other != name])
        for tensor, slopes in _slopes([(rows[key][name], measured[key]) for key in keys])
    ]


def _at_one_rate(config: Config, steps: int) -> Config:
    """The sweep with the rate of [train] from the first step on, for so many steps."""
    with user_input():
        constant = config.with_settings({"schedule": "constant", "warmup": 0, "steps": steps})
    cells = [{name: value for name, value in cell.items() if name not in ASIDE} for cell in config.cells]
    return replace(constant, cells=tuple(cells))


def _arms(rows: Mapping[str, Mapping[str, Any]], names: Sequence[str]) -> list[tuple[dict[str, Any], list[str]]]:
    """Keys of cells by the settings of their arm."""
    arms: dict[tuple[Any, ...], list[str]] = defaultdict(list)
    for key, row in rows.items():
        arms[tuple(row[name] for name in names)].append(key)
    return [(dict(zip(names, values, strict=True)), keys) for values, keys in arms.items()]


def _slopes(runs: Sequence[tuple[float, Mapping[str, Sizes]]]) -> list[tuple[str, Sizes]]:
    """The exponents of each tensor that all runs have, (size of the model, sizes of tensors) each."""

    def slope(tensor: str, which: int) -> Slope | None:
        y = [sizes[tensor][which] for _, sizes in runs]
        known = len({x for x, _ in runs}) >= FEWEST and all(0 < value < np.inf for value in y)
        return loglog_slope([x for x, _ in runs], y) if known else None

    shared = [tensor for tensor in runs[0][1] if all(tensor in sizes for _, sizes in runs)]
    return [(tensor, Sizes(*(slope(tensor, which) for which in range(3)))) for tensor in shared]


def _of_group(group: Group, corpus: Corpus, steps: int) -> dict[str, dict[str, Sizes]]:
    """Sizes of every tensor of each cell."""
    config = group.config
    rows = validation_windows(corpus.validation, length=config.text_length, count=config.data.batch)
    check = jax.jit(partial(_checked, group.recipe))

    def of_cell(cell: Cell) -> dict[str, Sizes]:
        seed, batch = cell.config.train.seed, config.data.batch
        tokens = batches(corpus.train, seed=seed, steps=range(steps), batch=batch, length=config.text_length)
        return jax.tree.map(float, check(numbers_of(cell.config), tokens, rows))

    return {cell.key: of_cell(cell) for cell in group.cells}


def _checked(recipe: Recipe, numbers: Numbers, tokens: Array, rows: Array) -> dict[str, Sizes]:
    """Sizes on `rows` before and after a step on each of `tokens` [steps, batch, row]."""

    def step(state: State, tokens: Array) -> tuple[State, None]:
        return train_step(recipe, numbers, state, tokens)[0], None

    begin = start(recipe, numbers)
    end, _ = jax.lax.scan(step, begin, tokens)
    before, after = (activations(recipe, numbers, state.params, rows) for state in (begin, end))
    return {
        tensor: Sizes(_rms(before[tensor]), _rms(after[tensor]), _rms(after[tensor] - before[tensor]))
        for tensor in before
    }


def _rms(x: Array) -> Array:
    return jnp.sqrt(jnp.mean(jnp.square(x)))


def activations(recipe: Recipe, numbers: Numbers, params: Params, rows: Array) -> dict[str, Array]:
    """What every module of the model gives for rows of text, float32, by its path; within blocks "block/…" [layers, …].

    Called within `jit`. A block hands out what its modules gave among its statistics, and so through the loop over
    layers. What several modules give, as a layer and its last matrix do, is the innermost one's.
    """
    heard: list[dict[str, Array]] = [{}]  # of the model, and within a block of that block

    def listen(call: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        module, path = context.module, context.module.path
        if context.method_name != "__call__" or path[:1] not in (("embed",), ("stack",), ("head",)):
            return call(*args, **kwargs)
        if isinstance(module, BlockModule):
            heard.append({})
            stream, side = call(*args, **kwargs)
            own = {
                f"block/{name.partition('/block_')[2].partition('/')[2]}": Whole(x) for name, x in heard.pop().items()
            }
            return stream, side._replace(stats={**side.stats, **own})
        given = call(*args, **kwargs)
        array = jax.tree.leaves(given)[0]
        if not any(array is other for other in heard[-1].values()):
            heard[-1]["/".join(path)] = array
        return given

    batch, execution = recipe.predicted(rows, jax.random.key(0)), recipe.execution
    with nn.intercept_methods(listen):
        out = answer(
            recipe.spec(numbers), params, batch, unroll=execution.unroll, remat=execution.remat,
            dtype=jnp.dtype(recipe.dtype),
        )  # fmt: skip
    within = {name: x for name, x in out.stats.items() if "block/" in name}
    around = {name.removeprefix("stack/"): x for name, x in heard[0].items() if "group_" not in name}
    return {name: x.astype(jnp.float32) for name, x in {**around, **within}.items()}


def table(told: Sequence[Coordinate]) -> str:
    """A section for each arm: a line a tensor with its three exponents and their standard errors."""
    lines = []
    for arm, against in dict.fromkeys((tuple(each.arm.items()), each.against) for each in told):
        own = [each for each in told if (tuple(each.arm.items()), each.against) == (arm, against)]
        names = " · ".join(f"{name} {value}" for name, value in arm) or "all runs"
        lines += ["", f"{names}: exponents in {against}, ± standard error"]
        lines += [f"{'tensor':40}{'at the start':>16}{'after the steps':>18}{'what they change':>19}"]
        for each in own:
            first, second, third = (_said(slope) for slope in each.slopes)
            lines += [f"{each.tensor:40}{first:>16}{second:>18}{third:>19}{'' if each.flat else '   not flat'}"]
        flat = sum(each.flat for each in own)
        lines += [f"{flat} of {len(own)} tensors are changed by as much at every {against} (exponent within {FLAT})"]
    return "\n".join(lines[1:])


def as_data(told: Sequence[Coordinate]) -> list[dict[str, Any]]:
    """What JSON can say of it."""
    return [
        {
            "arm": dict(each.arm),
            "against": each.against,
            "tensor": each.tensor,
            "flat": each.flat,
            **{
                name: None if slope is None else {"slope": slope.slope, "error": slope.error}
                for name, slope in each.slopes._asdict().items()
            },
        }
        for each in told
    ]


def _said(slope: Slope | None) -> str:
    return "0" if slope is None else f"{slope.slope:+.2f} ± {slope.error:.2f}"
