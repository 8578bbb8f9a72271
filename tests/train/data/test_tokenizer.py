"""Tokenizers: text comes back, every byte is counted once, and what is learned is what pairs say."""

import json
import math
import sys
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from train.config import Config
from train.data import tokenizer as module
from train.data.corpus import entropies, load_corpus, unigram_nats, validation_windows
from train.data.tokenizer import Tokenizer, tokenizer_of, vocab_of
from train.errors import UserError
from train.objectives import OBJECTIVES, OF_BYTES, objective_of

TEXT = "the cat sat on the mat, the dog on the log.\n人工智能正在改变世界。\n" * 30


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    return tmp_path_factory.mktemp("kept")


@pytest.fixture
def book(tmp_path):
    file = tmp_path / "book.txt"
    file.write_text(TEXT, encoding="utf8")
    return file


def counted(text: str, size: int) -> list[str]:
    """Byte pair encoding by its definition, on words that keep the space before them: the merges, in order."""
    words = Counter(f" {word}" if i else word for i, word in enumerate(text.split(" ")))
    parts = {word: list(word) for word in words}
    merges = []
    while len(merges) < size:
        pairs = Counter()
        for word, count in words.items():
            for pair in pairwise(parts[word]):
                pairs[pair] += count
        best = max(pairs, key=pairs.__getitem__)
        merges.append("".join(best))
        for word, own in parts.items():
            i, merged = 0, []
            while i < len(own):
                joined = own[i : i + 2] == list(best)
                merged.append("".join(own[i : i + 2]) if joined else own[i])
                i += 2 if joined else 1
            parts[word] = merged
    return merges


def test_the_most_frequent_pair_is_joined_again_and_again(tmp_path):
    text = " ".join(["aab"] * 9 + ["aac"] * 4 + ["xyz"] * 3)
    content = tokenizer_of("bpe:260", text.encode(), tmp_path).content
    learned = {token: number for token, number in json.loads(content)["model"]["vocab"].items() if number >= 256}
    assert [token.replace("Ġ", " ") for token in sorted(learned, key=learned.__getitem__)] == counted(text, 4)


def test_learning_is_repeatable_and_kept(kept, monkeypatch):
    first = tokenizer_of("bpe:300", TEXT.encode(), kept)
    assert module._learn(module._pieces(TEXT), 300) == first.content
    monkeypatch.setattr(module, "_learn", lambda *_: pytest.fail("it was learned again"))
    assert tokenizer_of("bpe:300", TEXT.encode(), kept) == first
    assert first.vocab == vocab_of("bpe:300") == 300
    assert [file.suffix for file in kept.iterdir()] == [".json"]


def test_text_comes_back_and_every_byte_is_counted_once(kept):
    tokenizer = tokenizer_of("bpe:300", TEXT.encode(), kept)
    text = "the dog 改变 café 🙂\n\n  the\tworld " * 3
    ids, widths = tokenizer.encode(text.encode())
    assert tokenizer.decode(ids.tolist()) == text
    assert widths.sum() == len(text.encode()) and len(widths) == len(ids) and ids.dtype == np.uint16
    whole = [(len(tokenizer.decode(ids[:i].tolist()).encode()), widths[:i].sum()) for i in range(1, len(ids))
             if "\N{REPLACEMENT CHARACTER}" not in tokenizer.decode(ids[:i].tolist())]  # fmt: skip
    assert len(whole) > 20 and all(said == counted for said, counted in whole)


def test_pieces_are_the_text_and_end_with_lines(monkeypatch):
    monkeypatch.setattr(module, "PIECE", 7)
    text = "ab\ncd\nefghijklmnop\nq"
    pieces = list(module._pieces(text))
    assert "".join(pieces) == text and pieces[0] == "ab\ncd\n" and max(map(len, pieces)) == 7


def test_halves_of_characters_at_the_ends_are_left_out(kept):
    tokenizer, text = tokenizer_of("bpe:300", TEXT.encode(), kept), "世界 world 世界".encode()
    for cut, left in ((text[1:], "界 world 世界"), (text[:-1], "世界 world 世"), (text[2:-2], "界 world 世")):
        assert tokenizer.decode(tokenizer.encode(cut)[0].tolist()) == left


def test_a_corpus_is_parted_before_it_is_tokenized(book, kept):
    text, corpus = load_corpus(str(book)), load_corpus(str(book), tokenizer="bpe:300", kept=kept)
    assert corpus.vocab == 300 and text.vocab == 256 and text.tokenized is None
    tokenizer = corpus.tokenized.tokenizer
    assert tokenizer.decode(corpus.train.tolist()) == text.train.tobytes().decode("utf8", "ignore")
    assert tokenizer.decode(corpus.validation.tolist()) == text.validation.tobytes().decode("utf8", "ignore")
    assert corpus.sha256 not in (text.sha256, load_corpus(str(book), tokenizer="bpe:290", kept=kept).sha256)
    assert abs(corpus.bytes - text.bytes) <= 6
    with pytest.raises(UserError, match=r"has \d+ tokens for validation, a sequence needs 501"):
        corpus.check(500)


