"""`load` and `save`: a folder of transformers becomes a Spec and parameters, and back."""

import warnings
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from functools import partial
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import Array
from jax.sharding import Mesh, Sharding
from jax.typing import DTypeLike

from fxformer.given import floating
from fxformer.hf.carried import copy_files
from fxformer.hf.families import FAMILIES, express, family_of
from fxformer.hf.family import Family, Settings, settings, unread
from fxformer.hf.files import Stored, open_tensors, read_json, write_json, write_tensors
from fxformer.hf.kinds import check_room
from fxformer.hf.layout import Shape
from fxformer.hf.names import Slot, slots
from fxformer.hf.parts import Parts, lines_of, other_class, stored_parts
from fxformer.hf.quantization import dequantiser
from fxformer.model import Params, Transformer, abstract_params
from fxformer.sharding import Rules, param_shardings, plan

FLOATS = ("F64", "F32", "F16", "BF16")
# Our paths of a head's matrix over the vocabulary, in the place of which the table of the embedding may stand.
READOUTS = ("head.out.weight", "head.readout.out.weight")


def load(
    path: str | PathLike[str],
    *,
    dtype: DTypeLike = jnp.float32,
    mesh: Mesh | None = None,
    rules: Rules | None = None,
    strict: bool = False,
) -> tuple[Transformer, Params]:
    """Read a checkpoint of transformers: config.json and safetensors, memory-mapped, one tensor at a time.

    dtype: of the parameters, whatever the dtype of the checkpoint; quantised ones are dequantised as they are read, see
    `fxformer.hf.quantization`. mesh, rules: where parameters go, each as soon as it is read, so that no device ever
    holds them all; see `fxformer.sharding`. strict: refuse settings that nothing reads, of which a UserWarning says the
    names otherwise. Raises ValueError for a setting or tensor that is unknown, missing or of another shape, for a
    quantisation that is not read and a mesh that does not fit, ImportError without safetensors.
    """
    if (mesh is None) != (rules is None):
        raise ValueError("mesh and rules say together where parameters go; give both or neither")
    folder, dtype = Path(path), floating(dtype)
    config = read_json(folder / "config.json")
    family = family_of(config)
    understood = settings(family, config)
    ignored = unread(family, config, understood)
    if ignored and strict:
        raise ValueError(f"config.json has {', '.join(ignored)}, which is unknown; remove it if it changes no logits")
    dequantise = dequantiser(config)
    params: dict[str, Array] = {}
    with open_tensors(folder) as opened:
        files = dequantise(opened)
        stored = {_bare(family, tensor.name): tensor for tensor in files}
        amended = family.amend(understood, stored)
        parts = stored_parts(family, amended["parts"], stored, partial(_bare, family))
        amended = {**amended, "parts": parts}
        # What config.json leaves out is no slip of the pen, and may be of a part that this model has not.
        said = {key: value for key, value in amended.items() if value != family.defaults.get(key)}
        check_room(said, files, family.unseen)
        spec = family.read(_as_stored(family, amended, stored))
        leaves, places = _shapes(spec), _places(spec, mesh, rules)
        lines = _lines(family, parts, spec, leaves, stored)
        wanted = [slot for line in lines for slot in line]
        instead = _instead(family, wanted, stored, tied=amended["tie_word_embeddings"])
        hint = other_class(family, config)
        tensors = _matched(family, wanted, files, stored, instead, depth=spec.stack.depth, hint=hint)
        for line in lines:
            filled = _filled(line, tensors, leaves, dtype)
            params |= {path: jax.device_put(array, places.get(path)) for path, array in filled.items()}
    if ignored:
        warnings.warn(
            f"config.json has {', '.join(ignored)}, which nothing reads; strict=True refuses it", stacklevel=2
        )
    return spec, unflatten_dict(params, sep=".")


