"""What a cut program does in vain: arrays that are whole on every device, and exchanges that loops repeat."""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

import jax
from jax.sharding import NamedSharding

from fxformer import sharding
from train.plan.hlo import CALLED, INDEX, KINDS, Module, Operation
from train.plan.programs import Program, bytes_of

SHARE = 0.01  # of a device's memory, from which on an array is named
SENT = 1e-4  # of the same, from which on an exchange is
NAMED = 3  # arrays, at most, of those that have the same fault
MB = 1e6


def lint(program: Program, text: str, memory: float, width: int) -> tuple[str, ...]:
    """Sentences on a compiled program, each naming one fault.

    text: of `compiled.as_text()`. memory: bytes of a device. width: of the stream.

    Axes that do not divide are no part of it: `sharding.plan` names them all, and no program comes of them.
    """
    module = Module(text)
    activations = whole_activations(program, module, memory, width)
    return (*whole_arguments(program, memory), *activations, *idle_exchanges(module, memory))


def whole_arguments(program: Program, memory: float) -> Iterator[str]:
    """Of parameters, moments and caches: large ones that a mesh axis could cut and does not, the largest first."""
    for part in sorted(set(program.parts) - {"experts", "tokens"}):
        sizes: dict[str, Counter[str]] = defaultdict(Counter)
        for path, leaf in jax.tree_util.tree_leaves_with_path(program.parts[part]):
            free = _free(leaf, program.mesh)
            if bytes_of(leaf) >= SHARE * memory and free:
                name = ".".join(str(key.key) for key in path if isinstance(key, jax.tree_util.DictKey))
                sizes[free[0]][name] += bytes_of(leaf)  # both moments of a parameter have its name
        for axis, own in sizes.items():
            named = [f"{name} {_said(size)}" for name, size in own.most_common(NAMED)]
            rest = f" and {len(own) - NAMED} more" if len(own) > NAMED else ""
            yield (
                f"{part}: {_said(own.total())} are whole on all devices of mesh axis {axis}, which could cut them: "
                f"{', '.join(named)}{rest}"
            )


def _free(leaf: Any, mesh: sharding.AnyMesh) -> list[str]:
    """Mesh axes that do not cut an array and divide one of its axes that is whole."""
    if not isinstance(leaf.sharding, NamedSharding):
        return []
    cuts = [*leaf.sharding.spec, *[None] * (leaf.ndim - len(leaf.sharding.spec))]
    whole = [size for size, cut in zip(leaf.shape, cuts, strict=True) if cut is None]
    idle = [axis for axis, size in mesh.shape.items() if size > 1 and axis not in cuts]
    return [axis for axis in idle if any(size % mesh.shape[axis] == 0 for size in whole)]


def whole_activations(program: Program, module: Module, memory: float, width: int) -> Iterator[str]:
    """Of what is computed: large arrays of every row, as wide as the stream or wider, though the rows are cut.

    Tokens lie as [rows, length] or flat; a parameter that is as long as all tokens together hides those that are flat.
    """
    if "tokens" not in program.parts:
        return
    tokens = program.parts["tokens"]
    devices = tokens.shape[0] // tokens.sharding.shard_shape(tokens.shape)[0]
    if devices == 1:
        return
    rows, lengths = tokens.shape[0], {tokens.shape[1], tokens.shape[1] - 1}
    own = {size for leaf in jax.tree.leaves(program.parts["parameters"]) for size in leaf.shape}
    named = set()
    for operation in (each for operations in module.computations.values() for each in operations.values()):
        if operation.code in ("tuple", "while", "parameter", "get-tuple-element"):
            continue
        for shape in operation.shapes:
            pairs = set(zip(shape.sizes, shape.sizes[1:], strict=False))
            held = [each for each in lengths if (rows, each) in pairs or rows * each in set(shape.sizes) - own]
            wide = any(shape.elements >= rows * length * width for length in held)
            if wide and shape.bytes >= SHARE * memory and shape not in named:
                named.add(shape)
                sizes = " x ".join(map(str, shape.sizes))
                yield (
                    f"{shape.dtype} {sizes}, {_said(shape.bytes)}, holds all {rows} rows on each of {devices} devices"
                    f"{_place(operation)}"
                )


def idle_exchanges(module: Module, memory: float) -> Iterator[str]:
    """Large collectives within a loop whose operands no turn of it changes, so that they could stand before it.

    Zeros that the compiler sends round a ring, to add to them, are none.
    """
    for operations in list(module.computations.values()):
        for loop in operations.values():
            if loop.code != "while":
                continue
            called = dict(CALLED.findall(loop.rest))
            turns = module.turns(called["body"], called["condition"])
            if turns == 1:
                continue
            fixed = fixed_in(module.computations[called["body"]])
            for operation in module.computations[called["body"]].values():
                kind = _exchange(operation, module)
                if kind is None or not set(operation.operands) <= fixed.keys():
                    continue
                size = math.fsum(shape.bytes for shape in operation.shapes)
                if size >= SENT * memory and any(fixed[name] for name in operation.operands):
                    often = "an unknown number of" if turns is None else turns
                    yield (
                        f"{kind} of {_said(size)} stands in a loop of {often} turns, and none changes what it reads: "
                        f"it could stand before the loop{_place(operation)}"
                    )


def fixed_in(body: dict[str, Operation]) -> dict[str, bool]:
    """The operations of a loop's body that give the same in every turn -> whether they come of more than constants."""
    root = next(each for each in body.values() if each.is_root)
    carried = [_source(body, name) for name in root.operands] if root.code == "tuple" else []
    fixed: dict[str, bool] = {}
    for operation in body.values():  # an operation stands behind what it reads
        found = INDEX.search(operation.rest) if operation.code == "get-tuple-element" else None
        if found is not None and body[operation.operands[0]].code == "parameter":
            place = int(found[1])
            source = carried[place] if place < len(carried) else None
            if source is not None and source.code == "get-tuple-element" and _index(source) == place:
                fixed[operation.name] = True
        elif operation.code in ("constant", "iota", "partition-id"):
            fixed[operation.name] = False
        elif operation.operands and set(operation.operands) <= fixed.keys():
            fixed[operation.name] = any(fixed[name] for name in operation.operands)
    return fixed


def _source(body: dict[str, Operation], name: str) -> Operation | None:
    """What a value is a copy of."""
    operation = body.get(name)
    while operation is not None and operation.code in ("copy", "bitcast"):
        operation = body.get(operation.operands[0])
    return operation


def _index(operation: Operation) -> int | None:
    found = INDEX.search(operation.rest)
    return int(found[1]) if found else None


def _exchange(operation: Operation, module: Module) -> str | None:
    """The kind of collective that an operation is, or that it starts."""
    kind = operation.code.removesuffix("-start")
    if kind in KINDS:
        return kind
    if operation.code not in ("async-start", "fusion", "call"):
        return None
    inner = (name for _, name in CALLED.findall(operation.rest))
    codes = (each.code.removesuffix("-start") for name in inner for each in module.computations.get(name, {}).values())
    return next((code for code in codes if code in KINDS), None)


def _place(operation: Operation) -> str:
    """Where in the model that is, as JAX names it."""
    found = re.search(r'op_name="([^"]+)"', operation.rest)
    return f" ({found[1]})" if found else ""


def _said(size: float) -> str:
    return f"{size / MB:,.1f} MB"
