"""Text as bytes, cut into sequences in an order that is a pure function of (seed, step): resuming needs no state."""

import hashlib
import math
import sysconfig
import warnings
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import grain
import numpy as np

from train.data.synthetic import TASKS
from train.errors import UserError

VOCAB = 256  # bytes
SKIPPED = ("site-packages", "test", "tests", "idlelib", "__pycache__")  # folders of the standard library left out
HELD_OUT = 10  # one part in so many is for validation


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Corpus:
    """Bytes to learn from and bytes held out, uint8 [N]; sha256 of both one after the other.

    parted: how the text was parted in two, in words, where that says why one part is short.
    """

    name: str
    train: np.ndarray
    validation: np.ndarray
    sha256: str
    parted: str = ""

    @property
    def bytes(self) -> int:
        """Size of both parts."""
        return self.train.size + self.validation.size

    def check(self, length: int) -> None:
        """Raise UserError unless each part holds at least one sequence of `length` + 1 bytes."""
        for part, tokens in (("training", self.train), ("validation", self.validation)):
            if tokens.size < length + 1:
                raise UserError(
                    f"{self.name} has {tokens.size} bytes for {part}, a sequence needs {length + 1}; {self.parted}"
                    "give more text or a smaller length"
                )


def opening(corpus: Corpus) -> str:
    """How a line of the held-out text begins, two words of it, for a model to go on from; "" where it is no text."""
    text = corpus.validation[:PAGE].tobytes().decode("utf8", errors="replace")
    for line in text.splitlines()[1:-1]:  # the first one may begin, and the last one end, within a word
        words = line.split()
        if len(words) > 1 and line.strip().isprintable() and "\ufffd" not in line:
            return " ".join(words[:2])
    return ""


PAGE = 8192  # bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Entropies:
    """What a model would lose, in nats a byte, that knows nothing, the frequency of bytes, or the one byte before."""

    log_vocab: float
    unigram_entropy: float
    bigram_entropy: float


def load_corpus(path: str, task: str = "text") -> Corpus:
    """The corpus at `path`, a folder, a file, or "stdlib" for the running Python's library; or a synthetic task.

    Files of a folder are read in sorted order, hidden ones left out, and one in ten, by a hash of its name, is held
    out; of a single file the last tenth is. Raises UserError where there is nothing to read; bytes that are not
    UTF-8 only warn.
    """
    if task != "text":
        train, validation = TASKS[task]()
        return _corpus(task, train.tobytes(), validation.tobytes())
    if path in ("", "stdlib"):
        return _standard_library()
    place = Path(path)
    if place.is_file():
        return _of_files(place.name, place.parent, [place])
    if not place.is_dir():
        raise UserError(f"there is no corpus at {path}; give a file, a folder or stdlib")
    found = (file for file in place.rglob("*") if file.is_file())
    return _of_files(path, place, [file for file in found if not _hidden(file.relative_to(place))])


@lru_cache(maxsize=1)
def _standard_library() -> Corpus:
    root = Path(sysconfig.get_paths()["stdlib"])
    kept = [file for file in root.rglob("*.py") if not set(file.relative_to(root).parts) & set(SKIPPED)]
    return _of_files("stdlib", root, kept)


def _hidden(name: Path) -> bool:
    return any(part.startswith(".") for part in name.parts)


def _of_files(name: str, root: Path, files: list[Path]) -> Corpus:
    """A lone file is cut in two; of several, those whose hash says so are held out, and at least one. Empty ones are
    none."""
    read = {file.relative_to(root).as_posix(): file.read_bytes() for file in sorted(files)}
    texts = {file: text for file, text in read.items() if text}
    if not texts:
        raise UserError(f"the corpus {name} is empty; give a file or a folder with text")
    for file, text in texts.items():
        _warn_unless_text(file, text)
    if len(texts) == 1:
        (text,) = texts.values()
        cut = len(text) - len(text) // HELD_OUT
        return _corpus(name, text[:cut], text[cut:])
    digests = {file: hashlib.sha256(file.encode()).digest() for file in texts}
    held_out = {file for file, digest in digests.items() if digest[0] % HELD_OUT == 0}
    if len(held_out) in (0, len(texts)):
        held_out = {min(texts, key=digests.__getitem__)}
    train = b"".join(text for file, text in texts.items() if file not in held_out)
    named = ", ".join(sorted(held_out)[:3]) + (", …" if len(held_out) > 3 else "")
    parted = (
        f"of its {len(texts)} files {len(held_out)} are held out, chosen by their names ({named}): "
        "join them into one file, of which the last tenth is held out, or "
    )
    return _corpus(name, train, b"".join(texts[file] for file in texts if file in held_out), parted)


def _corpus(name: str, train: bytes, validation: bytes, parted: str = "") -> Corpus:
    return Corpus(
        name=name,
        train=np.frombuffer(train, np.uint8),
        validation=np.frombuffer(validation, np.uint8),
        sha256=hashlib.sha256(train + validation).hexdigest(),
        parted=parted,
    )


def _warn_unless_text(file: str, text: bytes) -> None:
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


def unigram_nats(corpus: Corpus) -> np.ndarray:
    """[256]: what the best model that sees no context says of each byte; of one that never came, as if it had once."""
    counts = np.bincount(corpus.train, minlength=VOCAB)
    return np.log(counts.sum()) - np.log(np.maximum(counts, 1))


def _entropy(counts: np.ndarray) -> float:
    """Of the distribution that counts estimate, in nats."""
    share = counts[counts > 0] / counts.sum()
    return float(-(share * np.log(share)).sum())


def batches(tokens: np.ndarray, *, seed: int, steps: range, batch: int, length: int) -> np.ndarray:
    """uint8 [steps, batch, length + 1]: the sequences of `steps` (counted from 0), wherever in training that is.

    Every place where a sequence can start comes once in an epoch, in an order that depends on the seed and the epoch.
    """
    order = _order(tokens.size - length, seed)
    starts = np.array([[order[step * batch + row] for row in range(batch)] for step in steps])
    return np.lib.stride_tricks.sliding_window_view(tokens, length + 1)[starts]


@lru_cache(maxsize=64)
def _order(count: int, seed: int) -> grain.MapDataset:
    return grain.MapDataset.range(count).seed(seed).shuffle().repeat()


def validation_windows(tokens: np.ndarray, *, length: int, count: int) -> np.ndarray:
    """uint8 [count, length + 1]: evenly spaced sequences of the held-out bytes; fewer where they do not suffice."""
    count = min(count, tokens.size // (length + 1))
    starts = np.linspace(0, tokens.size - (length + 1), count).astype(int)
    return np.lib.stride_tricks.sliding_window_view(tokens, length + 1)[starts]
