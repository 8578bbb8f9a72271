"""Whatever is given for a field or an argument is refused in one sentence, or is the number that Python would have."""

import resource
from dataclasses import fields, is_dataclass, replace
from datetime import timedelta
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fxformer as fx
from fxformer.coords import plain
from fxformer.layers.attention import GQA
from fxformer.layers.norm import Norm
from fxformer.ops.mask import Window
from fxformer.stack import Repeat

TINY = {"width": 24, "depth": 1, "heads": 3, "inner": 8, "vocab": 11}
MEMORY = 1_000_000  # kB that trying all this may take beside what the process has


@pytest.mark.parametrize(
    "make",
    [np.int8, np.uint16, np.int64, np.array, jnp.int32, jnp.asarray],
    ids=lambda kind: f"{kind.__module__}.{kind.__name__}",
)
def test_whole_numbers_of_numpy_and_jax_are_those_of_python(make):
    spec = fx.zoo.toy(**{**TINY, "heads": make(3), "window": make(5)})
    assert spec == fx.zoo.toy(**{**TINY, "heads": 3, "window": 5}) and hash(spec)
    assert type(spec.stack.blocks[0].attention.heads) is int


def test_arithmetic_on_sizes_does_not_overflow():
    """Four times the width, of a type that holds no more than 255."""
    given = {"width": np.uint8(65), "heads": np.uint8(5), "position": "none"}
    assert fx.zoo.toy(**given) == fx.zoo.toy(width=65, heads=5, position="none")


@pytest.mark.parametrize(
    "make",
    [np.float32, ml_dtypes.bfloat16, np.array, jnp.float32, jnp.bfloat16],
    ids=lambda kind: f"{kind.__module__}.{kind.__name__}",
)
def test_numbers_of_numpy_and_jax_are_those_of_python(make):
    spec = fx.zoo.toy(**TINY, dropout=make(0.25), residual_scale=make(1.5), softcap=make(8))
    assert spec == fx.zoo.toy(**TINY, dropout=0.25, residual_scale=1.5, softcap=8.0) and hash(spec)


def test_numbers_to_learn_with_may_be_traced_and_sizes_may_not():
    def skip(scale: jax.Array) -> float:
        spec = fx.zoo.toy(**TINY, residual_scale=scale, branch_scale=scale, init_scale=scale)
        return spec.stack.blocks[0].residual.skip

    assert jax.jit(skip)(2.0) == 2
    for name in ("width", "dropout", "softcap"):
        with pytest.raises(ValueError, match=f"^{name} is traced and decides what is compiled"):
            jax.eval_shape(lambda x, name=name: fx.zoo.toy(**{**TINY, name: x}), 0.5)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: fx.zoo.toy(width=-1), "width=-1 is out of range; use 1 or more"),
        (lambda: fx.zoo.toy(width="48"), "width='48' does not fit; give a whole number"),
        (lambda: fx.zoo.toy(width=48.0), "width=48.0 does not fit; give a whole number"),
        (lambda: fx.zoo.toy(depth=True), "depth=True does not fit; give a whole number"),
        (lambda: fx.zoo.toy(depth=10**5000), "depth=a number too long to write is out of range"),
        (lambda: fx.zoo.toy(softcap=np.nan), "softcap=nan does not fit; give a finite number or None"),
        (lambda: fx.zoo.toy(heads=np.arange(3)), "heads=int64 [3] does not fit; give a whole number"),
        (lambda: fx.zoo.toy(norm=["rms"]), "norm=['rms'] does not fit; give a name"),
        (lambda: fx.zoo.toy(window=0), "window=0 is out of range; use 1 or more, and at most 2147483647, or None"),
        (lambda: GQA(heads=2, kv_heads=1, key_width=4, bias=1), "bias=1 does not fit; give True or False"),
        (lambda: GQA(heads=2, kv_heads=1, key_width=4, mask=np.ones((2, 2), bool)), "mask=bool [2, 2] does not fit"),
        (lambda: GQA(heads=2, kv_heads=1, key_width=4, qk_norm="rms"), "qk_norm='rms' does not fit; give Norm or None"),
        (lambda: Repeat(2, ("block",)), "blocks[0]='block' does not fit; give Block"),
        (lambda: Window("5"), "size='5' does not fit; give a whole number"),
        (lambda: Norm(kind="rms", eps=-1), "eps=-1 is out of range; use 0 or more"),
        (lambda: fx.count("gpt2"), "spec='gpt2' does not fit; give Transformer"),
        (lambda: fx.init("gpt2", jax.random.key(0)), "spec='gpt2' does not fit; give Transformer"),
        (lambda: fx.empty_cache("gpt2", 1, 2), "spec='gpt2' does not fit; give Transformer"),
        (lambda: fx.empty_cache(fx.zoo.toy(), 1, 2.5), "length=2.5 does not fit; give a whole number"),
        (lambda: fx.empty_cache(fx.zoo.toy(), 1, 2, dtype="half a float"), "dtype='half a float' is no floating type"),
        (lambda: fx.zoo.get(["gpt2"]), "model=['gpt2'] is no name"),
        (lambda: fx.ops.attend(*[jnp.zeros((1, 2, 3, 4))] * 3, mask=jnp.ones((2, 2), bool)), "mask=bool [2, 2]"),
        (lambda: plain(2.5), "length=2.5 does not fit; give a whole number"),
        (lambda: plain(3, start=0.5), "start=0.5 is no place; give an integer"),
        (lambda: plain(3, start=-2), "start=-2 is no place for 3 tokens"),
        (lambda: plain(3, start=2**31 - 2), "start=2147483646 is no place for 3 tokens; use 0 to 2147483644"),
    ],
)
def test_what_does_not_fit_is_said(make, sentence):
    with pytest.raises(ValueError) as caught:
        make()
    assert str(caught.value).startswith(sentence) and "\n" not in str(caught.value)