def save(
    spec: Transformer,
    params: Params,
    path: str | PathLike[str],
    *,
    dtype: DTypeLike = jnp.float32,
    shard: int = 5 * 10**9,
    like: str | PathLike[str] | None = None,
) -> None:
    """Write a folder that transformers loads; it appears whole or not at all.

    dtype: of the tensors in the files. shard: bytes of a file at most, and what is held in memory beside the
    parameters. like: a folder, such as the one that was loaded, whose special tokens, longest text, tokenizer and
    settings of generation are taken over (`fxformer.hf.carried`), since no spec says them; without it, config.json says
    that there are no special tokens. The files say nothing of training: initialisers and dropout are left out where the
    family has none.
    Raises ValueError where no family computes what `spec` does or `params` are not its, FileExistsError where there
    is something at `path`, ImportError without safetensors.
    """
    folder, dtype = Path(path), floating(dtype)
    if folder.exists():
        raise FileExistsError(f"{folder} exists already; give a new path")
    model_type, parts, config = express(spec, None if like is None else read_json(Path(like) / "config.json"))
    family = FAMILIES[model_type]
    leaves, shapes = flatten_dict(params, sep="."), _shapes(spec)
    _check_params(leaves, shapes)
    table = (*family.tensors, *lines_of(family, parts))
    by_name = {slot.name: slot for line in slots(table, spec, shapes) for slot in line}
    by_name |= {copy: by_name[family.copies[copy]] for copy in family.repeated}

    def make(name: str) -> np.ndarray:
        slot = by_name[name]
        # safetensors writes the bytes as they lie, so the axes must lie in order.
        tensor = slot.layout.pack([np.asarray(leaves[path][slot.index]) for path in slot.paths])
        return np.ascontiguousarray(tensor, dtype)

    # Without a word on special tokens, transformers would take those of the published models, whatever our vocabulary.
    header = {"model_type": model_type, "dtype": dtype.name}
    tokens = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    sizes = {name: slot.size * dtype.itemsize for name, slot in by_name.items()}
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
        whole = Path(scratch) / folder.name
        whole.mkdir()
        write_json(whole / "config.json", {**header, **tokens, **config})
        if like is not None:
            copy_files(Path(like), whole)
        write_tensors(whole, sizes, make, shard)
        whole.rename(folder)


def _shapes(spec: Transformer) -> dict[str, Shape]:
    """The shape of each leaf of the parameters by its dotted path."""
    leaves = flatten_dict(nn.meta.unbox(abstract_params(spec)), sep=".")
    return {path: leaf.shape for path, leaf in leaves.items()}


def _places(spec: Transformer, mesh: Mesh | None, rules: Rules | None) -> dict[str, Sharding]:
    """Where each leaf goes, by its dotted path; nothing without a mesh. ValueError where an axis does not fit."""
    if mesh is None or rules is None:
        return {}
    plan(spec, mesh, rules)
    return flatten_dict(param_shardings(spec, mesh, rules), sep=".")


def _bare(family: Family, name: str) -> str:
    """A name in a checkpoint as it would be today, in one of the bare model."""
    for old, new in family.renamed.items():
        if name.endswith(old):
            name = name.removesuffix(old) + new
    return name.removeprefix(family.prefix)


def _as_stored(family: Family, settings: Settings, stored: Mapping[str, Stored]) -> Settings:
    """A head that config.json ties is one of its own where it is stored beside the table and differs from it.

    So does transformers 5, whatever `tie_word_embeddings` says.
    """
    lines = (*family.tensors, *lines_of(family, settings["parts"]))
    name = next((line.name for line in lines if line.paths[0] in READOUTS and line.name in family.copies), None)
    if name is None or not settings["tie_word_embeddings"]:
        return settings
    original = family.copies[name]
    tables = [original, *(copy for copy, of in family.copies.items() if of == original and copy != name)]
    table = next((stored[bare] for bare in (_bare(family, name) for name in tables) if bare in stored), None)
    head = stored.get(_bare(family, name))
    tied = head is None or table is None or np.array_equal(head.read(), table.read())
    return {**settings, "tie_word_embeddings": tied}


