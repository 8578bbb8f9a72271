"""`python -m fxformer generate`: a checkpoint goes on from a prompt, and what it writes is shown as it comes."""

import argparse
import itertools
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from fxformer import hf
from fxformer.coords import plain
from fxformer.decode import stream
from fxformer.hf.files import read_json
from fxformer.model import Params, Transformer
from fxformer.ops.rotary import Rotary
from fxformer.walk import parts

INTERRUPTED = 130  # the exit code that shells give to what a SIGINT ended
DRAWS = {  # option -> (type, what it does); one of them, or a seed, and tokens are drawn
    "temperature": (float, "divides the logits; 0 takes the most likely token"),
    "top_k": (int, "draw from the k most likely tokens"),
    "top_p": (float, "draw from the fewest tokens of this probability"),
    "min_p": (float, "draw from tokens of at least this share of the greatest probability"),
}
T = TypeVar("T")


class Language(NamedTuple):
    """How text becomes tokens, and tokens text."""

    read: Callable[[str], list[int]]
    say: Callable[[Sequence[int]], str]


def _numbers(text: str) -> list[int]:
    try:
        return [int(number) for number in text.split(",")]
    except ValueError:
        raise ValueError(f"{text!r} is no list of tokens; write them like 1,2,3") from None


NUMBERS = Language(_numbers, lambda ids: ",".join(map(str, ids)))
BYTES = Language(lambda text: list(text.encode()), lambda ids: bytes(ids).decode(errors="replace"))


def language_of(folder: Path, vocab: int) -> Language:
    """That of the checkpoint's tokenizer.json, or bytes where there is none and 256 tokens are known.

    Raises ValueError where neither is the case, or where the package that reads the file is missing.
    """
    file = folder / "tokenizer.json"
    if not file.exists():
        if vocab == 256:
            return BYTES
        raise ValueError(f"{folder} has no tokenizer.json, and {vocab} tokens are no bytes; give --tokens 1,2,3")
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise ValueError(
            f"{file} needs tokenizers; install it with: pip install tokenizers, or give --tokens 1,2,3"
        ) from None
    tokenizer = Tokenizer.from_file(str(file))
    return Language(lambda text: tokenizer.encode(text).ids, tokenizer.decode)


@dataclass(slots=True)
class Pace:
    """When tokens came, in seconds from its beginning."""

    begin: float = field(default_factory=time.monotonic)
    times: list[float] = field(default_factory=list)

    def of(self, tokens: Iterable[T]) -> Iterator[T]:
        """The tokens, timed."""
        for token in tokens:
            self.times.append(time.monotonic() - self.begin)
            yield token

    def __str__(self) -> str:
        """The rate is that after the second token: the first two wait for their programs."""
        said = f"{len(self.times)} tokens"
        if self.times:
            said += f" in {self.times[-1]:.1f} s, the first after {self.times[0]:.1f} s"
        if len(self.times) > 2:
            said += f"; then {(len(self.times) - 2) / (self.times[-1] - self.times[1]):,.0f} tokens/s"
        return f"[{said}]"


def spell(say: Callable[[Sequence[int]], str], prompt: Sequence[int], tokens: Iterator[int]) -> Iterator[str]:
    """The text of the prompt, then what each token adds to it; a character is said when it is whole.

    Nothing is said before the first token is known: what cannot be asked for is refused until then.
    """
    first = list(itertools.islice(tokens, 1))
    ids, said = list(prompt), say(prompt)
    yield said
    for token in itertools.chain(first, tokens):
        ids.append(token)
        whole = say(ids).rstrip("\N{REPLACEMENT CHARACTER}")
        if len(whole) > len(said):
            yield whole[len(said) :]
            said = whole
    yield say(ids)[len(said) :]


def show(pieces: Iterable[str], pace: Pace) -> int:
    """Print each piece at once and, in the end, the pace on stderr; returns the exit code.

    SIGINT ends the process there and then: an exception could be lost in a callback of the runtime.
    """

    def leave(number: int, frame: Any) -> None:
        print(f"\ninterrupted {pace}", file=sys.stderr, flush=True)
        os._exit(INTERRUPTED)

    before = signal.signal(signal.SIGINT, leave)
    try:
        for piece in pieces:
            print(piece, end="", flush=True)
    finally:
        signal.signal(signal.SIGINT, before)
    print(flush=True)
    print(pace, file=sys.stderr)
    return 0


