"""Values in words: a spec as the Python that makes it, arrays by dtype and shape, in terminals and in notebooks."""

import math
from dataclasses import fields, is_dataclass
from html import escape
from typing import Any

import jax
import numpy as np

from fxformer.table import columns

LINE = 100  # characters


class Spelled:
    """What is printed as the Python that makes it again."""

    __slots__ = ()

    def __repr__(self) -> str:
        return python(self)

    def _repr_html_(self) -> str:
        return f"<pre>{escape(python(self))}</pre>"


class Brief:
    """What holds arrays and is printed by their dtypes and shapes, in a notebook as a table."""

    __slots__ = ()

    def __repr__(self) -> str:
        return brief(self)

    def _repr_html_(self) -> str:
        rows = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in leaves(self))
        return f"<b>{type(self).__name__}</b><table>{rows}</table>"


def python(value: Any, indent: int = 0) -> str:
    """The Python that makes a spec again; fields at their default are left out."""
    if not (is_dataclass(value) or isinstance(value, tuple)):
        return repr(value)
    name, parts = _parts(value)
    items = [label + python(item, indent + 4) for label, item in parts]
    comma = "," if len(items) == 1 and not name else ""
    line = f"{name}({', '.join(items)}{comma})"
    if "\n" not in line and indent + len(line) <= LINE:
        return line
    body = "".join(f"{' ' * (indent + 4)}{item},\n" for item in items)
    return f"{name}(\n{body}{' ' * indent})"


def _parts(value: Any) -> tuple[str, list[tuple[str, Any]]]:
    """What stands before the bracket, and what in it: (label, value)."""
    if isinstance(value, tuple):
        return "", [("", item) for item in value]
    said = [(f"{field.name}=", getattr(value, field.name), field.default) for field in fields(value)]
    return type(value).__name__, [(label, item) for label, item, default in said if item != default]


def brief(value: Any) -> str:
    """A tree of arrays on one line, each as dtype and shape; what is None is left out."""
    if _is_array(value):
        return f"{value.dtype}{list(value.shape)}"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {brief(item)}' for key, item in value.items())}}}"
    if not is_dataclass(value) or isinstance(value, type):
        return repr(value)
    held = {field.name: getattr(value, field.name) for field in fields(value)}
    said = ", ".join(f"{name}={brief(item)}" for name, item in held.items() if item is not None)
    return f"{type(value).__name__}({said})"


def leaves(tree: Any) -> list[tuple[str, str, str]]:
    """Of each array in a tree: its dotted path, dtype and shape, and how many numbers it has."""
    return [
        (jax.tree_util.keystr(path, simple=True, separator="."), *_cells(leaf))
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    ]


def listing(tree: Any) -> str:
    """A line for each array of a tree, and their sum: paths, shapes, numbers and bytes."""
    rows, arrays = leaves(tree), [leaf for leaf in jax.tree.leaves(tree) if _is_array(leaf)]
    size = sum(math.prod(leaf.shape) for leaf in arrays)
    held = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in arrays)
    return columns([*rows, (f"{len(arrays)} arrays", f"{held:,} bytes", f"{size:,}")])


def _cells(leaf: Any) -> tuple[str, str]:
    return (f"{leaf.dtype} {list(leaf.shape)}", f"{math.prod(leaf.shape):,}") if _is_array(leaf) else (repr(leaf), "")


def _is_array(value: Any) -> bool:
    return isinstance(value, jax.Array | np.ndarray | jax.ShapeDtypeStruct)