def _lines(
    family: Family, parts: Parts, spec: Transformer, leaves: Mapping[str, Shape], stored: Mapping[str, Stored]
) -> list[list[Slot]]:
    """The lines of the first name table with the most names in the checkpoint."""

    def known(lines: list[list[Slot]]) -> int:
        return sum(_bare(family, slot.name) in stored for line in lines for slot in line)

    tables = [(*body, *lines_of(family, parts)) for body in (family.tensors, *family.others)]
    return max([slots(table, spec, leaves, len(stored) + 1) for table in tables], key=known)


def _copies(family: Family) -> dict[str, str]:
    return {_bare(family, copy): _bare(family, original) for copy, original in family.copies.items()}


def _instead(family: Family, wanted: Sequence[Slot], stored: Mapping[str, Stored], *, tied: bool) -> dict[str, str]:
    """What stands for a wanted tensor that is not stored: the first copy of it that is no parameter of its own.

    tied: what is a parameter of its own, though config.json ties it, may be left to its original in its turn.
    """
    own = {_bare(family, slot.name) for slot in wanted}
    instead: dict[str, str] = {}
    for copy, original in _copies(family).items():
        if copy in stored and copy not in own:
            instead.setdefault(original, copy)
        elif tied and copy in own:
            instead[copy] = original
    return {name: other for name, other in instead.items() if name not in stored}


def _matched(
    family: Family,
    wanted: Sequence[Slot],
    files: Sequence[Stored],
    stored: Mapping[str, Stored],
    instead: Mapping[str, str],
    *,
    depth: int,
    hint: str,
) -> dict[str, Stored]:
    """The stored tensor of each wanted one; raises ValueError unless the two are the same, buffers apart.

    hint: what to say of the class, where the tensors are not those of it.
    """
    copies = _copies(family)
    found: dict[str, Stored] = {}
    for slot in wanted:
        bare = _bare(family, slot.name)
        tensor = stored.get(instead.get(bare, bare))
        if tensor is not None:
            found[slot.name] = tensor
    missing = [slot.name for slot in wanted if slot.name not in found]
    if missing:
        raise ValueError(f"the checkpoint lacks tensor {_first(missing)}{hint}")
    held = {_bare(family, name): tensor for name, tensor in found.items()}
    repeats = [
        (stored[copy], held[original])
        for copy, original in copies.items()
        if copy in stored and copy not in held and original in held
    ]
    taken = {tensor.name for tensor in held.values()} | {repeat.name for repeat, _ in repeats}
    ignored = [pattern.format(depth=depth) for pattern in family.buffers]
    unread = [tensor.name for tensor in files if tensor.name not in taken]
    unknown = [name for name in unread if not any(fnmatchcase(name.removeprefix(family.prefix), p) for p in ignored)]
    if unknown:
        raise ValueError(f"the checkpoint has unknown tensor {_first(unknown)}{hint}")
    for slot in wanted:
        tensor = found[slot.name]
        if tensor.shape != slot.shape:
            raise ValueError(
                f"tensor {tensor.name!r} has shape {tensor.shape}; config.json asks for {slot.shape}{hint}"
            )
        if tensor.dtype not in FLOATS:
            raise ValueError(f"tensor {tensor.name!r} is {tensor.dtype}; only {', '.join(FLOATS)} are supported")
    for repeat, original in repeats:
        if not np.array_equal(repeat.read(), original.read()):
            raise ValueError(f"tensor {repeat.name!r} differs from {original.name!r}; only a copy of it is supported")
    return found


def _filled(
    line: Sequence[Slot], tensors: Mapping[str, Stored], leaves: Mapping[str, Shape], dtype: np.dtype
) -> dict[str, np.ndarray]:
    """The leaves that one line of the name table holds, each allocated once and filled layer by layer."""
    arrays = {path: np.empty(leaves[path], dtype) for path in {path for slot in line for path in slot.paths}}
    for slot in line:
        parts = slot.layout.unpack(tensors[slot.name].read(), slot.shapes)
        for path, part in zip(slot.paths, parts, strict=True):
            arrays[path][slot.index] = part
    return arrays


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
