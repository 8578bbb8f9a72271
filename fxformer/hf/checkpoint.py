"""`load` and `save`: a folder of transformers becomes a Spec and parameters, and back."""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import Array
from jax.typing import DTypeLike

from fxformer.hf.families import FAMILIES, express, family_of
from fxformer.hf.family import Family, settings
from fxformer.hf.files import Stored, open_tensors, read_json, write_json, write_tensors
from fxformer.hf.layout import Shape
from fxformer.hf.names import Slot, slots
from fxformer.model import Params, Transformer, abstract_params

FLOATS = ("F64", "F32", "F16", "BF16")


def load(path: str | PathLike[str], *, dtype: DTypeLike = jnp.float32) -> tuple[Transformer, Params]:
    """Read a checkpoint of transformers: config.json and safetensors, memory-mapped, one tensor at a time.

    dtype: of the parameters, whatever the dtype of the checkpoint. Raises ValueError for a setting or tensor that is
    unknown, missing or of another shape, ImportError without safetensors.
    """
    folder, dtype = Path(path), _floating(dtype)
    config = read_json(folder / "config.json")
    family = family_of(config)
    spec = family.read(settings(family, config))
    leaves = _shapes(spec)
    lines = slots(family.tensors, spec, leaves)
    params: dict[str, Array] = {}
    with open_tensors(folder) as stored:
        tensors = _matched(family, [slot for line in lines for slot in line], stored)
        for line in lines:
            params |= _filled(line, tensors, leaves, dtype)
    return spec, unflatten_dict(params, sep=".")


def save(
    spec: Transformer,
    params: Params,
    path: str | PathLike[str],
    *,
    dtype: DTypeLike = jnp.float32,
    shard: int = 5 * 10**9,
) -> None:
    """Write a folder that transformers loads; it appears whole or not at all.

    dtype: of the tensors in the files. shard: bytes of a file at most, and what is held in memory beside the
    parameters. The files say nothing of training: initialisers and dropout are left out where the family has none.
    Raises ValueError where no family computes what `spec` does or `params` are not its, FileExistsError where there
    is something at `path`, ImportError without safetensors.
    """
    folder, dtype = Path(path), _floating(dtype)
    if folder.exists():
        raise FileExistsError(f"{folder} exists already; give a new path")
    model_type, config = express(spec)
    family = FAMILIES[model_type]
    leaves, shapes = flatten_dict(params, sep="."), _shapes(spec)
    _check_params(leaves, shapes)
    by_name = {slot.name: slot for line in slots(family.tensors, spec, shapes) for slot in line}

    def make(name: str) -> np.ndarray:
        slot = by_name[name]
        # safetensors writes the bytes as they lie, so the axes must lie in order.
        tensor = slot.layout.pack([np.asarray(leaves[path][slot.index]) for path in slot.paths])
        return np.ascontiguousarray(tensor, dtype)

    # Without a word on special tokens, transformers would stop generating at those of the published models.
    header = {"architectures": [family.architecture], "model_type": model_type, "dtype": dtype.name}
    tokens = {"bos_token_id": None, "eos_token_id": None}
    sizes = {name: slot.size * dtype.itemsize for name, slot in by_name.items()}
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
        whole = Path(scratch) / folder.name
        whole.mkdir()
        write_json(whole / "config.json", {**header, **tokens, **config})
        write_tensors(whole, sizes, make, shard)
        whole.rename(folder)


def _floating(dtype: DTypeLike) -> np.dtype:
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"dtype={jnp.dtype(dtype).name} is no floating type; use float32, bfloat16 or float16")
    return jnp.dtype(dtype)


def _shapes(spec: Transformer) -> dict[str, Shape]:
    """The shape of each leaf of the parameters by its dotted path."""
    leaves = flatten_dict(nn.meta.unbox(abstract_params(spec)), sep=".")
    return {path: leaf.shape for path, leaf in leaves.items()}


def _matched(family: Family, wanted: Sequence[Slot], stored: Sequence[Stored]) -> dict[str, Stored]:
    """The stored tensor of each wanted one; raises ValueError unless the two are the same, buffers apart."""
    bare = {tensor.name.removeprefix(family.prefix): tensor for tensor in stored}
    names = {slot.name: slot.name.removeprefix(family.prefix) for slot in wanted}
    missing = [name for name in names if names[name] not in bare]
    if missing:
        raise ValueError(f"the checkpoint lacks tensor {_first(missing)}")
    found = {name: bare[names[name]] for name in names}
    taken = {tensor.name for tensor in found.values()} | set(family.copies)
    unknown = [name for name in (tensor.name for tensor in stored) if name not in taken and not _buffer(family, name)]
    if unknown:
        raise ValueError(f"the checkpoint has unknown tensor {_first(unknown)}")
    for slot in wanted:
        tensor = found[slot.name]
        if tensor.shape != slot.shape:
            raise ValueError(f"tensor {tensor.name!r} has shape {tensor.shape}; config.json asks for {slot.shape}")
        if tensor.dtype not in FLOATS:
            raise ValueError(f"tensor {tensor.name!r} is {tensor.dtype}; only {', '.join(FLOATS)} are supported")
    for copy, original in family.copies.items():
        if copy in bare and copy not in found and not np.array_equal(bare[copy].read(), found[original].read()):
            raise ValueError(f"tensor {copy!r} differs from {original!r}, to which config.json ties it")
    return found


def _buffer(family: Family, name: str) -> bool:
    return any(fnmatchcase(name.removeprefix(family.prefix), pattern) for pattern in family.buffers)


def _filled(
    line: Sequence[Slot], tensors: Mapping[str, Stored], leaves: Mapping[str, Shape], dtype: np.dtype
) -> dict[str, Array]:
    """The leaves that one line of the name table holds, each allocated once and filled layer by layer."""
    arrays = {path: np.empty(leaves[path], dtype) for path in {path for slot in line for path in slot.paths}}
    for slot in line:
        parts = slot.layout.unpack(tensors[slot.name].read(), slot.shapes)
        for path, part in zip(slot.paths, parts, strict=True):
            arrays[path][slot.index] = part
    return {path: jnp.asarray(array) for path, array in arrays.items()}


def _check_params(leaves: Mapping[str, Any], shapes: Mapping[str, Shape]) -> None:
    missing, unknown = [path for path in shapes if path not in leaves], [path for path in leaves if path not in shapes]
    if missing:
        raise ValueError(f"the parameters lack {_first(missing)}")
    if unknown:
        raise ValueError(f"the parameters have {_first(unknown)}, which the spec has not")
    for path, shape in shapes.items():
        if leaves[path].shape != shape:
            raise ValueError(f"parameter {path!r} has shape {leaves[path].shape}; the spec asks for {shape}")


def _first(names: Sequence[str]) -> str:
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{names[0]!r}{more}"
