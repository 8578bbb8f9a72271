"""A run and a sweep on learned tokens: what they keep, what they say, and that a model of them writes text."""

import json
import math
import shutil

import pytest

from train.config import load
from train.data.corpus import load_corpus
from train.errors import UserError
from train.run.loop import run
from train.run.probe import probe
from train.run.sample import load_run, sample
from train.sweep.ablate import ablate

OPTIONS = {"temperature": 0.0, "top_k": None, "top_p": None, "seed": 0}
pytestmark = pytest.mark.slow  # four programs


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    home = tmp_path_factory.mktemp("tokenized")
    (home / "book.txt").write_text(
        "the cat sat on the mat, the dog lay on the log. 猫坐在垫子上。\n" * 60, encoding="utf8"
    )
    (home / "small.toml").write_text(
        f'[model]\nwidth = 16\nheads = 2\ndepth = 1\n[data]\npath = "{home / "book.txt"}"\ntokenizer = "bpe:290"\n'
        f'length = 12\nbatch = 4\nvalidation = 8\n[train]\nsteps = 4\nlr = 0.01\n[run]\nout = "{home}"\n'
    )
    return home / "small.toml"


@pytest.fixture(scope="module")
def told(file):
    return run(load(file))


def test_bits_per_byte_are_the_nats_of_the_bytes_that_were_predicted(file, told):
    config = load(file)
    corpus = config.corpus()
    width = corpus.bytes_a_token(length=12, count=8)
    assert width > 3
    lines = (file.parent / "small" / "log.jsonl").read_text().splitlines()
    (line,) = [line for line in map(json.loads, lines) if line.get("windows") == 8]
    assert told.bits_per_byte == line["val_bits_per_byte"] == line["val_loss"] / math.log(2) / width
    assert 0.5 < told.bits_per_byte < 8, "an untrained model of 290 tokens says log2(290) bits a token"


def test_a_run_keeps_its_tokenizer_and_writes_with_it(file, told, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(file.parent / "small", moved)  # where no text and no kept tokenizer is
    config, spec, _ = load_run(moved)
    assert spec.embed.vocab == 290 and config.data.tokenizer == str(moved / "tokenizer.json")
    pieces = list(sample(moved, "the 猫".encode(), tokens=9, **OPTIONS))
    assert b"".join(pieces).decode() and len(pieces) <= 10
    with pytest.raises(UserError, match="give runs that read bytes"):
        probe([moved])


def test_a_run_of_another_tokenizer_is_another_run(file, told):
    with pytest.raises(UserError, match=r"tokenizer is 'bpe:290' there and 'bpe:280' here.*the corpus is another"):
        run(load(file, ["tokenizer=bpe:280"]))


def test_a_sweep_records_bits_per_byte_and_bytes_a_token(file):
    (record,) = ablate(load(file, ["steps=1", f"out={file.parent / 'sweep'}"]))
    corpus = load_corpus(str(file.parent / "book.txt"), tokenizer="bpe:290", kept=file.parent / "sweep" / ".tokenizers")
    assert record["corpus"]["bytes_a_token"] == pytest.approx(corpus.bytes_a_token(length=12, count=8), rel=1e-5)
    assert record["val_bits_per_byte"] == pytest.approx(
        record["val_loss"] / math.log(2) / record["corpus"]["bytes_a_token"], rel=1e-5
    )
    assert record["args"]["tokenizer"] == "bpe:290"
