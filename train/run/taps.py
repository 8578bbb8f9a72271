"""What every operation of a function gives: its program runs piece by piece, loops turn by turn, each array is seen.

The program is the function's own jaxpr, so no model is written for it and nothing that leads to a result escapes. An
array that is not finite knows the tap it was born at: the first whose output was not finite although its inputs were.
"""

import itertools
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal

import fxformer as fx
from train.run.source import Groups, Label, Source, module_of

CALLS = {"jit": "jaxpr", "pjit": "jaxpr", "remat2": "jaxpr", "checkpoint": "jaxpr", "closed_call": "call_jaxpr",
         "custom_jvp_call": "call_jaxpr", "custom_vjp_call": "call_jaxpr"}  # fmt: skip
MOVES = ("reshape", "broadcast_in_dim", "transpose", "squeeze", "stop_gradient", "copy")  # give the entries they get
QUICKLY = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
}  # pieces run a few times
PIECE = 128  # operations that are compiled together; all that they give is in memory at once


class Sizes(NamedTuple):
    """rms, largest: of the finite entries. broken: share of the others. first: where the first of those stands."""

    rms: float
    largest: float
    broken: float
    first: list[int] | None


class Tap(NamedTuple):
    """An array on its way. layer: None outside of layers, and for what they share. inputs: the largest finite entry of
    each array that it was made of."""

    label: Label
    layer: int | None
    sizes: Sizes
    inputs: list[float]


class Value(NamedTuple):
    """An array; its largest finite entry, None where it holds no numbers; the tap that made it other than finite."""

    array: Any
    largest: float | None = None
    born: int | None = None


class Taps:
    """`function` on arguments of these shapes, with taps on each array of floating point that leads to a result.

    parameters: paths like "embed/table"; leaves of arguments and results whose paths end in one are its share.
    """

    def __init__(
        self, function: Callable[..., Any], *shapes: Any, spec: fx.Transformer, parameters: Collection[str]
    ) -> None:
        closed, results = jax.make_jaxpr(function, return_shape=True)(*shapes)
        self._groups, self._results = Groups(spec), jax.tree.structure(results)
        self._given = {path: _end(path, parameters) for path in leaves(shapes)}
        self._program = _Program(closed, Source(), [_end(path, parameters) for path in leaves(results)])

    def __call__(self, *arguments: Any) -> tuple[Any, list[Tap]]:
        """The function's result with a Value for each leaf, and the taps in order."""
        run = _Run(self._groups)
        given = [
            run.given(array, path, leaf)
            for array, (path, leaf) in zip(jax.tree.leaves(arguments), self._given.items(), strict=True)
        ]
        return jax.tree.unflatten(self._results, run.program(self._program, given, turn=0)), run.taps


def leaves(tree: Any) -> dict[str, Any]:
    """The leaves of a tree by their paths, like "stack/final_norm/scale"."""
    found = jax.tree.leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in found}


def _end(path: str, parameters: Collection[str]) -> str:
    """The parameter that a path ends in, the longest one; empty where there is none."""
    return max((name for name in parameters if f"/{path}".endswith(f"/{name}")), key=len, default="")


class _Step(NamedTuple):
    """An equation: what it reads and writes, by number; the parameter whose update it alone serves, or an empty text;
    the programs of a loop or a branch."""

    eqn: JaxprEqn
    reads: list[int]
    writes: list[int]
    source: Source
    leaf: str = ""
    inner: Sequence["_Program"] = ()


class _Part(NamedTuple):
    """Steps that run together, compiled; or a loop or branch alone."""

    steps: Sequence[_Step]
    labels: Sequence[Label]
    reads: Sequence[int]
    outputs: Sequence[int]
    compute: Callable[..., list[Any]] | None


