"""Text from a finished or unfinished run, token by token."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import jax

import fxformer as fx
from train.checkpoint import Checkpoints
from train.config import Config
from train.step import numbers_of, recipe_of, start


def load_run(folder: Path) -> tuple[Config, fx.Transformer, dict]:
    """The configuration, model and best parameters of a run. Raises ValueError where `folder` holds none."""
    home = folder / "config.json"
    if not home.exists():
        raise ValueError(f"{folder} is not a run: it has no config.json")
    config = Config(name=folder.name).with_settings(json.loads(home.read_text(encoding="utf8"))["settings"])
    state = jax.eval_shape(partial(start, recipe_of(config)), numbers_of(config))
    with Checkpoints(folder / "checkpoints", keep=config.run.keep) as checkpoints:
        params = checkpoints.restore(state, checkpoints.best()).params
    return config, config.spec(), params


def sample(
    folder: Path, prompt: bytes, *, tokens: int, temperature: float, top_k: int | None, top_p: float | None, seed: int
) -> Iterator[bytes]:
    """Continue `prompt` by `tokens` bytes, each as soon as it is known.

    The model reads no more tokens than it was trained on: when they are full it goes on from the last half of them.
    """
    if not prompt:
        raise ValueError("the prompt is empty; give at least one character")
    config, spec, params = load_run(folder)
    key = jax.random.key(seed)
    text, done = list(prompt), 0
    while done < tokens:
        seen = text[-(config.data.length // 2 + 1) :]
        count = min(config.data.length - len(seen) + 1, tokens - done)
        chunk = fx.decode.stream(
            spec,
            params,
            jax.numpy.array([seen]),
            count,
            key=jax.random.fold_in(key, done),
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
        )
        for token in chunk:
            text.append(int(token[0]))
            yield bytes(text[-1:])
        done += count
