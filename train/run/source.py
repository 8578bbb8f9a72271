"""What an operation of a traced program is called: the module, the tensor and the line of source that it comes from.

Modules are the scopes that Flax opens around operations; a tensor is what the innermost statement of ours assigns to.
"""

import ast
import re
import traceback
from functools import cache
from pathlib import Path
from typing import NamedTuple

from jax.extend.core import JaxprEqn

import fxformer as fx
from fxformer.stack import Once, Repeat

ROOT = Path(fx.__file__).parents[1]
OURS = tuple(f"{ROOT / package}/" for package in ("fxformer", "train"))
PHASES = {"update": r"^update\b", "backward": r"transpose\(", "forward": r"jvp\("}  # by what stands in a scope
TRANSFORMS = re.compile(r"(?:transpose|jvp|vmap)\(|\)")  # what derivatives and batches write around scopes
SILENT = re.compile(r"^$|Module$|->|\.|^checkpoint$|^rematted_computation$")  # scopes that name no module
GROUP = re.compile(r"(?:^|/)(stack|encoder)/group_(\d+)(?:/blocks/block_(\d+))?(?:/|$)")


class Label(NamedTuple):
    """What an array is called; the tensor by its operation, where no statement assigns it.

    phase: of the step: "state" for what it began with, "forward", "backward", "update", or "" between them. module:
    within its layer, where it has one. op: the primitive of JAX, and the formula of an einsum. place: file and line.
    """

    phase: str
    module: str
    tensor: str
    op: str
    place: str


class Source(NamedTuple):
    """Where an operation stands: its phase, the scopes around it, its formula, frames of ours from the outermost in."""

    phase: str = ""
    scopes: tuple[str, ...] = ()
    formula: str = ""
    frames: tuple[tuple[str, int], ...] = ()

    def within(self, eqn: JaxprEqn) -> "Source":
        """Of an equation of the program here; one of JAX's own functions stands where that was called."""
        own = str(eqn.source_info.name_stack)
        parts = TRANSFORMS.sub("", own).split("/")
        scopes = tuple(part for part in parts if not SILENT.search(part))
        return Source(
            next((phase for phase, mark in PHASES.items() if re.search(mark, own)), self.phase),
            _once(self.scopes + scopes),
            next((part for part in parts if "->" in part), self.formula),
            self.frames + _frames(eqn),
        )

    @property
    def path(self) -> str:
        """The scopes, like "stack/group_0/blocks/block_0/ffn"."""
        return "/".join(self.scopes)

    @property
    def loops_over_layers(self) -> bool:
        """Is a loop here the one over the layers of a group?"""
        found = GROUP.search(self.path)
        return found is not None and found[3] is None and found.end() == len(self.path)

    def label(self, op: str, leaf: str) -> Label:
        """The name of what `op` gives here; leaf: the parameter whose update it is a part of, or empty."""
        assigned = (_targets(file).get(line, "") for file, line in reversed(self.frames))
        place = f"{Path(self.frames[-1][0]).relative_to(ROOT)}:{self.frames[-1][1]}" if self.frames else ""
        module = module_of(leaf if leaf and self.phase == "update" else self.path)
        return Label(self.phase, module, next(filter(None, assigned), op), f"{op} {self.formula}".strip(), place)


class Groups:
    """The layers of groups of blocks, by the names of stack and group in scopes and in paths of parameters."""

    def __init__(self, spec: fx.Transformer) -> None:
        self._of: dict[tuple[str, str], tuple[int, Repeat | Once]] = {}
        for name, stack in (("stack", spec.stack), ("encoder", spec.encoder)):
            first = 0
            for i, group in enumerate(() if stack is None else stack.groups):
                self._of[name, str(i)] = first, group
                first += group.n * len(group.blocks)

    def layer(self, path: str, turn: int) -> int | None:
        """The layer that `path` stands in at a turn of the loop over its group; None outside of layers."""
        found = GROUP.search(path)
        if found is None or found[3] is None:
            return None
        first, group = self._of[found[1], found[2]]
        return first + turn * len(group.blocks) + int(found[3])

    def turns(self, path: str) -> int:
        """How many layers a parameter holds along its first axis; 0 where it has no such axis."""
        found = GROUP.search(path)
        group = None if found is None else self._of[found[1], found[2]][1]
        return 0 if group is None or group.tied or not group.stacked else group.n


def module_of(path: str) -> str:
    """What of a path names the module within its layer; all of it outside of layers."""
    found = GROUP.search(path)
    if found is None or found[3] is None:
        return path
    inside = re.sub(r"^(\w+)_residual/(?=\1(?:/|$))", "", path[found.end() :])
    return inside if found[1] == "stack" else f"{found[1]}/{inside}"


def _once(scopes: tuple[str, ...]) -> tuple[str, ...]:
    """Without repetitions: a program within another says scopes around both again."""
    for n in range(len(scopes) // 2, 0, -1):
        for i in range(len(scopes) - 2 * n + 1):
            if scopes[i : i + n] == scopes[i + n : i + 2 * n]:
                return _once(scopes[:i] + scopes[i + n :])
    return scopes


def _frames(eqn: JaxprEqn) -> tuple[tuple[str, int], ...]:
    told = eqn.source_info.traceback
    if told is None:
        return ()
    steps = [(frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(told.as_python_traceback())]
    return tuple((file, line) for file, line in steps if file.startswith(OURS))


@cache
def _targets(file: str) -> dict[int, str]:
    """By line the first name that a statement there assigns to; of statements within others the innermost."""
    found: dict[int, str] = {}
    for node in ast.walk(ast.parse(Path(file).read_text(encoding="utf8"))):
        match node:
            case ast.Assign(targets=[target, *_]) | ast.AnnAssign(target=target) | ast.AugAssign(target=target):
                name = next(part.id for part in ast.walk(target) if isinstance(part, ast.Name))
                found |= dict.fromkeys(range(node.lineno, (node.end_lineno or node.lineno) + 1), name)
    return found