def add_options(parser: argparse.ArgumentParser) -> None:
    """What `generate` takes."""
    add = parser.add_argument
    add("checkpoint", type=Path, help="folder of Hugging Face: config.json, safetensors")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--prompt", metavar="TEXT", help="what to go on from; needs tokenizer.json, or a model of bytes (256 tokens)"
    )
    what.add_argument("--tokens", metavar="1,2,3", help="the same as tokens; tokens are printed, too")
    add("--max-new-tokens", type=int, default=100, metavar="N", help="100 where it is left out")
    add("--stop", metavar="1,2", help="tokens that end the text; those of the checkpoint where it is left out")
    add("--start", type=int, metavar="N", help="token that a decoder starts from whose encoder reads the prompt; same")
    add("--seed", type=int, metavar="N", help="of draws; without it or a way to draw, the most likely token is taken")
    for name, (kind, help) in DRAWS.items():
        add(f"--{name.replace('_', '-')}", type=kind, metavar="X", help=help)
    add("--repetition-penalty", type=float, metavar="X", help="weakens tokens that stand in the text already")
    add("--dtype", choices=("float32", "bfloat16"), default="float32", help="of parameters, activations and cache")


def write(arguments: argparse.Namespace) -> int:
    """Load, go on and print; returns the exit code. Raises ValueError for what cannot be asked for."""
    try:
        spec, params = hf.load(arguments.checkpoint, dtype=arguments.dtype)
    except ImportError as error:
        raise ValueError(str(error)) from error
    except KeyboardInterrupt:
        return INTERRUPTED
    text = arguments.tokens if arguments.prompt is None else arguments.prompt
    language = NUMBERS if arguments.prompt is None else language_of(arguments.checkpoint, spec.embed.vocab)
    prompt = language.read(text)
    pace = Pace()
    tokens = pace.of(_tokens(spec, params, prompt, arguments))
    shown = prompt if spec.encoder is None else []
    return show(spell(language.say, shown, tokens), pace)


def _tokens(spec: Transformer, params: Params, prompt: list[int], arguments: argparse.Namespace) -> Iterator[int]:
    """The new tokens, each as soon as it is known."""
    if any(rotary.streams > 1 for rotary in parts(spec, Rotary)):
        raise ValueError("the model writes into blanks of its prompt; use fx.decode.fill_blanks")
    asked: dict[str, Any] = {"stop": _stops(arguments, spec.embed.vocab), "dtype": arguments.dtype}
    if spec.encoder is None:
        start = prompt
        asked["coords"] = replace(plain(len(prompt)), prefix=jnp.ones((1, len(prompt)), bool))
    else:
        start = [_start(arguments)]
        asked["encoder_tokens"] = jnp.asarray([prompt], jnp.int32)
    draws = {name: getattr(arguments, name) for name in DRAWS}
    given = {name: value for name, value in draws.items() if value is not None}
    start_1T, count = np.asarray([start], np.int32), arguments.max_new_tokens
    key = jax.random.key(arguments.seed or 0) if given or arguments.seed is not None else None
    penalty = arguments.repetition_penalty
    for token_B in stream(spec, params, start_1T, count, key=key, repetition_penalty=penalty, **draws, **asked):
        yield int(token_B[0])


def _stops(arguments: argparse.Namespace, vocab: int) -> list[int]:
    """What the user says; else what the checkpoint says of tokens that there are."""
    if arguments.stop is not None:
        return _numbers(arguments.stop)
    stop = _special(arguments.checkpoint, "eos_token_id")
    stops = stop if isinstance(stop, list) else [] if stop is None else [stop]
    return [token for token in stops if token < vocab]


def _start(arguments: argparse.Namespace) -> int:
    """What the user says; else what the checkpoint says, whose padding it is in T5."""
    for token in (
        arguments.start,
        *(_special(arguments.checkpoint, f"{n}_token_id") for n in ("decoder_start", "pad")),
    ):
        if token is not None:
            return token
    raise ValueError(f"{arguments.checkpoint} does not say which token its decoder starts from; give --start")


def _special(folder: Path, name: str) -> Any:
    for file in (folder / "generation_config.json", folder / "config.json"):
        if file.exists() and (token := read_json(file).get(name)) is not None:
            return token
    return None
