"""What a compiled program does, read from its text: products, bytes of memory, and collectives, loops as they run.

XLA's own `cost_analysis` counts the body of a loop once, however often it runs, and no collective at all. The text says
both: the bound of a loop stands in its condition, and an operation of one computation happens as often as that is
called. Format: https://openxla.org/xla/operation_semantics.
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

BITS = {
    "pred": 8, "s4": 4, "u4": 4, "s8": 8, "u8": 8, "s16": 16, "u16": 16, "s32": 32, "u32": 32, "s64": 64, "u64": 64,
    "f16": 16, "bf16": 16, "f32": 32, "f64": 64, "c64": 64, "c128": 128,
    "f8e4m3fn": 8, "f8e5m2": 8, "f8e4m3b11fnuz": 8, "f4e2m1fn": 4,
}  # fmt: skip
KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
FREE = {  # that move nothing between the chip and its memory
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call", "after-all",
    "partition-id", "replica-id", "copy-done", "slice-done", "opt-barrier", "iota", "add-dependency",
}  # fmt: skip
UPDATES = {"dynamic-update-slice": 1, "scatter": 2}  # which operand is what is written into the first one
KERNELS = {  # of splash attention: products of queries x keys as wide as keys, and as wide as values
    "splash_mha_fwd": (1, 1), "splash_mha_dq": (2, 1), "splash_mha_dkv": (2, 2),
}  # fmt: skip
HEADER = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{$")
NAMED = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = ")
ARRAY = re.compile(r"([a-z]\w*)\[([\d,]*)\](?:\{([^{}]*)\})?")
CALLED = re.compile(r"\b(calls|body|condition|to_apply|true_computation|false_computation)=%?([\w.\-]+)")
BRANCHES = re.compile(r"\bbranch_computations=\{([^}]*)\}")
INDEX = re.compile(r"\bindex=(\d+)")
OPERAND = re.compile(r"%([\w.\-]+)")


class Shape(NamedTuple):
    """One array: its type, its sizes, and whether it lies in the chip's memory rather than beside its units."""

    dtype: str
    sizes: tuple[int, ...]
    outside: bool

    @property
    def elements(self) -> int:
        """How many numbers."""
        return math.prod(self.sizes)

    @property
    def bytes(self) -> float:
        """What they take; layouts that fill up tiles take more."""
        return self.elements * BITS.get(self.dtype, 0) / 8


@dataclass(frozen=True, slots=True)
class Operation:
    """One line of a computation."""

    name: str
    shapes: tuple[Shape, ...]
    code: str
    operands: tuple[str, ...]
    rest: str
    is_root: bool

    @property
    def bytes(self) -> float:
        """Of what it makes, as far as that lies in memory."""
        return sum(shape.bytes for shape in self.shapes if shape.outside)


