"""Corpora and the order of data: what is read, how it is cut, and that a step's data depends on the step alone."""

import hashlib
import math
import os
import sysconfig
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from train.data.corpus import Corpus, batches, check_apart, entropies, load_corpus, opening, validation_windows


def corpus_of(train: bytes, validation: bytes) -> Corpus:
    return Corpus(
        name="small", train=np.frombuffer(train, np.uint8), validation=np.frombuffer(validation, np.uint8), sha256=""
    )


def folder_of(place: Path, texts: dict[str, bytes]) -> Path:
    for name, text in texts.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(text)
    return place


TEXTS = {f"part{i}/file{j}.txt": f"<{i},{j}>".encode() * (i + 2 * j + 1) for i in range(6) for j in range(7)}


def is_held_out(name: str) -> bool:
    return int(hashlib.sha256(name.encode()).hexdigest()[:2], 16) % 10 == 0


def test_a_file_loses_its_last_tenth_to_validation(tmp_path):
    text = bytes(range(97, 123)) * 4 + b"end"
    (tmp_path / "letters.txt").write_bytes(text)
    corpus = load_corpus(str(tmp_path / "letters.txt"))
    assert (corpus.name, corpus.bytes) == ("letters.txt", 107)
    assert corpus.train.tobytes() == text[:97]
    assert corpus.validation.tobytes() == text[97:]
    assert corpus.sha256 == hashlib.sha256(text).hexdigest()


def test_a_folder_is_split_by_file_in_sorted_order(tmp_path):
    folder = folder_of(tmp_path, {**TEXTS, ".hidden": b"no", ".git/config": b"no"})
    corpus = load_corpus(str(folder))
    assert corpus.train.tobytes() == b"".join(TEXTS[name] for name in sorted(TEXTS) if not is_held_out(name))
    assert corpus.validation.tobytes() == b"".join(TEXTS[name] for name in sorted(TEXTS) if is_held_out(name))
    assert corpus.validation.size > 0


def test_a_new_file_leaves_the_others_where_they_were(tmp_path):
    before = load_corpus(str(folder_of(tmp_path, TEXTS)))
    after = load_corpus(str(folder_of(tmp_path, {"zzz.txt": b"!" * 99})))
    added = before.train if not is_held_out("zzz.txt") else before.validation
    grown = after.train if not is_held_out("zzz.txt") else after.validation
    assert grown.tobytes() == added.tobytes() + b"!" * 99
    assert after.bytes == before.bytes + 99
    assert after.sha256 != before.sha256


@pytest.mark.parametrize("held_out", [False, True])
def test_both_parts_of_a_small_folder_hold_something(tmp_path, held_out):
    names = [name for name in (f"{i}.txt" for i in range(100)) if is_held_out(name) == held_out][:3]
    corpus = load_corpus(str(folder_of(tmp_path, {name: name.encode() * 5 for name in names})))
    lowest = min(names, key=lambda name: hashlib.sha256(name.encode()).digest())
    assert corpus.validation.tobytes() == lowest.encode() * 5
    assert corpus.train.tobytes() == b"".join(name.encode() * 5 for name in sorted(names) if name != lowest)


def test_a_folder_of_one_file_is_that_file(tmp_path):
    folder = folder_of(tmp_path, {"only.txt": b"abcdefghij" * 3})
    one, other = load_corpus(str(folder)), load_corpus(str(folder / "only.txt"))
    assert one.train.tobytes() == other.train.tobytes() == b"abcdefghij" * 2 + b"abcdefg"
    assert one.validation.tobytes() == other.validation.tobytes() == b"hij"


