"""The files of a checkpoint: config.json, and tensors in one .safetensors file or in several with an index."""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
FLOAT8 = "F8_E4M3"


class Stored(NamedTuple):
    """A tensor in a file, or one made of several; nothing is read before `read()`, and what it gives is not kept.

    dtype: as a file's header says it, such as "BF16".
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], np.ndarray]


def _library() -> ModuleType:
    """The optional dependency; raises ImportError with the remedy where it is missing."""
    try:
        import safetensors.numpy
    except ImportError as error:
        raise ImportError("checkpoints need safetensors; install it with: pip install fxformer[hf]") from error
    return safetensors


def read_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file; raises ValueError where there is none."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"), parse_constant=_no_number)
    except FileNotFoundError:
        raise ValueError(f"{file.parent} has no {file.name}; give the folder of a checkpoint") from None
    except OSError as error:
        raise ValueError(f"{file} cannot be read: {error.strerror}") from None
    except RecursionError:
        raise ValueError(f"{file} nests its lists and objects too deeply to be read") from None
    except ValueError as error:
        raise ValueError(f"{file} is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{file} holds no JSON object")
    return content


def _no_number(name: str) -> None:
    """NaN and infinities, which Python reads and JSON has not."""
    raise ValueError(f"it holds {name}, which is no number")


def write_json(file: Path, content: Mapping[str, Any]) -> None:
    """Write an object, one key on a line."""
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


@contextmanager
def open_tensors(folder: Path) -> Iterator[list[Stored]]:
    """The tensors of a checkpoint, readable inside of the `with`."""
    library = _library()
    with ExitStack() as stack:
        stored = []
        places = _places(folder)
        for path in _files(folder, places):
            try:
                file = stack.enter_context(library.safe_open(path, framework="np"))
            except (library.SafetensorError, OSError) as error:
                raise ValueError(f"{path} cannot be read: {error}") from None
            stored += [tensor for tensor in _tensors(path, file) if places.get(tensor.name, path.name) == path.name]
        yield stored


def _tensors(path: Path, file: Any) -> Iterator[Stored]:
    """The tensors of an open file. safetensors hands NumPy no floats of 8 bits; those are read from where they lie.

    A file is the length of its header in 8 bytes, the header in JSON, and the bytes of the tensors.
    """
    with path.open("rb") as content:
        length = int.from_bytes(content.read(8), "little")
        header = json.loads(content.read(length))
    for name in file.keys():  # noqa: SIM118 (no mapping)
        shape, dtype, (begin, _) = tuple(header[name]["shape"]), header[name]["dtype"], header[name]["data_offsets"]
        read = partial(_float8, path, 8 + length + begin, shape) if dtype == FLOAT8 else partial(file.get_tensor, name)
        yield Stored(name, shape, dtype, read)


def _float8(path: Path, offset: int, shape: tuple[int, ...]) -> np.ndarray:
    return np.fromfile(path, jnp.dtype("float8_e4m3fn"), math.prod(shape), offset=offset).reshape(shape)


def _places(folder: Path) -> dict[str, str]:
    """The file of each tensor by the index, which is asked where there is no single file."""
    if (folder / SINGLE).exists() or not (folder / INDEX).exists():
        return {}
    places = read_json(folder / INDEX).get("weight_map")
    beside = isinstance(places, dict) and all(map(_is_file_name, places.values()))
    if not places or not beside:
        raise ValueError(f"{folder / INDEX} has no weight_map from each tensor to a file beside it")
    return places


def _is_file_name(name: Any) -> bool:
    """Whether it names a file of the same folder."""
    return type(name) is str and name not in ("", "..") and Path(name).name == name and name.isprintable()


def _files(folder: Path, places: Mapping[str, str]) -> list[Path]:
    if (folder / SINGLE).exists():
        return [folder / SINGLE]
    if places:
        return [folder / name for name in sorted(set(places.values()))]
    found = sorted(folder.glob("*.safetensors"))
    if len(found) != 1:
        raise ValueError(f"{folder} has {len(found)} .safetensors files and no {INDEX}; give one file, or the index")
    return found


def write_tensors(folder: Path, sizes: Mapping[str, int], make: Callable[[str], np.ndarray], shard: int) -> None:
    """Write tensors of `sizes` bytes, made one file at a time, in files of at most `shard` bytes (or one tensor)."""
    files = _shards(sizes, shard)
    names = [f"model-{i:05}-of-{len(files):05}.safetensors" for i in range(1, len(files) + 1)]
    if len(files) == 1:
        names = [SINGLE]
    else:
        weights = {tensor: name for name, tensors in zip(names, files, strict=True) for tensor in tensors}
        write_json(folder / INDEX, {"metadata": {"total_size": sum(sizes.values())}, "weight_map": weights})
    for name, tensors in zip(names, files, strict=True):
        content = {tensor: make(tensor) for tensor in tensors}
        _library().numpy.save_file(content, folder / name, metadata={"format": "pt"})


def _shards(sizes: Mapping[str, int], shard: int) -> list[list[str]]:
    """Tensors in order, in as few runs of at most `shard` bytes as that order allows."""
    files: list[list[str]] = [[]]
    used = 0
    for name, size in sizes.items():
        if files[-1] and used + size > shard:
            files.append([])
            used = 0
        files[-1].append(name)
        used += size
    return files