@dataclass(frozen=True, slots=True)
class Collective:
    """A sum or an exchange over `group` devices. bytes: of the whole array. times: how often in one run."""

    kind: str
    bytes: float
    group: int
    times: float = 1.0

    @property
    def sent(self) -> float:
        """Bytes that each device sends in one run, going round a ring. Thakur et al. 2005, sections 4.1 to 4.5."""
        shares = {"all-reduce": 2 * (self.group - 1) / self.group, "collective-permute": 1.0}
        return self.times * self.bytes * shares.get(self.kind, (self.group - 1) / self.group)


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one device in one run. flops: of matrix products, 2 for each multiplication. bytes: to and from its memory.

    collectives: by a key of their own, for the pieces of one stand in several places. open_loops: loops whose length
    the text does not say, counted once.
    """

    flops: float = 0.0
    bytes: float = 0.0
    collectives: Mapping[str, Collective] = field(default_factory=dict)
    open_loops: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        both = {**self.collectives}
        for key, each in other.collectives.items():
            both[key] = max(both.get(key, each), each, key=lambda one: one.sent)
        return Cost(self.flops + other.flops, self.bytes + other.bytes, both, self.open_loops + other.open_loops)

    def times(self, count: float) -> "Cost":
        """Of as many runs."""
        collectives = {key: replace(each, times=each.times * count) for key, each in self.collectives.items()}
        return Cost(self.flops * count, self.bytes * count, collectives, self.open_loops)

    def by_kind(self) -> dict[str, tuple[float, float]]:
        """Kind of collective -> (how many run, bytes that each device sends)."""
        found = {}
        for kind in KINDS:
            own = [each for each in self.collectives.values() if each.kind == kind]
            if own:
                found[kind] = (sum(each.times for each in own), sum(each.sent for each in own))
        return found


def cost_of(text: str) -> Cost:
    """What the program of `compiled.as_text()` costs one device."""
    return Module(text).cost()


class Module:
    """A program's computations by name."""

    def __init__(self, text: str) -> None:
        self.computations: dict[str, dict[str, Operation]] = {}
        self._costs: dict[tuple[str, bool], Cost] = {}
        self.entry, current = "", {}
        for line in text.splitlines():
            if (header := HEADER.match(line)) and " = " not in line.split("(", 1)[0]:
                current = self.computations.setdefault(header[1], {})
                if line.startswith("ENTRY"):
                    self.entry = header[1]
            elif (operation := operation_of(line)) is not None:
                current[operation.name] = operation

    def cost(self, name: str = "", *, fused: bool = False) -> Cost:
        """Of one run of a computation, the program itself where none is named. fused: its arrays are in no memory."""
        name = name or self.entry
        if (name, fused) not in self._costs:
            total = Cost()
            for operation in self.computations.get(name, {}).values():
                total = total + self._of(operation, name, fused)
            self._costs[name, fused] = total
        return self._costs[name, fused]

    def _of(self, operation: Operation, home: str, fused: bool) -> Cost:
        within = self.computations[home]
        called = {role: name for role, name in CALLED.findall(operation.rest)}
        moved = 0.0 if fused else self._moved(operation, within, called.get("calls"))
        kind = operation.code.removesuffix("-start")
        if kind in KINDS:
            return Cost(bytes=moved, collectives=_collective(kind, operation, within, home))
        match operation.code:
            case "dot":
                return Cost(flops=_dot_flops(operation, within), bytes=moved)
            case "convolution":
                return Cost(flops=_convolution_flops(operation, within), bytes=moved)
            case "custom-call":
                return Cost(flops=_kernel_flops(operation, within), bytes=moved)
            case "while":
                return self._loop(called["body"], called["condition"])
            case "conditional":
                branches = BRANCHES.search(operation.rest)
                names = (
                    OPERAND.findall(branches[1]) if branches else [called[role] for role in called if "_comp" in role]
                )
                return max((self.cost(each) for each in names), key=lambda each: each.flops, default=Cost())
            case "fusion":
                return self.cost(called["calls"], fused=True) + Cost(bytes=moved)
            case "call" | "async-start":
                return self.cost(called.get("to_apply") or called["calls"], fused=fused)
        return Cost(bytes=moved)

    def _loop(self, body: str, condition: str) -> Cost:
        turns, each = self.turns(body, condition), self.cost(body)
        return replace(each, open_loops=each.open_loops + 1) if turns is None else each.times(turns)

    def turns(self, body: str, condition: str) -> int | None:
        """How often a loop runs; None where the text does not say."""
        bound = self._bound(condition)
        if bound is None:
            return None
        place, below = bound
        return math.ceil(below / self._stride(body, place))

    def _bound(self, condition: str) -> tuple[int, int] | None:
        """Where in what it carries a loop counts, and the number that this stays below, from 0; None where none is."""
        operations = dict(self.computations[condition])
        root = next((each for each in operations.values() if each.is_root), None)
        if root is not None and root.code == "fusion":  # as the CPU has it
            inner = self.computations[dict(CALLED.findall(root.rest))["calls"]].values()
            root = next((each for each in inner if each.code == "compare"), root)
            operations |= {each.name: each for each in inner}
        if root is None or root.code != "compare" or "direction=LT" not in root.rest:
            return None
        bounds = [int(found[1]) for each in operations.values() if (found := re.match(r"constant\((\d+)\)", each.rest))]
        places = [int(found[1]) for each in operations.values() if (found := INDEX.search(each.rest))]
        return (places[0], bounds[0]) if len(bounds) == len(places) == 1 else None

    def _stride(self, body: str, place: int) -> int:
        """By how much a loop's counter grows in one run of its body: TPUs put several turns of theirs into one."""
        operations = self.computations[body]
        root = next(each for each in operations.values() if each.is_root)
        grown = operations.get(root.operands[place]) if root.code == "tuple" else None
        while grown is not None and grown.code in ("copy", "bitcast"):
            grown = operations.get(grown.operands[0])
        if grown is not None and grown.code == "fusion":  # as the CPU has it
            operations = self.computations[dict(CALLED.findall(grown.rest))["calls"]]
            grown = next((each for each in operations.values() if each.is_root), None)
        if grown is None or grown.code != "add":
            return 1
        added = [operations[name].rest for name in grown.operands if name in operations]
        return next((int(found[1]) for rest in added if (found := re.match(r"constant\((\d+)\)", rest))), 1)

    def _moved(self, operation: Operation, within: dict[str, Operation], calls: str | None) -> float:
        """Bytes that it reads from memory and writes there; of a part of an array those of the part."""
        if operation.code in FREE or operation.code.endswith("-done"):
            return 0.0
        operands = [within[name] for name in operation.operands if name in within]
        if operation.code in ("copy-start", "slice-start"):  # (to, from, …) and (from, to, …)
            made = operation.shapes[operation.code == "slice-start"]
            return made.bytes * (made.outside + (operands[0].bytes > 0))
        if operation.code in ("dynamic-slice", "slice", "gather"):
            return 2 * operation.bytes
        if operation.code in UPDATES:
            return 2 * operands[UPDATES[operation.code]].bytes
        if operation.code == "fusion" and calls is not None:
            return self._moved_by_fusion(operation, operands, self.computations[calls])
        return operation.bytes + sum(operand.bytes for operand in operands)

    def _cut_out(self, name: str, within: dict[str, Operation]) -> float:
        """Bytes of the slices that are all that a computation reads of an array, fusions in it too; else infinite."""
        total = 0.0
        for each in within.values():
            if name not in each.operands:
                continue
            if each.code in ("dynamic-slice", "slice", "gather"):
                total += sum(shape.bytes for shape in each.shapes)
            elif each.code == "fusion":
                inner = self.computations[dict(CALLED.findall(each.rest))["calls"]]
                own = [given for given, number in _numbers(inner).items() if each.operands[number] == name]
                total += sum(self._cut_out(given, inner) for given in own)
            else:
                return math.inf
        return total

    def _moved_by_fusion(self, operation: Operation, operands: list[Operation], inner: dict[str, Operation]) -> float:
        """An operand that is only cut into is read as far as it is cut; one that is updated in place, likewise."""
        total, updated = operation.bytes, 0.0
        for name, number in _numbers(inner).items():
            if number >= len(operands):
                continue
            whole = operands[number].bytes
            users = [each for each in inner.values() if name in each.operands]
            if whole and (cut := self._cut_out(name, inner)) < math.inf:
                whole = min(whole, cut)
            elif users and whole and all(each.code in UPDATES and each.operands[0] == name for each in users):
                updated += whole
                parts = [inner[each.operands[UPDATES[each.code]]] for each in users]
                whole = 2 * sum(shape.bytes for part in parts for shape in part.shapes)
            total += whole
        return max(total - updated, 0.0)