class _Program:
    """A jaxpr without calls, and without what leads to none of the wanted results."""

    def __init__(self, jaxpr: ClosedJaxpr | Jaxpr, source: Source, results: Sequence[str | None]) -> None:
        """results: of each result the parameter whose share it is, empty for none; None where it is not wanted."""
        self._numbers = itertools.count()
        self._steps: list[_Step] = []
        self.consts: dict[int, Any] = {}
        self.literals: dict[int, Any] = {}
        self.inputs = [next(self._numbers) for _ in _opened(jaxpr)[0].invars]
        self.outputs = self._inlined(jaxpr, self.inputs, source)
        cuts = list(_cut(self._leading(results)))
        ends = {number: i for i, steps in enumerate(cuts) for step in steps for number in step.reads}
        self.ends = ends | dict.fromkeys((*self.outputs, *self.literals), len(cuts))  # parts that last read them
        self.parts = [self._part(i, steps) for i, steps in enumerate(cuts)]

    def _inlined(self, jaxpr: ClosedJaxpr | Jaxpr, inputs: Sequence[int], source: Source) -> list[int]:
        """Add the steps of a program; the numbers of its results."""
        opened, consts = _opened(jaxpr)
        known = dict(zip(opened.invars, inputs, strict=True))
        for var, const in zip(opened.constvars, consts, strict=True):
            known[var] = next(self._numbers)
            self.consts[known[var]] = const

        def number(atom: Any) -> int:
            if not isinstance(atom, Literal):
                return known[atom]
            new, kind = next(self._numbers), cast(jax.core.ShapedArray, atom.aval)
            self.literals[new] = np.asarray(atom.val, kind.dtype)
            return new

        for eqn in opened.eqns:
            reads, here = [number(atom) for atom in eqn.invars], source.within(eqn)
            if eqn.primitive.name in CALLS:
                writes = self._inlined(eqn.params[CALLS[eqn.primitive.name]], reads, here)
            else:
                writes = [next(self._numbers) for _ in eqn.outvars]
                self._steps.append(_Step(eqn, reads, writes, here))
            known.update(zip(eqn.outvars, writes, strict=True))
        return [number(atom) for atom in opened.outvars]

    def _leading(self, results: Sequence[str | None]) -> list[_Step]:
        """The steps that lead to a wanted result, with the parameter that they alone serve."""
        serves: dict[int, frozenset[str]] = defaultdict(frozenset)
        for number, result in zip(self.outputs, results, strict=True):
            serves[number] |= frozenset() if result is None else {result}
        leading = []
        for step in reversed(self._steps):
            served = frozenset[str]().union(*(serves[number] for number in step.writes))
            if served:
                for number in step.reads:
                    serves[number] |= served
                wanted = [bool(serves[number]) for number in step.writes]
                inner = [_Program(jaxpr, step.source, want) for jaxpr, want in _inner(step.eqn, wanted)]
                leading.append(step._replace(leaf=next(iter(served)) if len(served) == 1 else "", inner=inner))
        return leading[::-1]

    def _part(self, i: int, steps: Sequence[_Step]) -> _Part:
        """The part of these steps, which gives what is tapped and what later parts read."""
        made = {number for step in steps for number in step.writes}
        reads = sorted({number for step in steps for number in step.reads} - made - self.literals.keys())
        seen = {number for step in steps for number in _seen(step)}
        outputs = sorted(seen | {number for number in made if self.ends.get(number, 0) > i})
        labels = [step.source.label(step.eqn.primitive.name, step.leaf) for step in steps]
        compute = None
        if not steps[0].inner:
            compute = jax.jit(partial(_computed, steps, self.literals, reads, outputs), compiler_options=QUICKLY)
        return _Part(steps, labels, reads, outputs, compute)


def _cut(steps: Sequence[_Step]) -> Iterator[Sequence[_Step]]:
    """Loops and branches alone, what stands between them in pieces."""
    for loops, run in itertools.groupby(steps, key=lambda step: bool(step.inner)):
        together, size = list(run), 1 if loops else PIECE
        yield from (together[begin : begin + size] for begin in range(0, len(together), size))


def _seen(step: _Step) -> list[int]:
    """What of a step's results is new and holds numbers."""
    new = step.eqn.primitive.name not in MOVES
    return [number for number, var in zip(step.writes, step.eqn.outvars, strict=True) if new and _is_floating(var.aval)]