NUMBERS: list[Any] = [-1, 0, 1, 2, 3, 24, 2**24, 2**24 + 1, 2**31, 2**63, 10**400, 0.0, 0.5, 1.0, -0.5, 1e-300, 1e308]
JUNK: list[Any] = [
    *NUMBERS, float("nan"), float("inf"), -float("inf"), 1j, True, False, None, "", "48", "x" * 9999, b"3",
    [], [1], (), (3,), {}, object(), type, len, np.int8(-3), np.uint8(200), np.int64(2**40), np.float16(0.5), Window(3),
    np.float64("nan"), np.bool_(True), np.array(3), np.array([1, 2]), np.array("a"), np.datetime64("2020"),
    Norm(kind="rms"),
]  # fmt: skip
NAMES = ["rms", "layer", "none", "pre", "post", "dual", "rotary", "learned", "learned-pair", "rotary-2d", "t5", "alibi"]
NAMES += ["gqa", "mla", "causal", "strided", "blocks", "mlp", "glu", "moe", "relu", "silu", "tied", "untied"]
ARGUMENTS = sorted(fx.zoo.toy.__annotations__.keys() - {"return"})
SCALARS = [jnp.int32(3), jnp.float32(jnp.nan), jnp.bfloat16(0.5), jnp.zeros(2), jax.random.key(0)]
ANYTHING = st.sampled_from([*JUNK, *NAMES, *SCALARS])


def examples() -> dict[type, Any]:
    """One spec of each kind that the zoo has."""
    found: dict[type, Any] = {}

    def collect(value: Any) -> None:
        if is_dataclass(value):
            found.setdefault(value.__class__, value)
            for field in fields(value):
                collect(getattr(value, field.name))
        elif isinstance(value, tuple):
            for item in value:
                collect(item)

    for name in fx.zoo.names():
        collect(fx.zoo.tiny(name))
    for choices in ({"position": name} for name in ("sinusoidal", "alibi")):
        collect(fx.zoo.toy(**choices))
    return found


EXAMPLES = examples()
KINDS = sorted((kind for kind in EXAMPLES if fields(kind)), key=lambda kind: kind.__name__)


def used() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@pytest.fixture(scope="module")
def before() -> int:
    return used()


COUNTED: set[int] = set()


@settings(max_examples=500, derandomize=True, deadline=timedelta(seconds=10), database=None)
@given(choices=st.dictionaries(st.sampled_from(ARGUMENTS), ANYTHING, min_size=1, max_size=3))
def test_whatever_is_given_to_the_factory_is_refused_or_has_parameters(before, choices):
    try:
        spec = fx.zoo.toy(**{**TINY, **choices})
    except ValueError as refusal:
        assert "\n" not in str(refusal) and len(str(refusal)) < 500
        return
    if len(COUNTED) < 40 and hash(spec) not in COUNTED:
        COUNTED.add(hash(spec))
        assert fx.count(spec) >= TINY["width"]
    assert used() - before < MEMORY


@settings(max_examples=500, derandomize=True, deadline=timedelta(seconds=10), database=None)
@given(data=st.data(), kind=st.sampled_from(KINDS))
def test_whatever_stands_in_a_spec_is_refused_or_is_a_value(before, data, kind):
    names = [field.name for field in fields(kind)]
    changed = data.draw(st.dictionaries(st.sampled_from(names), ANYTHING, min_size=1, max_size=2))
    try:
        spec = replace(EXAMPLES[kind], **changed)
    except ValueError as refusal:
        assert "\n" not in str(refusal) and len(str(refusal)) < 500
        return
    assert spec == replace(spec) and hash(spec) == hash(replace(spec))
    assert used() - before < MEMORY
