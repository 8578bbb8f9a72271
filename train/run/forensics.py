"""What broke a run: a step is recomputed with every array in it looked at, and the first that is to blame is named.

Nothing is kept for this while a run goes on. The state before a step is recomputed, bit for bit, from the last
checkpoint before it: what a step reads and draws follows from the seed and its number. What was found is a folder that
`python -m train replay` runs again.
"""

import io
import json
import math
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fxformer.layers.context import Execution
from fxformer.table import columns
from train.config import Config
from train.errors import UserError
from train.files import COUNT, Kind, damaged, make_folder, read_object, write_whole
from train.run.checkpoint import restore_at_most
from train.run.layout import layout_of
from train.run.log import read_settings, write_home
from train.run.steps import Steps, steps_of
from train.run.taps import Tap, Taps, Value, leaves
from train.step import NEUTRAL, Numbers, Recipe, State, numbers_of, recipe_of, start, train_step

FOLDER = "forensics"  # in the home of a run or sweep
REMEDY = "remove the folder; the run that left it makes it again"
MOST = 5  # rows that are named where arrays grew


class Row(NamedTuple):
    """A tensor of a step. rms, largest: of its finite entries; broken: share of the others; before: the RMS that it
    had in the step before, None where it had none."""

    phase: str
    layer: int | None
    module: str
    tensor: str
    op: str
    place: str
    rms: float
    largest: float
    broken: float
    before: float | None

    @property
    def name(self) -> tuple:
        """What it is told apart by."""
        return self.phase, self.layer, self.module, self.tensor

    @property
    def growth(self) -> float:
        """How many times as large as in the step before; 0 where that cannot be said."""
        return self.rms / self.before if self.before else 0.0


