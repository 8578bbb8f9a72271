"""Text as bytes, cut into sequences in an order that is a pure function of (seed, step): resuming needs no state."""

import hashlib
import math
import sysconfig
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import grain
import numpy as np

from train.synthetic import TASKS

VOCAB = 256  # bytes
SKIPPED = ("site-packages", "test", "tests", "idlelib", "__pycache__")  # folders of the standard library left out
HELD_OUT = 10  # one part in so many is for validation


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Corpus:
    """Bytes to learn from and bytes held out, uint8 [N]; sha256 of both one after the other."""

    name: str
    train: np.ndarray
    validation: np.ndarray
    sha256: str

    @property
    def bytes(self) -> int:
        """Size of both parts."""
        return self.train.size + self.validation.size

    def check(self, length: int) -> None:
        """Raise ValueError unless each part holds at least one sequence of `length` + 1 bytes."""
        for part, tokens in (("training", self.train), ("validation", self.validation)):
            if tokens.size < length + 1:
                raise ValueError(
                    f"{self.name} has {tokens.size} bytes for {part}, a sequence needs {length + 1}; "
                    "give more text or a smaller length"
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class Entropies:
    """What a model of so much context would lose, in nats a byte: none at all, one byte's frequency, one byte before."""

    log_vocab: float
    unigram_entropy: float
    bigram_entropy: float


def load_corpus(path: str, task: str = "text") -> Corpus:
    """The corpus at `path`: "stdlib" for the running Python's standard library, a folder or a file; or a synthetic task.

    Files of a folder are read in sorted order and one in ten, by a hash of its name, is held out; of a single file
    the last tenth is. Raises ValueError where there is nothing to read; bytes that are not UTF-8 only warn.
    """
    if task != "text":
        train, validation = TASKS[task]()
        return _corpus(task, [train.tobytes()], [validation.tobytes()])
    if path == "stdlib":
        return _standard_library()
    place = Path(path)
    if place.is_dir():
        return _of_files(str(place), place, sorted(file for file in place.rglob("*") if file.is_file()))
    if not place.is_file():
        raise ValueError(f"there is no corpus at {path}")
    text = place.read_bytes()
    _warn_unless_text(place, text)
    cut = len(text) - len(text) // HELD_OUT
    return _corpus(place.name, [text[:cut]], [text[cut:]])


@lru_cache(maxsize=1)
def _standard_library() -> Corpus:
    root = Path(sysconfig.get_paths()["stdlib"])
    files = sorted(root.rglob("*.py"))
    kept = [file for file in files if not set(file.relative_to(root).parts) & set(SKIPPED)]
    return _of_files("stdlib", root, kept)


def _of_files(name: str, root: Path, files: list[Path]) -> Corpus:
    train, validation = [], []
    for file in files:
        text = file.read_bytes()
        _warn_unless_text(file, text)
        digest = hashlib.sha256(file.relative_to(root).as_posix().encode()).digest()
        (validation if digest[0] % HELD_OUT == 0 else train).append(text)
    if len(files) > 1 and not validation:
        validation = [train.pop()]
    return _corpus(name, train, validation)


def _corpus(name: str, train: list[bytes], validation: list[bytes]) -> Corpus:
    first, second = b"".join(train), b"".join(validation)
    if not first + second:
        raise ValueError(f"the corpus {name} is empty")
    return Corpus(
        name=name,
        train=np.frombuffer(first, np.uint8),
        validation=np.frombuffer(second, np.uint8),
        sha256=hashlib.sha256(first + second).hexdigest(),
    )


def _warn_unless_text(file: Path, text: bytes) -> None:
    try:
        text.decode("utf8")
    except UnicodeDecodeError as error:
        warnings.warn(f"{file} is not UTF-8 (byte {error.start}); its bytes are used as they are", stacklevel=3)


def entropies(corpus: Corpus) -> Entropies:
    """Reference losses of the training bytes, from counts of bytes and of pairs."""
    pairs = corpus.train[:-1].astype(np.int64) * VOCAB + corpus.train[1:]
    joint = _entropy(np.bincount(pairs, minlength=VOCAB * VOCAB))
    first = _entropy(np.bincount(corpus.train[:-1], minlength=VOCAB))
    unigram = _entropy(np.bincount(corpus.train, minlength=VOCAB))
    return Entropies(log_vocab=math.log(VOCAB), unigram_entropy=unigram, bigram_entropy=joint - first)


def _entropy(counts: np.ndarray) -> float:
    """Of the distribution that counts estimate, in nats."""
    share = counts[counts > 0] / counts.sum()
    return float(-(share * np.log(share)).sum())


def batches(tokens: np.ndarray, *, seed: int, steps: range, batch: int, length: int) -> np.ndarray:
    """uint8 [steps, batch, length + 1]: the sequences of `steps` (counted from 0), wherever in training that is.

    Every place where a sequence can start comes once in an epoch, in an order that depends on the seed and the epoch.
    """
    order = _order(tokens.size - length, seed)
    starts = np.array([order[i] for i in range(steps.start * batch, steps.stop * batch)])
    windows = np.lib.stride_tricks.sliding_window_view(tokens, length + 1)
    return windows[starts].reshape(len(steps), batch, length + 1)


@lru_cache(maxsize=64)
def _order(count: int, seed: int) -> Callable[[int], int]:
    return grain.MapDataset.range(count).seed(seed).shuffle().repeat()


def validation_windows(tokens: np.ndarray, *, length: int, count: int) -> np.ndarray:
    """uint8 [count, length + 1]: evenly spaced sequences of the held-out bytes; fewer where they do not suffice."""
    count = min(count, tokens.size // (length + 1))
    starts = np.linspace(0, tokens.size - (length + 1), count).astype(int)
    return np.lib.stride_tricks.sliding_window_view(tokens, length + 1)[starts]