def _numbers(computation: dict[str, Operation]) -> dict[str, int]:
    """Which of the operands each parameter of a fused computation is."""
    found = {each.name: re.match(r"parameter\((\d+)\)", each.rest) for each in computation.values()}
    return {name: int(number[1]) for name, number in found.items() if number is not None}


def operation_of(line: str) -> Operation | None:
    """The operation that a line writes; None where it writes none."""
    named = NAMED.match(line)
    if named is None:
        return None
    body = line[named.end() :]
    end = _matching(body) if body.startswith("(") else body.find(" ")
    shapes = tuple(_shapes(body[: end + 1]))
    rest = body[end + 1 :].lstrip()
    code, _, _ = rest.partition("(")
    arguments = rest[len(code) :]
    operands = tuple(OPERAND.findall(arguments[: _matching(arguments) + 1]))
    keeps = rest if code in ("constant", "parameter") else arguments[_matching(arguments) + 1 :]
    return Operation(named[2], shapes, code, operands, keeps, bool(named[1]))


def _matching(text: str) -> int:
    """Where the bracket that a text begins with is closed."""
    depth = 0
    for i, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            return i
    return len(text) - 1


def _shapes(text: str) -> Iterator[Shape]:
    for dtype, sizes, layout in ARRAY.findall(text):
        if dtype in BITS:
            yield Shape(dtype, tuple(int(size) for size in sizes.split(",") if size), "S(" not in layout)


