"""Text as tokens, cut into sequences in an order that is a pure function of (seed, step): resuming needs no state."""

import hashlib
import math
import sysconfig
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import grain
import numpy as np

from train.data.synthetic import TASKS
from train.data.tokenizer import BYTES, VOCAB, Tokenizer, tokenizer_of, warn_unless_whole
from train.errors import UserError

SKIPPED = ("site-packages", "test", "tests", "idlelib", "__pycache__")  # folders of the standard library left out
STANDARD = ("", "stdlib")  # paths of the standard library
COUNTED = 2**24  # kinds of pairs, at most, of which each has a counter
HELD_OUT = 10  # one part in so many is for validation


@dataclass(frozen=True, slots=True, eq=False)
class Tokenized:
    """How a corpus was made of text. widths: bytes of each held-out token. bytes: of both parts."""

    tokenizer: Tokenizer
    widths: np.ndarray
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Corpus:
    """Tokens to learn from and tokens held out, [N], bytes (uint8) where it is not tokenized.

    sha256: of both texts one after the other, and of the tokenizer. parted: how the text was parted in two, in words,
    where that says why one part is short.
    """

    name: str
    train: np.ndarray
    validation: np.ndarray
    sha256: str
    parted: str = ""
    tokenized: Tokenized | None = None

    @property
    def bytes(self) -> int:
        """Size of both parts."""
        return self.train.size + self.validation.size if self.tokenized is None else self.tokenized.bytes

    @property
    def vocab(self) -> int:
        """How many tokens there are."""
        return VOCAB if self.tokenized is None else self.tokenized.tokenizer.vocab

    def bytes_a_token(self, *, length: int, count: int) -> float:
        """Bytes that a predicted token of `validation_windows` stands for, on average; 1 where tokens are bytes."""
        if self.tokenized is None:
            return 1.0
        return float(validation_windows(self.tokenized.widths, length=length, count=count)[:, 1:].mean())

    def check(self, length: int) -> None:
        """Raise UserError unless each part holds at least one sequence of `length` + 1 tokens."""
        unit = "bytes" if self.tokenized is None else "tokens"
        for part, tokens in (("training", self.train), ("validation", self.validation)):
            if tokens.size < length + 1:
                raise UserError(
                    f"{self.name} has {tokens.size} {unit} for {part}, a sequence needs {length + 1}; {self.parted}"
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
    """What a model would lose, in nats a token, that knows nothing, the frequency of tokens, or the one before."""

    log_vocab: float
    unigram_entropy: float
    bigram_entropy: float


def load_corpus(path: str, task: str = "text", tokenizer: str = BYTES, kept: Path = Path("runs/.tokenizers")) -> Corpus:
    """The corpus of a text in tokens, which are its bytes where no tokenizer is named; kept: where learned ones are.

    The text is parted before it is tokenized, and a tokenizer is learned from the part to train on. Raises UserError
    as `load_bytes` does, and for a tokenizer that cannot be had.
    """
    text = load_bytes(path, task)
    if tokenizer == BYTES:
        return text
    return _tokenized(text, tokenizer, kept)


@lru_cache(maxsize=2)  # a sweep asks again
def _tokenized(text: Corpus, name: str, kept: Path) -> Corpus:
    try:
        tokenizer = tokenizer_of(name, text.train.tobytes(), kept)
    except ValueError as error:
        raise UserError(str(error)) from error
    (train, seen), (held_out, widths) = (
        tokenizer.encode(part.tobytes(), text.name) for part in (text.train, text.validation)
    )
    warn_unless_whole(tokenizer, train, text.train[:8000].tobytes(), name)
    return Corpus(
        name=text.name,
        train=train,
        validation=held_out,
        sha256=hashlib.sha256(f"{text.sha256} {tokenizer.sha256}".encode()).hexdigest(),
        parted=text.parted,
        tokenized=Tokenized(tokenizer, widths, int(seen.sum() + widths.sum())),
    )


def load_bytes(path: str, task: str = "text") -> Corpus:
    """The corpus at `path`, a folder, a file, or "stdlib" for the running Python's library; or a synthetic task.

    Files of a folder are read in sorted order, hidden ones left out, and one in ten, by a hash of its name, is held
    out; of a single file the last tenth is. Raises UserError where there is nothing to read; bytes that are not
    UTF-8 only warn.
    """
    if task != "text":
        train, validation = TASKS[task]()
        return _corpus(task, train.tobytes(), validation.tobytes())
    if path in STANDARD:
        return _standard_library()
    place = Path(path)
    if place.is_file():
        return _of_files(place.name, place.parent, [place])
    if not place.is_dir():
        raise UserError(f"there is no corpus at {path}; give a file, a folder or stdlib")
    found = (file for file in place.rglob("*") if file.is_file())
    return _of_files(path, place, [file for file in found if not _hidden(file.relative_to(place))])


def check_apart(path: str, out: Path) -> None:
    """Raise UserError where files written in `out` would be text of the folder `path` when it is read again."""
    text, written = Path(path).resolve(), out.resolve()
    if path in STANDARD or not text.is_dir() or not written.is_relative_to(text):
        return
    if not _hidden(written.relative_to(text)):
        raise UserError(f"out={out} lies in path={path}, a folder whose files are all text; give an out elsewhere")


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
    """Reference losses of the training tokens, from counts of tokens and of pairs."""
    pairs = corpus.train[:-1].astype(np.int64) * corpus.vocab + corpus.train[1:]
    few = corpus.vocab**2 <= COUNTED
    joint = _entropy(np.bincount(pairs) if few else np.unique(pairs, return_counts=True)[1])
    first = _entropy(np.bincount(corpus.train[:-1]))
    unigram = _entropy(np.bincount(corpus.train))
    return Entropies(log_vocab=math.log(corpus.vocab), unigram_entropy=unigram, bigram_entropy=joint - first)


def unigram_nats(corpus: Corpus) -> np.ndarray:
    """[V]: what the best model that sees no context says of each token; of one that never came, as if it had once."""
    counts = np.bincount(corpus.train, minlength=corpus.vocab)
    return np.log(counts.sum()) - np.log(np.maximum(counts, 1))


def _entropy(counts: np.ndarray) -> float:
    """Of the distribution that counts estimate, in nats."""
    share = counts[counts > 0] / counts.sum()
    return float(-(share * np.log(share)).sum())


def batches(tokens: np.ndarray, *, seed: int, steps: range, batch: int, length: int) -> np.ndarray:
    """[steps, batch, length + 1], uint8 of bytes: the sequences of `steps` (from 0 on), wherever in training that is.

    Every place where a sequence can start comes once in an epoch, in an order that depends on the seed and the epoch.
    """
    places = [step * batch + row for step in steps for row in range(batch)]
    return sequences(tokens, places, seed=seed, length=length).reshape(len(steps), batch, length + 1)


def sequences(tokens: np.ndarray, places: Sequence[int], *, seed: int, length: int) -> np.ndarray:
    """[places, length + 1]: the sequences at some places, from 0 on, in the order in which training reads them all."""
    order = _order(tokens.size - length, seed)
    starts = np.array([order[place] for place in places])
    return np.lib.stride_tricks.sliding_window_view(tokens, length + 1)[starts]


@lru_cache(maxsize=64)
def _order(count: int, seed: int) -> grain.MapDataset:
    return grain.MapDataset.range(count).seed(seed).shuffle().repeat()


def validation_windows(tokens: np.ndarray, *, length: int, count: int) -> np.ndarray:
    """[count, length + 1], uint8 of bytes: evenly spaced held-out sequences; fewer where they do not suffice."""
    count = min(count, tokens.size // (length + 1))
    starts = np.linspace(0, tokens.size - (length + 1), count).astype(int)
    return np.lib.stride_tricks.sliding_window_view(tokens, length + 1)[starts]
