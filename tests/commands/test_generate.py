"""`python -m fxformer generate`: what is written is what the model says, in tokens, bytes and words."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

import fxformer as fx
from fxformer.__main__ import main
from fxformer.commands.generate import BYTES, INTERRUPTED, Pace, spell

GOLDEN = Path(__file__).parents[1] / "parity" / "golden"


def listed(tokens) -> str:
    return ",".join(str(token) for token in np.asarray(tokens))


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    """A model of bytes without a tokenizer: its folder, spec and parameters."""
    spec = fx.zoo.tiny("llama-7b")
    params = fx.init(spec, jax.random.key(0))
    folder = tmp_path_factory.mktemp("checkpoints") / "bytes"
    fx.hf.save(spec, params, folder)
    return folder, spec, params


@pytest.mark.parametrize(("name", "prompt"), [("gpt2", "tokens"), ("t5-gated-untied", "encoder_tokens")])
def test_what_is_written_is_what_transformers_writes(name, prompt, capsys):
    expected = load_file(GOLDEN / name / "expected.safetensors")
    text, start = expected["generated"][0], len(expected["generated"][0]) - 20
    read = expected[prompt][0] if prompt == "encoder_tokens" else text[:start]
    assert main(["generate", str(GOLDEN / name), "--tokens", listed(read), "--max-new-tokens", "20"]) == 0
    said = capsys.readouterr()
    assert said.out == listed(text[start if prompt == "encoder_tokens" else 0 :]) + "\n"
    assert said.err.startswith("[20 tokens in ") and said.err.endswith(" tokens/s]\n")


def test_it_ends_with_a_token_of_the_checkpoint_or_of_the_user(tmp_path, capsys):
    folder = shutil.copytree(GOLDEN / "t5-gated-untied", tmp_path / "t5")
    expected = load_file(folder / "expected.safetensors")
    text = expected["generated"][2][1:].tolist()
    row = ["generate", str(folder), "--tokens", listed(expected["encoder_tokens"][2][:4]), "--max-new-tokens", "20"]
    first, second = text[3], text[5]
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [first, 10**6]}))
    for options, stop in ([], first), (["--stop", f"{second}"], second):
        assert main([*row, *options]) == 0
        assert capsys.readouterr().out == listed(text[: text.index(stop) + 1]) + "\n"


def test_bytes_are_drawn_as_generate_draws_them(decoder, capsys):
    folder, spec, params = decoder
    options = ["--temperature", "0.8", "--top-k", "40", "--repetition-penalty", "1.3", "--seed", "3"]
    assert main(["generate", str(folder), "--prompt", "hé", *options, "--max-new-tokens", "9"]) == 0
    text = fx.generate(
        spec,
        params,
        jnp.array([list("hé".encode())]),
        9,
        key=jax.random.key(3),
        temperature=0.8,
        top_k=40,
        repetition_penalty=1.3,
    )
    assert capsys.readouterr().out == bytes(text[0].tolist()).decode(errors="replace") + "\n"


def test_words_are_those_of_the_tokenizer(decoder, tmp_path, capsys, monkeypatch):
    folder = shutil.copytree(decoder[0], tmp_path / "words")
    (folder / "tokenizer.json").write_text("{}")
    tokenizer = SimpleNamespace(
        encode=lambda text: SimpleNamespace(ids=[len(word) for word in text.split()]),
        decode=lambda ids: " ".join("x" * (i % 7) for i in ids),
    )
    library = SimpleNamespace(Tokenizer=SimpleNamespace(from_file=lambda path: tokenizer))
    monkeypatch.setitem(sys.modules, "tokenizers", library)
    command = ["generate", str(folder), "--max-new-tokens", "5"]
    assert main([*command, "--tokens", "3,1,4"]) == 0
    ids = [int(number) for number in capsys.readouterr().out.split(",")]
    assert main([*command, "--prompt", "aaa b cccc"]) == 0
    assert capsys.readouterr().out == tokenizer.decode(ids) + "\n"
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    assert main([*command, "--prompt", "aaa"]) == 2
    assert "tokenizer.json needs tokenizers; install it with" in capsys.readouterr().err


def test_a_character_is_said_when_it_is_whole():
    tokens = "é→".encode() + b"\xff!" + "ü".encode()[:1]
    pieces = spell(BYTES.say, [65], iter(tokens))
    assert list(pieces) == ["A", "é", "→", "\ufffd!", "\ufffd"]


def test_the_rate_leaves_out_the_first_two_tokens():
    assert str(Pace(times=[3.0, 5.0, 5.5, 6.0])) == "[4 tokens in 6.0 s, the first after 3.0 s; then 2 tokens/s]"
    assert str(Pace(times=[3.0])) == "[1 tokens in 3.0 s, the first after 3.0 s]"


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("gpt2", ("--prompt", "hi"), "gpt2 has no tokenizer.json, and 97 tokens are no bytes; give --tokens 1,2,3"),
        ("gpt2", ("--tokens", "1,x"), "'1,x' is no list of tokens; write them like 1,2,3"),
        ("gpt2", ("--tokens", "1,97"), "token 97 is outside the vocabulary of 97"),
        ("gpt2", ("--tokens", "1", "--stop", "97"), "stop token 97 is outside the vocabulary of 97"),
        ("gpt2", ("--tokens", "1,2"), "2 tokens and 100 new ones are more than the 37 learned positions"),
        ("gpt2", ("--tokens", "1", "--top-p", "0"), "top_p=0.0 is out of range"),
        ("bert", ("--tokens", "1"), "each token of this model sees those after it"),
        ("nothing", ("--tokens", "1"), "nothing has no config.json; give the folder of a checkpoint"),
    ],
)
def test_what_cannot_be_asked_for_is_one_sentence_and_nothing_is_written(name, options, sentence, capsys):
    assert main(["generate", str(GOLDEN / name), *options]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("error: ") and said.err.count("\n") == 1
    assert sentence in said.err


def test_an_empty_prompt_is_refused(decoder, capsys):
    assert main(["generate", str(decoder[0]), "--prompt", ""]) == 2
    assert capsys.readouterr().err == "error: the prompt is empty; give at least one token\n"


HALF = """
import signal
from fxformer.commands.generate import Pace, show

class Loses:
    def __del__(self):  # an exception in here is printed and forgotten
        signal.raise_signal(signal.SIGINT)

def pieces():
    yield "half"
    Loses()
    yield "whole"

show(pieces(), Pace(begin=0.0, times=[1.0]))
"""


def test_an_interrupt_in_the_middle_of_a_text_keeps_what_was_written_wherever_it_arrives():
    said = subprocess.run([sys.executable, "-c", HALF], capture_output=True, text=True)
    assert (said.returncode, said.stdout) == (INTERRUPTED, "half")
    assert said.stderr == "\ninterrupted [1 tokens in 1.0 s, the first after 1.0 s]\n"


def test_a_process_that_is_interrupted_says_so(decoder):
    command = [sys.executable, "-m", "fxformer", "generate", decoder[0], "--prompt", "a", "--max-new-tokens", "9000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert os.read(process.stdout.fileno(), 1) == b"a"  # as soon as it is there
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=60)
    assert process.returncode == INTERRUPTED
    assert told.startswith("\ninterrupted [") and "Traceback" not in told
