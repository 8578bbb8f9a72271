"""Schedules against the numbers that papers print, and against the same formulas in float64 NumPy."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from train.optim.schedule import SCHEDULES, noam_factor, rate
from train.optim.signature import reads

EACH = pytest.mark.parametrize("name", SCHEDULES)


def by_hand(name: str, t: int, lr: float, warmup: int, total: int, final: float) -> float:
    """Each schedule by its cases, in Python floats."""
    if name == "rsqrt":
        return lr if t <= warmup or (warmup == 0 and t == 1) else lr * math.sqrt(max(warmup, 1) / t)
    if t < warmup:
        rise = t / warmup
        return lr * rise if name != "wsd" or t <= 0.9 * total else lr * rise * in_window(t, total, final)
    if name == "constant":
        return lr
    if name == "noam":
        return lr * math.sqrt(max(warmup, 1) / t)
    if name == "multistep":
        return lr * 0.316 ** ((t > 0.6 * total) + (t > 0.9 * total))
    if name == "wsd":
        return lr * in_window(t, total, final)
    done = 0.0 if total == warmup else (t - warmup) / (total - warmup)
    fall = {"linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}[name]
    return lr * (final + (1 - final) * fall)


def in_window(t: int, total: int, final: float) -> float:
    left = min(1.0, (total - t) / max(0.1 * total, 1))
    return final + (1 - final) * left


def curve(name: str, *, lr: float, warmup: int, total: int, final: float) -> np.ndarray:
    steps = jnp.arange(1, total + 1)
    return np.asarray(rate(name, steps, lr=lr, warmup=warmup, total=total, final=final))


@EACH
@pytest.mark.parametrize("warmup", [0, 1, 7, 40])
def test_every_step_equals_the_formula(name, warmup):
    told = curve(name, lr=0.03, warmup=warmup, total=90, final=0.2)
    known = [by_hand(name, t, 0.03, warmup, 90, 0.2) for t in range(1, 91)]
    np.testing.assert_allclose(told, known, rtol=3e-6)


def test_noam_factor_is_the_paper_s_table():
    steps = np.array([1, 1000, 4000, 16000, 100_000])
    known = [1.74693e-7, 1.74693e-4, 6.98771e-4, 3.49386e-4, 1.39754e-4]
    np.testing.assert_allclose(noam_factor(steps, width=512, warmup=4000), known, rtol=5e-6)


def test_noam_is_the_paper_s_formula_at_its_own_peak():
    steps = np.array([1, 37, 4000, 4001, 70_000])
    told = SCHEDULES["noam"](steps, lr=(512 * 4000) ** -0.5, warmup=4000)
    np.testing.assert_allclose(told, noam_factor(steps, width=512, warmup=4000), rtol=1e-6)


def test_cosine_has_the_printed_values():
    told = curve("cosine", lr=1.0, warmup=10, total=100, final=0.1)
    np.testing.assert_allclose(told[[9, 54, 99]], [1.0, 0.55, 0.1], rtol=1e-6)


def test_rsqrt_is_t5_s_rate():
    steps = np.array([1, 9_999, 10_000, 10_001, 250_000])
    told = SCHEDULES["rsqrt"](steps, lr=0.01, warmup=10_000)
    np.testing.assert_allclose(told, 1 / np.sqrt(np.maximum(steps, 10_000)), rtol=1e-6)


def test_multistep_falls_after_its_milestones():
    told = curve("multistep", lr=1.0, warmup=0, total=100, final=0.0)
    np.testing.assert_allclose(told[[59, 60, 89, 90]], [1, 0.316, 0.316, 0.316**2], rtol=1e-6)
    lite = SCHEDULES["multistep"](jnp.array([70, 85]), lr=1.0, warmup=0, total=100, milestones=(0.8, 0.9))
    np.testing.assert_allclose(lite, [1, 0.316], rtol=1e-6)


def test_wsd_decays_in_the_window_asked_for():
    steps = jnp.array([80, 81, 90, 100])
    told = SCHEDULES["wsd"](steps, lr=2.0, warmup=5, total=100, final=0.0, decay=0.2)
    np.testing.assert_allclose(told, [2.0, 1.9, 1.0, 0.0], rtol=1e-6)


numbers = st.fixed_dictionaries(
    {
        "lr": st.floats(1e-5, 10.0),
        "warmup": st.integers(0, 60),
        "total": st.integers(1, 300),
        "final": st.floats(0.0, 1.0, width=32),
    }
)


@EACH
@settings(max_examples=40, deadline=None)
@given(numbers=numbers, step=st.integers(1, 300))
def test_a_rate_is_within_zero_and_its_peak(name, numbers, step):
    assert 0 <= float(rate(name, step, **numbers)) <= numbers["lr"] * (1 + 1e-6)


@EACH
@settings(max_examples=40, deadline=None)
@given(numbers=numbers, step=st.integers(1, 300))
def test_traced_numbers_give_what_python_numbers_give(name, numbers, step):
    plain = rate(name, step, **numbers)
    traced = COMPILED[name](step, **numbers)
    np.testing.assert_allclose(traced, plain, rtol=1e-5, atol=1e-7 * numbers["lr"])


COMPILED = {name: jax.jit(partial(rate, name)) for name in SCHEDULES}


@EACH
@settings(max_examples=40, deadline=None)
@given(warmup=st.integers(1, 60), rest=st.integers(100, 500))
def test_there_is_no_jump_at_the_end_of_the_warm_up(name, warmup, rest):
    def at(step: float) -> float:
        return float(rate(name, step, lr=1.0, warmup=warmup, total=warmup + rest, final=0.0))

    assert at(warmup) == pytest.approx(1.0, abs=1e-6)
    assert at(warmup - 1e-3) == pytest.approx(1.0, abs=1e-3)
    assert at(warmup + 1e-3) == pytest.approx(1.0, abs=1e-3)


@EACH
def test_what_a_schedule_reads_is_what_changes_it(name):
    numbers = {"lr": 0.03, "warmup": 7, "total": 90, "final": 0.2}
    changed = {"lr": 0.01, "warmup": 11, "total": 60, "final": 0.4}
    steps = jnp.arange(1, 91)
    plain = rate(name, steps, **numbers)
    moved = {each for each in numbers if np.any(rate(name, steps, **{**numbers, each: changed[each]}) != plain)}
    assert moved == set(reads(SCHEDULES[name]))


@EACH
def test_one_program_serves_a_population_that_differs_in_every_number(name):
    traces = []

    @jax.jit
    def rates(step, lr, warmup, total, final):
        traces.append(name)
        each = lambda p, w, t, f: rate(name, step, lr=p, warmup=w, total=t, final=f)  # noqa: E731
        return jax.vmap(each)(lr, warmup, total, final)

    lr, warmup = np.float32([0.1, 0.2, 0.4, 0.8]), np.int32([0, 1, 9, 30])
    total, final = np.int32([50, 60, 70, 80]), np.float32([0, 0.1, 0.5, 1])
    for step in (1, 8, 45):
        told = rates(step, lr, warmup, total, final)
        alone = [by_hand(name, step, *each) for each in zip(lr, warmup, total, final, strict=True)]
        np.testing.assert_allclose(told, alone, rtol=1e-5)
    assert traces == [name]