def _opened(jaxpr: ClosedJaxpr | Jaxpr) -> tuple[Jaxpr, Sequence[Any]]:
    return (jaxpr.jaxpr, jaxpr.consts) if isinstance(jaxpr, ClosedJaxpr) else (jaxpr, ())


def _inner(eqn: JaxprEqn, wanted: Sequence[bool]) -> list[tuple[Any, list[str | None]]]:
    """The programs of a loop or a branch, with which of their results are wanted; none for another equation."""
    told = eqn.params
    results = ["" if want else None for want in wanted]
    match eqn.primitive.name:
        case "scan":
            _, carried = _constant_and_carried(eqn)
            return [(told["jaxpr"], [""] * carried + results[carried:])]
        case "while":
            return [(told["cond_jaxpr"], [""]), (told["body_jaxpr"], [""] * len(results))]
        case "cond":
            return [(branch, results) for branch in told["branches"]]
    return []


def _constant_and_carried(scan: JaxprEqn) -> tuple[int, int]:
    """How many inputs of a loop are the same in each turn, and how many are carried on: what it goes through, or makes
    a row of in each turn, has an axis more outside. (Versions of JAX say it in other ways.)"""
    body, _ = _opened(scan.params["jaxpr"])

    def alike(outside: Sequence[Any], inside: Sequence[Any]) -> int:
        return sum(outer.aval.ndim == inner.aval.ndim for outer, inner in zip(outside, inside, strict=True))

    carried = alike(scan.outvars, body.outvars)
    return alike(scan.invars, body.invars) - carried, carried


def _computed(
    steps: Sequence[_Step], literals: dict[int, Any], reads: Sequence[int], outputs: Sequence[int], *arrays: Any
) -> list[Any]:
    """`outputs` of steps that read `arrays`."""
    known = {**literals, **dict(zip(reads, arrays, strict=True))}
    for step in steps:
        made = step.eqn.primitive.bind(*(known[number] for number in step.reads), **step.eqn.params)
        known.update(zip(step.writes, made if step.eqn.primitive.multiple_results else [made], strict=True))
    return [known[number] for number in outputs]