def _collective(kind: str, operation: Operation, within: dict[str, Operation], home: str) -> dict[str, Collective]:
    read = sum(shape.bytes for name in operation.operands if name in within for shape in within[name].shapes)
    group = group_size(operation.rest)
    if group < 2 and kind != "collective-permute":
        return {}
    if home.startswith("all-reduce-scatter"):  # TPUs fuse a sum with the cut after it
        kind = "reduce-scatter"
    channel, made = re.search(r"channel_id=(\d+)", operation.rest), re.search(r'op_name="([^"]*)"', operation.rest)
    key = f"channel {channel[1]} {made and made[1]}" if channel else f"{home}.{operation.name}"
    return {key: Collective(kind, read * (group if kind == "all-gather" else 1), group)}


def group_size(rest: str) -> int:
    """How many devices exchange with each other, in any of the three ways that replica_groups are written."""
    if found := re.search(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}", rest):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", found[1]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'(\w+)'", found[2]))
    if found := re.search(r"replica_groups=\[(\d+),(\d+)\]<=", rest):
        return int(found[2])
    if found := re.search(r"replica_groups=\{\{([\d,]*)\}", rest):
        return len(found[1].split(","))
    return 1


def _dot_flops(operation: Operation, within: dict[str, Operation]) -> float:
    (left,) = within[operation.operands[0]].shapes
    found = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", operation.rest)
    over = [int(axis) for axis in found[1].split(",") if axis] if found else []
    return 2.0 * operation.shapes[0].elements * math.prod(left.sizes[axis] for axis in over)


def _convolution_flops(operation: Operation, within: dict[str, Operation]) -> float:
    """TPUs write every matrix product as a convolution; pairs of places that fall into padding cost nothing."""
    (left,), (right,) = (within[name].shapes for name in operation.operands[:2])
    of_left, of_right, of_out = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", operation.rest).groups()  # type: ignore[union-attr]
    out, window = operation.shapes[0], _window(operation.rest)
    pairs = 1
    for axis in filter(str.isdigit, of_out):
        pairs *= _pairs(
            left.sizes[of_left.index(axis)], right.sizes[of_right.index(axis)], out.sizes[of_out.index(axis)],
            {name: values[int(axis)] for name, values in window.items() if int(axis) < len(values)},
        )  # fmt: skip
    features = out.sizes[of_out.index("b")] * out.sizes[of_out.index("f")]
    return 2.0 * features * right.sizes[of_right.index("i")] * pairs


def _kernel_flops(operation: Operation, within: dict[str, Operation]) -> float:
    """Of a kernel that the compiler does not see into, by its name and the shapes of queries, keys and values; every
    key is counted for every query, also where whole blocks are skipped."""
    products = next((count for name, count in KERNELS.items() if operation.name.startswith(name)), None)
    if products is None:
        return 0.0
    queries, keys, values = (within[name].shapes[0].sizes for name in operation.operands[3:6])
    pairs = math.prod(queries[:-1]) * keys[-2]
    return 2.0 * pairs * (products[0] * queries[-1] + products[1] * values[-1])


def _window(rest: str) -> dict[str, list[str]]:
    found = re.search(r"window=\{([^}]*)\}", rest)
    return (
        {}
        if found is None
        else {name: values.split("x") for name, values in (part.split("=") for part in found[1].split())}
    )


def _pairs(read: int, size: int, out: int, window: Mapping[str, str]) -> int:
    """How many (place of the output, place of the window) meet a number that is read, in one direction."""
    stride, spread, inner = (int(window.get(name, 1)) for name in ("stride", "lhs_dilate", "rhs_dilate"))
    before = int(window.get("pad", "0_0").split("_")[0])
    met = 0
    for place in range(size):
        at = [i * stride + place * inner - before for i in (range(out) if out <= 4096 else ())]
        met += sum(1 for each in at if 0 <= each <= (read - 1) * spread and each % spread == 0)
    return met if out <= 4096 else out * size