class Finding(NamedTuple):
    """Which array is to blame for a step, by name and in a sentence. kind: "non-finite", where it is the first that is
    not finite, or "growth", where it grew most in the forward pass."""

    kind: str
    step: int
    phase: str
    layer: int | None
    module: str
    tensor: str
    op: str
    place: str
    sentence: str

    @property
    def name(self) -> tuple:
        """What makes two findings the same; lines of source move."""
        return self[:-2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A step that was looked at. arrays: the state before it and its tokens, by path."""

    arrays: Mapping[str, np.ndarray]
    rows: Sequence[Row]
    finding: Finding

    def table(self) -> str:
        """Every tensor of the forward pass, the backward pass and the update, in the order in which they came, and what
        is not finite besides."""
        shown = [row for row in self.rows if row.phase not in ("", "state") or row.broken]
        head = ("phase", "layer", "module", "tensor", "RMS", "largest", "not finite", "times before")
        return columns([head, *map(_cells, shown)])


def investigate(steps: Steps, home: Path, *, until: int, name: str = "") -> tuple[Case, Path]:
    """The first step up to `until` that left something that is not finite, else that step, as a case in a folder.

    home: of the run, or of the sweep in which the run is called `name`.
    """
    state = _state(steps, home, max(0, until - 3))  # so that there is a step before, to compare with
    for step in range(int(state.step) + 1, until + 1):
        state, metrics = steps.advance(state, steps.tokens(step))
        if not (math.isfinite(metrics.loss) and _is_finite(state)):
            return examine(steps, home, step=step, name=name)
    return examine(steps, home, step=until, name=name)


def examine(steps: Steps, home: Path, *, step: int, name: str = "") -> tuple[Case, Path]:
    """A step and the one before it, looked at: the case and the folder that it is in."""
    state, before = _state(steps, home, max(0, step - 2)), {}
    taps = _taps(steps.recipe, steps.numbers, state, steps.tokens(step))
    if step > 1:
        before = {row.name: row.rms for row in rows_of(taps(state, steps.tokens(step - 1))[1], {})}
        state, _ = steps.advance(state, steps.tokens(step - 1))
    case = _case(taps, state, steps.tokens(step), before)
    folder = home / FOLDER / name / f"step_{step}"
    make_folder(folder)
    _write(folder, case, steps)
    return case, folder


def examine_again(folder: Path) -> tuple[Case, Finding]:
    """The case that a folder holds, looked at again, and what was found then. Raises UserError where it holds none."""
    held = read_object(folder / "found.json", FOUND, REMEDY)
    table = [Row(**row) for row in held["table"]]
    config = Config(name=folder.name).with_settings(read_settings(folder))
    recipe, numbers = recipe_of(config), numbers_of(config)
    state, tokens = _read_arrays(folder / "arrays.npz", recipe, numbers)
    before = {row.name: row.before for row in table if row.before is not None}
    return _case(_taps(recipe, numbers, state, tokens), state, tokens, before), Finding(**held["finding"])


def examine_cell(folder: Path, record: Mapping[str, Any]) -> tuple[Case, Path]:
    """A run of a sweep, made again up to the step of its outcome or the first that is not finite, looked at there.

    record: its line of results.jsonl. Raises UserError where its text is not there any more.
    """
    config = Config(name=folder.name).with_settings({**record["args"], "out": str(folder.parent)})
    corpus = config.corpus()
    if corpus.sha256 != record["corpus"]["sha256"]:
        raise UserError(f"{record['key']} was trained on another text than {corpus.name} is now; bring that one back")
    with layout_of(config) as layout:
        steps = steps_of(config, corpus, layout)
        return investigate(steps, folder, until=record["outcome_step"], name=record["key"])


def runs_around(folder: Path) -> Path:
    """The folder of runs that the case, run or sweep in `folder` is one of."""
    homes = [place.parent for place in folder.absolute().parents if place.name == FOLDER]
    return (homes or [folder.absolute()])[0].parent


def rows_of(taps: Sequence[Tap], before: Mapping[tuple, float]) -> list[Row]:
    """A row for each tensor: what the last operation of its statement gave."""
    rows: dict[tuple, Row] = {}
    for tap in taps:
        label, sizes = tap.label, tap.sizes
        name = label.phase, tap.layer, label.module, label.tensor
        broken = max(sizes.broken, rows[name].broken if name in rows else 0.0)
        rows[name] = Row(*name, label.op, label.place, sizes.rms, sizes.largest, broken, before.get(name))
    return list(rows.values())


def _state(steps: Steps, home: Path, count: int) -> State:
    """The state after `count` updates, from the last checkpoint before, or from the start."""
    fresh = steps.start()
    state = restore_at_most(home / "checkpoints", count, fresh) or fresh
    for step in range(int(state.step) + 1, count + 1):
        state, _ = steps.advance(state, steps.tokens(step))
    return state


@jax.jit
def _is_finite(state: State) -> jax.Array:
    floating = [leaf for leaf in jax.tree.leaves(state) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in floating]))


def _taps(recipe: Recipe, numbers: Numbers, state: State, tokens: jax.Array) -> Callable[..., tuple[Any, list[Tap]]]:
    """A step with taps. Loops over layers are gone through, so nothing is unrolled and nothing computed twice."""
    plain = replace(recipe, execution=Execution())

    def step(numbers: Numbers, state: State, tokens: jax.Array) -> tuple[State, jax.Array]:
        after, metrics = train_step(plain, numbers, state, tokens)
        return after, metrics.loss

    taps = Taps(step, numbers, state, tokens, spec=plain.spec(NEUTRAL), parameters=leaves(state.params))
    return partial(taps, numbers)


def _case(
    taps: Callable[..., tuple[Any, list[Tap]]], state: State, tokens: jax.Array, before: Mapping[tuple, float]
) -> Case:
    arrays = leaves(jax.device_get({"state": state, "tokens": tokens}))
    result, made = taps(state, tokens)
    rows = rows_of(made, before)
    born = [value.born for value in jax.tree.leaves(result, is_leaf=_is_value) if value.born is not None]
    step = int(state.step) + 1
    return Case(arrays=arrays, rows=rows, finding=_broken(step, made[min(born)]) if born else _grown(step, rows))


def _is_value(node: Any) -> bool:
    return isinstance(node, Value)


def _broken(step: int, tap: Tap) -> Finding:
    label, sizes = tap.label, tap.sizes
    tensor = f"the gradient at {label.tensor}" if label.phase == "backward" else label.tensor
    made = f" = {label.op} ({label.place}) of entries up to {_numbers(tap.inputs)}" if tap.inputs else ""
    rest = f"; the others are at most {sizes.largest:.3g}" if sizes.broken < 1 else ""
    sentence = (
        f"{_where(step, label.phase, tap.layer, label.module)}: {tensor}{made}: "
        f"{100 * sizes.broken:.3g} % of the entries are not finite, the first at {sizes.first}{rest}"
    )
    return Finding("non-finite", step, label.phase, tap.layer, *label[1:], sentence)


def _grown(step: int, rows: Sequence[Row]) -> Finding:
    """What grew most in the forward pass, where all is finite."""
    forward = sorted((row for row in rows if row.phase == "forward"), key=lambda row: row.growth, reverse=True)
    grown = [f"{_where(None, *row.name[:3])}: {row.tensor} {row.growth:.3g}" for row in forward[:MOST] if row.growth]
    told = f"what grew most since the step before, in times: {'; '.join(grown)}" if grown else "there is no step before"
    return Finding("growth", step, *forward[0][:6], f"step {step}: all is finite; {told}")


def _where(step: int | None, phase: str, layer: int | None, module: str) -> str:
    names = (f"step {step}" if step else "", "" if layer is None else f"layer {layer}", phase, module)
    return ", ".join(filter(None, names))


def _numbers(entries: Sequence[float]) -> str:
    return " and ".join(f"{entry:.3g}" for entry in entries)


def _cells(row: Row) -> tuple[str, ...]:
    broken = f"{100 * row.broken:.3g} %" if row.broken else ""
    growth = f"{row.growth:.3g}" if row.growth else ""
    layer = "" if row.layer is None else str(row.layer)
    return row.phase, layer, row.module, row.tensor, f"{row.rms:.3g}", f"{row.largest:.3g}", broken, growth


def _is_finding(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() == set(Finding._fields)


def _is_table(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(row, dict) and row.keys() == set(Row._fields) for row in value)


FOUND = {"step": COUNT, "finding": Kind("a finding", _is_finding), "table": Kind("a table of tensors", _is_table)}


def _write(folder: Path, case: Case, steps: Steps) -> None:
    """What was found is written last: a folder without it is no case."""
    arrays = io.BytesIO()
    np.savez(arrays, allow_pickle=False, **case.arrays)
    write_whole(folder / "arrays.npz", arrays.getvalue())
    write_home(folder / "config.json", steps.config, steps.corpus)
    write_whole(folder / "found.txt", f"{case.table()}\n\n{case.finding.sentence}\n".encode())
    table = [row._asdict() for row in case.rows]
    found = {"step": case.finding.step, "finding": case.finding._asdict(), "table": table}
    write_whole(folder / "found.json", json.dumps(found).encode())


def _read_arrays(path: Path, recipe: Recipe, numbers: Numbers) -> tuple[State, jax.Array]:
    shapes = jax.eval_shape(partial(start, recipe), numbers)
    wanted = leaves({"state": shapes})
    try:
        with np.load(path) as file:
            held = {name: file[name] for name in file.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise damaged(str(path), str(error), REMEDY) from error
    for name, shape in wanted.items():
        if name not in held or held[name].shape != shape.shape:
            raise damaged(str(path), f"it has no {name} of {list(shape.shape)}", REMEDY)
    if "tokens" not in held:
        raise damaged(str(path), "it has no tokens", REMEDY)
    state = jax.tree.unflatten(jax.tree.structure(shapes), [jnp.asarray(held[name]) for name in wanted])
    return state, jnp.asarray(held["tokens"])