def test_bytes_a_token_are_those_of_the_predicted_tokens(book, kept):
    corpus = load_corpus(str(book), tokenizer="bpe:300", kept=kept)
    say = corpus.tokenized.tokenizer.decode
    rows = validation_windows(corpus.validation, length=7, count=5)
    assert not any("\N{REPLACEMENT CHARACTER}" in say(part.tolist()) for row in rows for part in (row, row[:1]))
    spoken = sum(len(say(row.tolist()).encode()) - len(say(row[:1].tolist()).encode()) for row in rows)
    assert corpus.bytes_a_token(length=7, count=5) == spoken / (5 * 7)
    assert load_corpus(str(book)).bytes_a_token(length=7, count=5) == 1.0


@pytest.mark.parametrize("most", [0, 2**24])
def test_entropies_are_those_of_counted_tokens_and_pairs(book, kept, monkeypatch, most):
    monkeypatch.setattr("train.data.corpus.COUNTED", most)
    corpus = load_corpus(str(book), tokenizer="bpe:300", kept=kept)
    told, ids = entropies(corpus), corpus.train.tolist()
    pairs, first = Counter(pairwise(ids)), Counter(ids[:-1])
    bigram = -sum(n / (len(ids) - 1) * math.log(n / first[pair[0]]) for pair, n in pairs.items())
    assert told.log_vocab == pytest.approx(math.log(300)) and told.bigram_entropy == pytest.approx(bigram)
    assert unigram_nats(corpus).shape == (300,)


def wordpiece(path):
    """A small uncased WordPiece tokenizer, which loses capitals and spaces."""
    import tokenizers as library

    vocab = {token: i for i, token in enumerate(["[UNK]", "the", "cat", "s", "##at", "o", "##n"])}
    made = library.Tokenizer(library.models.WordPiece(vocab, unk_token="[UNK]"))
    made.normalizer = library.normalizers.Lowercase()
    made.pre_tokenizer = library.pre_tokenizers.BertPreTokenizer()
    made.decoder = library.decoders.WordPiece()
    made.save(str(path))
    return path


def test_a_tokenizer_that_loses_text_is_said_and_every_byte_is_still_counted(tmp_path):
    path, book = wordpiece(tmp_path / "tokenizer.json"), tmp_path / "book.txt"
    book.write_text("The cat sat on the cat, the cat sat. " * 20)
    with pytest.warns(UserWarning, match="does not give the text back as it was"):
        corpus = load_corpus(str(book), tokenizer=str(path))
    assert (corpus.vocab, corpus.bytes) == (7, book.stat().st_size)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("bpe:256", r"tokenizer='bpe:256' is out of range; use bpe:257 to bpe:1048576, or bytes"),
        ("bpe:x", r"tokenizer='bpe:x' is no file; give bytes, bpe:4096, or the path of a tokenizer.json"),
        ("nowhere.json", r"tokenizer='nowhere.json' is no file; give bytes"),
        ("LICENSE", r"tokenizer='LICENSE' is no tokenizer.json; give bytes"),
    ],
)
def test_what_is_no_tokenizer_is_refused(name, sentence):
    with pytest.raises(ValueError, match=sentence):
        Config(name="x").with_settings({"tokenizer": name})


def test_what_cannot_be_tokenized_is_refused(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"tokenizer='bpe:900' is more than the text gives; use bpe:\d+, or more text"):
        tokenizer_of("bpe:900", b"abab cdcd", tmp_path)
    with pytest.raises(
        UserError, match=r"the text is not UTF-8 \(byte 3\), which tokenizers read; use tokenizer=bytes"
    ):
        tokenizer_of("bpe:300", b"caf\xe9 " * 9, tmp_path)
    assert not list(tmp_path.iterdir())
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(UserError, match="takes the package tokenizers; install it with: pip install tokenizers"):
        tokenizer_of("bpe:300", TEXT.encode(), tmp_path)


def test_special_tokens_come_after_those_of_the_text():
    config = Config(name="x").with_settings({"tokenizer": "bpe:300", "objective": "masked"})
    ours, theirs = config.objective.specials, OBJECTIVES["masked"].specials
    assert {name: number - 44 for name, number in ours.ids.items()} == theirs.ids
    assert config.spec().embed.vocab == theirs.vocab + 44
    assert Config(name="x").with_settings({"tokenizer": "bpe:300"}).spec().embed.vocab == 300
    assert all(objective_of(name) is objective for name, objective in OBJECTIVES.items())
    for name in OF_BYTES:
        with pytest.raises(ValueError, match=f"objective='{name}' tells words or sentences by their bytes"):
            objective_of(name, 300)


def test_a_tokenizer_is_a_value():
    assert Tokenizer(b"{}") == Tokenizer(b"{}") and Tokenizer(b"a").sha256 != Tokenizer(b"b").sha256