def test_the_default_corpus_is_the_standard_library_s_own_text():
    corpus = load_corpus("stdlib")
    assert corpus is load_corpus("")
    root = Path(sysconfig.get_paths()["stdlib"])
    for name in ("argparse.py", "json/decoder.py"):
        part = corpus.validation if is_held_out(name) else corpus.train
        assert (root / name).read_bytes() in part.tobytes()
    left_out = {"site-packages", "test", "tests", "idlelib", "__pycache__"}
    folders = [(Path(place), files) for place, _, files in os.walk(root) if not left_out & set(Path(place).parts)]
    sizes = [(place / file).stat().st_size for place, files in folders for file in files if file.endswith(".py")]
    assert corpus.bytes == sum(sizes) > 4_000_000
    assert 0.05 < corpus.validation.size / corpus.bytes < 0.15
    assert corpus.sha256 == hashlib.sha256(corpus.train.tobytes() + corpus.validation.tobytes()).hexdigest()


def test_what_cannot_be_read_is_refused_in_a_sentence(tmp_path):
    with pytest.raises(ValueError, match=r"^there is no corpus at .*nowhere; give a file, a folder or stdlib$"):
        load_corpus(str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match=r"is empty; give a file or a folder with text$"):
        load_corpus(str(tmp_path))
    (tmp_path / "nothing.txt").touch()
    with pytest.raises(ValueError, match=r"^the corpus nothing.txt is empty; "):
        load_corpus(str(tmp_path / "nothing.txt"))


def test_bytes_that_are_not_text_warn_and_are_used(tmp_path):
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9 " * 4)
    with pytest.warns(UserWarning, match=r"latin.txt is not UTF-8 \(byte 3\)"):
        corpus = load_corpus(str(tmp_path / "latin.txt"))
    assert corpus.train.tobytes() + corpus.validation.tobytes() == b"caf\xe9 " * 4


def test_what_is_written_is_no_text(tmp_path):
    """A run within its text would make its checkpoints part of it, for whatever reads it next."""
    text = str(folder_of(tmp_path, {"a.txt": b"some text"}))
    for out in (tmp_path, tmp_path / "runs"):
        with pytest.raises(ValueError, match=r"^out=.* lies in path=.*, a folder whose files are all text; "):
            check_apart(text, out)
    for path, out in (
        (text, tmp_path / ".runs"),
        (text, tmp_path.parent / "runs"),
        (f"{text}/a.txt", tmp_path),
        ("stdlib", Path("runs")),
        ("", Path("runs")),
    ):
        check_apart(path, out)


def test_a_corpus_shorter_than_a_sequence_is_refused():
    corpus = corpus_of(b"x" * 9, b"y" * 6)
    corpus.check(5)
    with pytest.raises(ValueError, match=r"^small has 6 bytes for validation, a sequence needs 7; "):
        corpus.check(6)
    with pytest.raises(ValueError, match=r"^small has 3 bytes for training, a sequence needs 4; "):
        corpus_of(b"abc", b"defgh").check(3)


def test_a_folder_whose_text_falls_on_one_side_is_told_how_it_is_parted(tmp_path):
    names = sorted((f"{i}.txt" for i in range(40)), key=is_held_out)
    large, small = names[0], names[-1]  # trained on, and held out
    corpus = load_corpus(str(folder_of(tmp_path, {large: b"x" * 900, small: b"y"})))
    with pytest.raises(ValueError, match=r"has 1 bytes for validation") as error:
        corpus.check(8)
    assert f"of its 2 files 1 are held out, chosen by their names ({small}): join them into one file" in str(
        error.value
    )


def test_an_empty_file_is_no_part_of_a_folder(tmp_path):
    """Were the empty one the held-out one, or the other, a part would be empty."""
    for name in ("a.txt", next(f"{i}.txt" for i in range(99) if is_held_out(f"{i}.txt"))):
        folder = folder_of(tmp_path / name, {name: b"", "book.txt": b"abcdefghij" * 3})
        corpus = load_corpus(str(folder))
        assert (corpus.train.tobytes(), corpus.validation.tobytes()) == (b"abcdefghij" * 2 + b"abcdefg", b"hij")


