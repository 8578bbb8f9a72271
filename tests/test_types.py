"""What a type checker knows of the library from outside: names and types of arguments, through every decorator."""

import subprocess
import sys
import tomllib
from pathlib import Path

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