class _Run:
    """One going through a program; its taps grow."""

    def __init__(self, groups: Groups) -> None:
        self.taps: list[Tap] = []
        self._groups = groups

    def given(self, array: Any, path: str, leaf: str) -> Value:
        """An argument, tapped where it is a share of a parameter."""
        if not leaf or not _is_floating(array):
            return _value(array)
        module, _, tensor = module_of(leaf).rpartition("/")
        whole = path.removesuffix(f"/{leaf}").partition("/")[2]
        label = Label("state", module, f"{tensor} of {whole}", "", "")
        return self._noted(array, label, leaf, leaf, 0, [])

    def program(self, program: _Program, values: Sequence[Value], turn: int) -> list[Value]:
        """What a program makes of values, in a turn of the loop over layers around it."""
        known = {number: _value(array) for number, array in (program.consts | program.literals).items()}
        known.update(zip(program.inputs, values, strict=True))
        for i, part in enumerate(program.parts):
            if part.compute is None:
                (step,) = part.steps
                made = CONTROL[step.eqn.primitive.name](self, step, [known[number] for number in step.reads], turn)
                known.update(zip(step.writes, made, strict=True))
            else:
                self._piece(part, known, program.literals, turn)
            known = {number: value for number, value in known.items() if program.ends.get(number, 0) > i}
        return [known.get(number, Value(None)) for number in program.outputs]

    def _piece(self, part: _Part, known: dict[int, Value], literals: Collection[int], turn: int) -> None:
        """Add to `known` what a compiled part gives."""
        assert part.compute is not None
        made = part.compute(*(known[number].array for number in part.reads))
        arrays = dict(zip(part.outputs, made, strict=True))
        for step, label in zip(part.steps, part.labels, strict=True):
            inputs = [known[number] for number in step.reads if number not in literals]
            leaf, seen = step.leaf if label.phase == "update" else "", _seen(step)
            for number in step.writes:
                if number in seen:
                    known[number] = self._noted(arrays[number], label, leaf or step.source.path, leaf, turn, inputs)
                else:
                    known[number] = _moved(arrays.get(number), inputs)

    def scan(self, step: _Step, values: list[Value], turn: int) -> list[Value]:
        """Turn by turn."""
        told, (body,) = step.eqn.params, step.inner
        first, carried = _constant_and_carried(step.eqn)
        last = first + carried
        consts, carry, columns = values[:first], values[first:last], values[last:]
        rows: dict[int, list[Value]] = {}
        for i in sorted(range(told["length"]), reverse=told["reverse"]):
            row = [_row(column, i) for column in columns]
            made = self.program(body, [*consts, *carry, *row], i if step.source.loops_over_layers else turn)
            carry, rows[i] = made[: last - first], made[last - first :]
        return carry + [_column(row) for row in zip(*(rows[i] for i in sorted(rows)), strict=True)]

    def loop(self, step: _Step, values: list[Value], turn: int) -> list[Value]:
        """As long as its condition holds."""
        told, (condition, body) = step.eqn.params, step.inner
        first, last = told["cond_nconsts"], told["cond_nconsts"] + told["body_nconsts"]
        carry = values[last:]
        while bool(self.program(condition, values[:first] + carry, turn)[0].array):
            carry = self.program(body, values[first:last] + carry, turn)
        return carry

    def branch(self, step: _Step, values: list[Value], turn: int) -> list[Value]:
        """The one that is taken."""
        return self.program(step.inner[int(values[0].array)], values[1:], turn)

    def _noted(self, array: Any, label: Label, path: str, leaf: str, turn: int, inputs: Sequence[Value]) -> Value:
        """A new array: tapped, layer by layer where it has the layers of `leaf` along its first axis."""
        turns, first = self._groups.turns(leaf), len(self.taps)
        layered = turns > 0 and array.shape[:1] == (turns,)
        entries = [value.largest for value in inputs if value.largest is not None]
        for i, part in enumerate(np.asarray(array)) if layered else [(turn, array)]:
            layer = None if turns and not layered else self._groups.layer(path, i)
            self.taps.append(Tap(label, layer, _sizes(part), entries))
        broken = [i for i, tap in enumerate(self.taps[first:], first) if tap.sizes.broken]
        born = [value.born for value in inputs if value.born is not None] + broken[:1]
        return Value(array, max(tap.sizes.largest for tap in self.taps[first:]), min(born) if broken else None)


CONTROL = {"scan": _Run.scan, "while": _Run.loop, "cond": _Run.branch}


def _moved(array: Any, inputs: Sequence[Value]) -> Value:
    """The entries of what went in, or none that are numbers."""
    largest = max((value.largest for value in inputs if value.largest is not None), default=None)
    return Value(array, largest, min((value.born for value in inputs if value.born is not None), default=None))


def _row(column: Value, i: int) -> Value:
    return _value(jax.lax.dynamic_index_in_dim(column.array, i, keepdims=False), column.born)


def _column(row: Sequence[Value]) -> Value:
    if row[0].array is None:  # nobody wants it
        return row[0]
    born = min((value.born for value in row if value.born is not None), default=None)
    return _value(jnp.stack([value.array for value in row]), born)


def _value(array: Any, born: int | None = None) -> Value:
    """An array that is a part of another, or made of others: born where those were, if it is not finite."""
    if not _is_floating(array):
        return Value(array)
    sizes = _sizes(array)
    return Value(array, sizes.largest, born if sizes.broken else None)


def _is_floating(array: Any) -> bool:
    return jnp.issubdtype(array.dtype, jnp.floating) and array.size > 0


def _sizes(array: Any) -> Sizes:
    values = np.abs(np.asarray(array).astype(np.float64))
    finite = np.isfinite(values)
    if finite.all():
        return Sizes(float(np.sqrt(np.mean(values * values))), float(values.max()), 0.0, None)
    kept, first = values[finite], [int(i) for i in np.argwhere(~finite)[0]]
    rms = float(np.sqrt(np.mean(kept * kept))) if kept.size else 0.0
    return Sizes(rms, float(kept.max(initial=0)), 1 - kept.size / values.size, first)
