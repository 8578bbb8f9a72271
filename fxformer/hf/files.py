"""The files of a checkpoint: config.json, and tensors in one .safetensors file or in several with an index."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"


class Stored(NamedTuple):
    """A tensor in a memory-mapped file; nothing is read before `read`."""

    name: str
    file: Any

    def read(self) -> np.ndarray:
        """The tensor in its own dtype."""
        return self.file.get_tensor(self.name)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape in the file's header."""
        return tuple(self.file.get_slice(self.name).get_shape())

    @property
    def dtype(self) -> str:
        """The dtype in the file's header, such as "BF16"."""
        return self.file.get_slice(self.name).get_dtype()


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
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{file.parent} has no {file.name}; give the folder of a checkpoint") from None
    except ValueError as error:
        raise ValueError(f"{file} is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{file} holds no JSON object")
    return content


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
            except (library.SafetensorError, FileNotFoundError) as error:
                raise ValueError(f"{path} cannot be read: {error}") from None
            names = [name for name in file.keys() if places.get(name, path.name) == path.name]  # noqa: SIM118 (no mapping)
            stored += [Stored(name, file) for name in names]
        yield stored


def _places(folder: Path) -> dict[str, str]:
    """The file of each tensor by the index, which is asked where there is no single file."""
    if (folder / SINGLE).exists() or not (folder / INDEX).exists():
        return {}
    places = read_json(folder / INDEX).get("weight_map")
    beside = isinstance(places, dict) and all(type(name) is str and Path(name).name == name for name in places.values())
    if not places or not beside:
        raise ValueError(f"{folder / INDEX} has no weight_map from each tensor to a file beside it")
    return places


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
