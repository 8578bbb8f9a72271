"""What a type checker knows of the library from outside: names and types of arguments, through every decorator."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import fxformer as fx

WRONG = {
    "fx.apply(spec, params, tokens, tokns=3)": 'Unexpected keyword argument "tokns" for "apply"',
    "fx.init(spec)": 'Missing positional argument "key" in call to "init"',
    "fx.empty_cache(spec, batch=2, size=3)": 'Unexpected keyword argument "size" for "empty_cache"',
    "fx.count(3)": 'Argument 1 to "count" has incompatible type "int"; expected "Transformer"',
    "fx.count(spec).shape": '"int" has no attribute "shape"',
    "fx.generate(spec, params, tokens, 3, topk=1)": 'Unexpected keyword argument "topk" for "generate"',
    "fx.zoo.toy(widht=3)": 'Unexpected keyword argument "widht" for "toy"',
    "fx.zoo.toy(width=None)": 'Argument "width" to "toy" has incompatible type "None"; expected "int"',
    "fx.zoo.get(3)": 'Argument 1 to "get" has incompatible type "int"; expected "str"',
    "fx.coords.plain(lenght=3)": 'Unexpected keyword argument "lenght" for "plain"',
    "fx.coords.plain(3).indx": '"Coords" has no attribute "indx"; maybe "index"?',
    "fx.coords.of_index(tokens, 3)": 'Too many arguments for "of_index"',
    "fx.ops.attend(tokens, tokens, tokens, maks=3)": 'Unexpected keyword argument "maks" for "attend"',
    "fx.ops.t5_buckets(tokens, count=3, bidirectional=True)": 'Missing named argument "max_distance" for "t5_buckets"',
    "fx.ops.cross_entropy(tokens)": 'Missing positional argument "targets" in call to "cross_entropy"',
    "fx.cache.fork(tokens)": 'Missing positional argument "rows" in call to "fork"',
    "fx.decode.beam(spec, params, tokens, 3).txt": '"Beams" has no attribute "txt"',
    "fx.lora.merge(params)": 'Missing positional arguments "adapters", "alpha" in call to "merge"',
}
RIGHT = """
import fxformer as fx
import fxformer.cache
from fxformer.model import Params, Transformer

def use(spec: Transformer, params: Params, tokens: Any) -> None:
    fx.apply(spec, params, tokens, unroll=2)
    fx.zoo.toy(width=48)
"""


def test_a_type_checker_knows_every_argument(tmp_path):
    """Of the library alone: the packages that it stands on count as untyped, so that they need not be read."""
    root = Path(fx.__file__).parent
    shipped = tomllib.loads((root.parent / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    assert (root / "py.typed").exists() and "py.typed" in shipped["fxformer"]
    lines = ["from typing import Any", *RIGHT.strip().splitlines(), *(f"    {call}" for call in WRONG)]
    (tmp_path / "use.py").write_text("\n".join(lines))
    settings = ["[mypy]", "ignore_missing_imports = true", "follow_imports = silent"]
    settings += [f"[mypy-{name}.*]\nfollow_imports = skip" for name in ("jax", "flax", "optax", "numpy", "einops")]
    (tmp_path / "mypy.ini").write_text("\n".join(settings))
    command = [sys.executable, "-m", "mypy", "--config-file", "mypy.ini", "--cache-dir", "cache", "use.py"]
    run = subprocess.run(command, cwd=tmp_path, env={"MYPYPATH": str(root.parent)}, capture_output=True, text=True)
    said = [line for line in run.stdout.splitlines() if ": error: " in line]
    first = len(lines) - len(WRONG) + 1
    for i, (call, sentence) in enumerate(WRONG.items()):
        assert any(line.startswith(f"use.py:{first + i}: error: {sentence}") for line in said), (call, run.stdout)
    assert len(said) == len(WRONG), run.stdout + run.stderr


SCRIPT = """
import jax
import jax.numpy as jnp
import optax

import fxformer as fx

spec = fx.zoo.toy(width=32, depth=2, heads=4, kv_heads=2, position="rotary", softcap=None, window=8)
params = fx.init(spec, jax.random.key(0))
tokens = jnp.zeros((2, 9), jnp.int32)
optimiser = optax.adam(1e-3)
state = optimiser.init(params)


def loss(params: dict[str, object]) -> jax.Array:
    out = fx.apply(spec, params, tokens[:, :-1], coords=fx.padded(tokens[:, :-1] >= 0), key=jax.random.key(1))
    return jnp.mean(fx.ops.cross_entropy(out.logits, tokens[:, 1:]))


gradients = jax.grad(loss)(params)
cache = fx.empty_cache(spec, batch=2, length=16)
following = fx.apply(spec, params, tokens, cache=cache).cache
text: jax.Array = fx.generate(spec, params, [[1, 2, 3]], max_new_tokens=4, key=jax.random.key(2), temperature=0.8)
maps: jax.Array = fx.attention_maps(spec, params, [[1, 2, 3]])["attention"]
page: str = fx.describe(spec) + fx.describe(params)
count: int = fx.count(spec)
attention = fx.layers.GQA(heads=4, kv_heads=2, key_width=8, mask=fx.ops.Causal() & fx.ops.Window(3))
x = jnp.zeros((2, 5, 32))
hidden: jax.Array = fx.apply_layer(attention, fx.init_layer(attention, jax.random.key(3), x), x).hidden
"""
ERRORS = ("fx.apply(spec, params, tokens, tokns=3)", "fx.zoo.toy(widht=3)")


def mypy(folder: Path) -> set[tuple[str, int]]:
    """(file, line) of each error, of the library alone: see above."""
    settings = ["[mypy]", "ignore_missing_imports = true", "follow_imports = silent"]
    settings += [f"[mypy-{name}.*]\nfollow_imports = skip" for name in ("jax", "flax", "optax", "numpy", "einops")]
    (folder / "mypy.ini").write_text("\n".join(settings))
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--config-file",
        "mypy.ini",
        "--cache-dir",
        "cache",
        "right.py",
        "wrong.py",
    ]
    path = {"MYPYPATH": str(Path(fx.__file__).parent.parent)}
    run = subprocess.run(command, cwd=folder, env=path, capture_output=True, text=True)
    assert run.stdout, run.stderr
    said = [line.split(":") for line in run.stdout.splitlines() if ": error: " in line]
    return {(name, int(line)) for name, line, *_ in said}


def pyright(folder: Path) -> set[tuple[str, int]]:
    """The same of basedpyright, by the rules of Pyright's standard mode, with every package read."""
    settings = {"typeCheckingMode": "standard", "extraPaths": [str(Path(fx.__file__).parent.parent)]}
    (folder / "pyrightconfig.json").write_text(json.dumps(settings))
    command = [sys.executable, "-m", "basedpyright", "--pythonpath", sys.executable, "--outputjson"]
    run = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    said = json.loads(run.stdout)["generalDiagnostics"]
    errors = [each for each in said if each["severity"] == "error"]
    return {(Path(each["file"]).name, each["range"]["start"]["line"] + 1) for each in errors}


@pytest.mark.slow
@pytest.mark.parametrize("checker", [mypy, pyright])
def test_checkers_accept_a_users_script_and_refuse_its_two_errors(checker, tmp_path):
    script = SCRIPT.strip()
    (tmp_path / "right.py").write_text(script)
    (tmp_path / "wrong.py").write_text("\n".join([script, *ERRORS]))
    lines = len(script.splitlines())
    assert checker(tmp_path) == {("wrong.py", lines + 1), ("wrong.py", lines + 2)}
