"""Text from a run: what the model says of the window it sees, and no new program in the middle of it."""

import sys

import jax
import jax.numpy as jnp
import pytest

import fxformer as fx
from train import cli
from train.config import load
from train.run import devices
from train.run.loop import run
from train.run.sample import load_run, sample

LENGTH = 12
OPTIONS = {"temperature": 0.0, "top_k": None, "top_p": None, "seed": 0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    home = tmp_path_factory.mktemp("sample")
    (home / "book.txt").write_text("the quick brown fox jumps over the lazy dog. " * 40)
    (home / "small.toml").write_text(
        f'[model]\nwidth = 24\nheads = 2\ndepth = 1\n[data]\npath = "{home / "book.txt"}"\nlength = {LENGTH}\n'
        f'batch = 4\nvalidation = 4\n[train]\nsteps = 30\nlr = 0.01\n[run]\nout = "{home}"\n'
    )
    run(load(home / "small.toml"))
    return home / "small"


def test_each_byte_follows_from_the_window_before_it(folder):
    """A window is the last half of the text, up to the whole of what the model was trained on."""
    _, spec, params = load_run(folder)
    text, prompt = [], b"the"
    for piece in sample(folder, prompt, tokens=40, **OPTIONS):
        at = len(text) % (LENGTH // 2)
        seen = [*prompt, *text][-(LENGTH // 2 + 1) - at :]
        logits = fx.apply(spec, params, jnp.array([seen + [0] * (LENGTH - len(seen))])).logits
        text.append(int(jnp.argmax(logits[0, len(seen) - 1])))
        assert piece == bytes(text[-1:])
    assert len(text) == 40


@pytest.mark.parametrize("prompt", [b"q", b"the quick brown fox jumps over the lazy dog."])
def test_no_program_is_made_in_the_middle_of_a_text(folder, prompt):
    pieces = sample(folder, prompt, tokens=40, **OPTIONS)
    assert len([next(pieces), next(pieces)]) == 2
    compiled = []

    def heard(event, seconds, **of):
        compiled.extend([of] if event == "/jax/core/compile/backend_compile_duration" else [])

    jax.monitoring.register_event_duration_secs_listener(heard)
    try:
        assert len(list(pieces)) == 38
        assert not compiled
        jax.jit(lambda x: x + 1)(1)
        assert len(compiled) == 1, "what is compiled is not heard"
    finally:
        jax.monitoring.unregister_event_duration_listener(heard)


def test_the_command_prints_prompt_text_and_pace(folder, monkeypatch, capsys):
    monkeypatch.setattr(devices, "keep_compiled", lambda out: None)
    monkeypatch.setattr(sys, "argv", ["train", "sample", str(folder), "--prompt", "the", "--temperature", "0"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capsys.readouterr()
    text = b"".join(sample(folder, b"the", tokens=400, **OPTIONS))
    assert ended.value.code == 0
    assert said.out == "the" + text.decode(errors="replace")
    assert said.err.startswith("\n[400 tokens in ") and said.err.endswith(" tokens/s]\n")