def test_entropies_are_those_of_counted_bytes_and_pairs():
    text = b"the cat sat on the mat; the dog sat on the log"
    told = entropies(corpus_of(text, b"-"))
    singles, pairs, first = Counter(text), Counter(pairwise(text)), Counter(text[:-1])
    unigram = -sum(n / len(text) * math.log(n / len(text)) for n in singles.values())
    bigram = -sum(n / (len(text) - 1) * math.log(n / first[pair[0]]) for pair, n in pairs.items())
    assert told.log_vocab == pytest.approx(8 * math.log(2))
    assert told.unigram_entropy == pytest.approx(unigram)
    assert told.bigram_entropy == pytest.approx(bigram)


TOKENS = np.arange(103, dtype=np.uint8)  # a token is its own position


def test_sequences_are_consecutive_tokens():
    told = batches(TOKENS, seed=3, steps=range(0, 40), batch=5, length=7)
    assert told.shape == (40, 5, 8)
    np.testing.assert_array_equal(told, told[..., :1] + np.arange(8))


def test_an_epoch_visits_every_start_once_and_the_next_in_another_order():
    starts = batches(TOKENS, seed=3, steps=range(0, 32), batch=6, length=7)[..., 0].reshape(2, 96)
    np.testing.assert_array_equal(np.sort(starts, axis=1), np.tile(np.arange(96), (2, 1)))
    assert (starts[0] != starts[1]).mean() > 0.9
    assert (np.diff(starts[0].astype(int)) == 1).mean() < 0.1


def test_a_step_s_data_depends_on_the_step_alone():
    together = batches(TOKENS, seed=5, steps=range(0, 60), batch=4, length=9)
    for steps in (range(0, 1), range(17, 18), range(23, 60), range(3, 50, 11)):
        alone = batches(TOKENS, seed=5, steps=steps, batch=4, length=9)
        np.testing.assert_array_equal(alone, together[steps.start : steps.stop : steps.step])


def test_the_order_of_sequences_does_not_depend_on_the_batch():
    small = batches(TOKENS, seed=5, steps=range(0, 30), batch=2, length=9)
    large = batches(TOKENS, seed=5, steps=range(0, 10), batch=6, length=9)
    np.testing.assert_array_equal(small.reshape(60, 10), large.reshape(60, 10))


def test_no_epoch_of_one_seed_is_an_epoch_of_another():
    """Shuffling epoch e by seed + e would give seed 1 what seed 0 sees one epoch later."""
    epochs = [batches(TOKENS, seed=seed, steps=range(0, 3), batch=96, length=7)[..., 0] for seed in range(4)]
    orders = {epoch.tobytes() for seed in epochs for epoch in seed}
    assert len(orders) == 12


def test_a_corpus_of_one_sequence_repeats_it():
    told = batches(TOKENS[:8], seed=0, steps=range(0, 3), batch=2, length=7)
    np.testing.assert_array_equal(told, np.broadcast_to(np.arange(8), (3, 2, 8)))


def test_validation_windows_are_evenly_spaced_from_the_first_byte_to_the_last():
    told = validation_windows(TOKENS, length=12, count=4)
    np.testing.assert_array_equal(told, np.array([0, 30, 60, 90])[:, None] + np.arange(13))


def test_validation_windows_do_not_overlap_and_are_fewer_where_text_is_short():
    told = validation_windows(TOKENS, length=12, count=50)
    assert len(told) == 103 // 13
    assert (np.diff(told[:, 0].astype(int)) >= 13).all()
    np.testing.assert_array_equal(told[-1], np.arange(90, 103))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"so cut\n\n  ROMEO:\nBut soft, what light\nthrough", "But soft,"),
        ("h\u00e9\nl'\u00e9t\u00e9 est l\u00e0\nfin".encode(), "l'\u00e9t\u00e9 est"),
        (b"import os\n\ndef main(words):\n    pass\n", "def main(words):"),
        (bytes(range(26)) * 40, ""),
        (b"one line only", ""),
        (b"\xff\xfe x\n\xff no text\n\xff", ""),
    ],
)
def test_a_prompt_is_how_a_line_of_the_text_begins(text, words):
    held_out = np.frombuffer(text, np.uint8)
    assert opening(Corpus(name="x", train=held_out, validation=held_out, sha256="")) == words
