"""Text from a finished or unfinished run, token by token."""

import itertools
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import SingleDeviceSharding

import fxformer as fx
from fxformer.commands.generate import spell
from fxformer.coords import padded
from train.config import Config
from train.config.values import check_number
from train.data.tokenizer import BYTES, VOCAB, Tokenizer
from train.errors import UserError, user_input
from train.files import check_there, damaged
from train.run.checkpoint import restore_best
from train.run.log import TOKENIZER, read_settings
from train.step import numbers_of, recipe_of, start


def load_run(folder: Path) -> tuple[Config, fx.Transformer, dict]:
    """The configuration, model and best parameters of a run, on one device whatever it was trained on.

    Raises UserError where `folder` holds none.
    """
    check_there(folder)
    home = folder / "config.json"
    if not home.exists():
        raise UserError(f"{folder} is not a run: it has no config.json")
    settings = read_settings(folder)
    try:
        config = Config(name=folder.name).with_settings(settings)
    except ValueError as error:
        raise damaged(str(home), str(error), "repair it") from error
    here = SingleDeviceSharding(jax.devices()[0])
    state = jax.eval_shape(partial(start, recipe_of(config)), numbers_of(config))
    state = jax.tree.map(lambda leaf: leaf.update(sharding=here), state)
    return config, config.spec(), restore_best(folder / "checkpoints", state).params


def sample(
    folder: Path, prompt: bytes, *, tokens: int, temperature: float, top_k: int | None, top_p: float | None, seed: int
) -> Iterator[bytes]:
    """Continue `prompt` by `tokens` tokens, the text of each as soon as it is known; a special one is no text.

    The model reads no more tokens than it was trained on: when they are full it goes on from the last half of them.
    It always reads as many and makes as many, so that the whole text takes one program for each.
    """
    if not prompt:
        raise UserError("the prompt is empty; give at least one character")
    if tokens < 1:
        raise UserError(f"tokens={tokens} asks for nothing; use 1 or more")
    with user_input():
        check_number("seed", seed)
    config, spec, params = load_run(folder)
    ask = partial(_continued, config, spec, params, count=tokens, temperature=temperature, top_k=top_k, top_p=top_p,
                  seed=seed)  # fmt: skip
    if config.data.tokenizer == BYTES:
        return (bytes([token]) if token < VOCAB else b"" for token in ask(list(prompt)))
    tokenizer = Tokenizer((folder / TOKENIZER).read_bytes())
    ids = tokenizer.encode(prompt, "the prompt")[0].tolist()
    if not ids:
        raise UserError("the prompt has no token; give another one")
    pieces = spell(tokenizer.decode, ids, ask(ids))
    return (piece.encode() for piece in itertools.islice(pieces, 1, None))  # the first one is the prompt


def _continued(
    config: Config, spec: fx.Transformer, params: dict, prompt: list[int], *, count: int, temperature: float,
    top_k: int | None, top_p: float | None, seed: int
) -> Iterator[int]:  # fmt: skip
    """`count` tokens after those of the prompt."""
    key = jax.random.key(seed)
    read = config.data.length // 2 + 1
    text, done = list(prompt), 0
    while done < count:
        seen = text[-read:]
        chunk = fx.decode.stream(
            spec,
            params,
            np.array([[0] * (read - len(seen)) + seen]),
            config.data.length - read + 1,
            key=jax.random.fold_in(key, done),
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            coords=padded(jnp.arange(read)[None] >= read - len(seen)),
        )
        with user_input():  # the request is checked before the first token is made
            first = next(chunk)
        for token in itertools.islice(itertools.chain([first], chunk), count - done):
            done += 1
            text.append(int(token[0]))
            yield text[-1]
