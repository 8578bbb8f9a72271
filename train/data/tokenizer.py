"""Tokens that are more than bytes, by the package tokenizers: a tokenizer.json, or byte-level BPE of the text.

A setting `tokenizer` is "bytes", the path of a tokenizer.json, or "bpe:4096" for a vocabulary of so many tokens that is
learned from the text to train on and kept under the text's hash. Bytes need no package and no file.
"""

import codecs
import hashlib
import json
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from train.errors import UserError
from train.files import write_whole

BYTES, VOCAB = "bytes", 256
LARGEST = 2**20  # tokens of a vocabulary
PIECE = 2**16  # characters that are read at once; pieces end with a line
LEARNED = re.compile(r"bpe:(\d{1,9})")


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """What a tokenizer.json says. vocab: how many ids there are. sha256: of the file."""

    content: bytes

    @property
    def vocab(self) -> int:
        """One more than the largest id, with those that are not text."""
        return _vocab(self.content)

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    def encode(self, text: bytes, name: str = "the text") -> tuple[np.ndarray, np.ndarray]:
        """Ids of the text, and how many of its bytes each stands for: they sum to all of them. Halves of characters at
        its ends are left out. Raises UserError for what is not UTF-8."""
        ids: list[int] = []
        widths = [np.zeros(0, np.int64)]
        pieces = list(_pieces(_characters(text, name)))
        read = _package(self.content).encode_batch(pieces, add_special_tokens=False)
        for piece, told in zip(pieces, read, strict=True):
            ids += told.ids
            widths.append(_widths(piece, told.offsets))
        dtype = np.uint16 if self.vocab <= 2**16 else np.uint32
        return np.array(ids, dtype), np.concatenate(widths)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids; those that are none are passed over."""
        return _package(self.content).decode([each for each in ids if each < self.vocab])


def vocab_of(tokenizer: str) -> int:
    """How many tokens of text there are. Raises ValueError for what names no tokenizer."""
    if tokenizer == BYTES:
        return VOCAB
    found = LEARNED.fullmatch(tokenizer)
    if found is None:
        return _of_file(tokenizer).vocab
    size = int(found[1])
    if not VOCAB < size <= LARGEST:
        raise ValueError(f"tokenizer={tokenizer!r} is out of range; use bpe:{VOCAB + 1} to bpe:{LARGEST}, or bytes")
    return size


def tokenizer_of(name: str, text: bytes, kept: Path) -> Tokenizer:
    """The tokenizer of this name; one that is learned, from `text`, is kept in the folder `kept`.

    Raises UserError where the package is missing, or the text has too few pairs for so many tokens.
    """
    if LEARNED.fullmatch(name) is None:
        return _of_file(name)
    size = vocab_of(name)
    file = kept / f"{hashlib.sha256(text).hexdigest()[:16]}-{size}.json"
    if not file.exists():
        content = _learn(_pieces(_characters(text, "the text")), size)
        if _vocab(content) < size:
            raise UserError(f"tokenizer={name!r} is more than the text gives; use bpe:{_vocab(content)}, or more text")
        kept.mkdir(parents=True, exist_ok=True)
        write_whole(file, content)
    return _of_file(str(file))


def _of_file(path: str) -> Tokenizer:
    """The tokenizer in a file. Raises ValueError where there is none."""
    wanted = "give bytes, bpe:4096, or the path of a tokenizer.json"
    try:
        if not Path(path).is_file():
            raise ValueError(f"tokenizer={path!r} is no file; {wanted}")
        seen = Path(path).stat()
        content = _read(path, seen.st_mtime_ns, seen.st_size)
    except OSError as error:
        raise ValueError(f"tokenizer={path!r} cannot be read: {error.strerror}") from None
    try:
        _vocab(content)
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ValueError(f"tokenizer={path!r} is no tokenizer.json; {wanted}") from None
    return Tokenizer(content)


@lru_cache(maxsize=16)  # each cell of a grid asks
def _read(path: str, changed: int, size: int) -> bytes:
    return Path(path).read_bytes()


@lru_cache(maxsize=16)
def _vocab(content: bytes) -> int:
    """One more than the largest id of a tokenizer.json; a vocabulary is a table, or a list of pairs (Unigram)."""
    said = json.loads(content)
    listed = said["model"]["vocab"]
    ids = list(listed.values()) if isinstance(listed, dict) else list(range(len(listed)))
    return 1 + max([*ids, *(each["id"] for each in said.get("added_tokens", ()))])


@lru_cache(maxsize=4)
def _package(content: bytes) -> Any:
    try:
        return _library().Tokenizer.from_buffer(content)
    except ValueError as error:
        raise UserError(f"the tokenizer cannot be read by the package tokenizers: {error}") from None


def _library() -> Any:
    try:
        import tokenizers
    except ImportError:
        raise UserError(
            "a tokenizer other than bytes takes the package tokenizers; install it with: pip install tokenizers"
        ) from None
    return tokenizers


def _learn(pieces: Iterator[str], size: int) -> bytes:
    """256 bytes, then the most frequent pair, again and again. Sennrich et al. 2016; Radford et al. 2019 (GPT-2)."""
    library = _library()
    learner = library.Tokenizer(library.models.BPE())
    learner.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    learner.decoder = library.decoders.ByteLevel()
    alphabet = library.pre_tokenizers.ByteLevel.alphabet()
    trainer = library.trainers.BpeTrainer(vocab_size=size, initial_alphabet=sorted(alphabet), show_progress=False)
    learner.train_from_iterator(pieces, trainer)
    return learner.to_str().encode()


def _characters(text: bytes, name: str) -> str:
    """The text without halves of characters at its ends, which a cut between bytes leaves."""
    begin = next((i for i in range(min(4, len(text))) if text[i] & 0xC0 != 0x80), 0)
    try:
        return codecs.getincrementaldecoder("utf8")().decode(text[begin:])  # it keeps half a character back
    except UnicodeDecodeError as error:
        raise UserError(
            f"{name} is not UTF-8 (byte {begin + error.start}), which tokenizers read; use tokenizer=bytes"
        ) from None


def _pieces(text: str) -> Iterator[str]:
    """Parts of the text that end with a line where they can."""
    begin = 0
    while begin < len(text):
        end = text.rfind("\n", begin, begin + PIECE) + 1 or begin + PIECE
        yield text[begin:end]
        begin = end


def _widths(piece: str, offsets: Sequence[tuple[int, int]]) -> np.ndarray:
    """Bytes up to the end of each token, less those before it: what no token covers counts for the next one, and for
    the last. Of tokens within a character the first has all of it."""
    codes = np.frombuffer(piece.encode("utf-32-le"), np.uint32)
    ends = np.concatenate([[0], np.cumsum(1 + (codes >= 0x80) + (codes >= 0x800) + (codes >= 0x10000))])
    last = np.maximum.accumulate(np.array([end for _, end in offsets], np.int64))
    if not last.size:
        return last
    last[-1] = len(piece)
    return np.diff(ends[last], prepend=0)


def warn_unless_whole(tokenizer: Tokenizer, ids: np.ndarray, text: bytes, name: str) -> None:
    """Say once where a tokenizer does not give the text back, so that its bits per byte are those of another text."""
    told, said = tokenizer.decode(ids[:1000].tolist()), text[:1000].decode("utf8", "ignore")
    size = min(len(told), len(said)) // 2
    if told[:size] != said[:size]:
        said = f"tokenizer={name!r} does not give the text back as it was; bits per byte count what it keeps"
        warnings.warn(said, stacklevel=4)
