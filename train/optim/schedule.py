"""Learning rates: functions of the step and of what else they read, numbers that may be traced.

step: the number of the update, counted from 1. lr: the rate it rises to. warmup: updates of linear increase, 0 is none.
total: updates in all. final: share of lr that decaying schedules end at. A new schedule is one function, whose
signature says what it reads, and one line in SCHEDULES.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array

from fxformer.lookup import nearest
from train.optim.signature import given

Number = Array | float | int
Schedule = Callable[..., Array]


def constant(step: Number, *, lr: Number, warmup: Number) -> Array:
    """lr after the warm-up."""
    return lr * _rise(step, warmup)


def noam(step: Number, *, lr: Number, warmup: Number) -> Array:
    """lr * min(step / warmup, sqrt(warmup / step)). Vaswani et al. 2017, eq. 3, scaled to reach lr."""
    return lr * _rise(step, warmup) * jnp.sqrt(jnp.minimum(jnp.maximum(warmup, 1) / step, 1))


def noam_factor(step: Number, *, width: Number, warmup: Number) -> Array:
    """width^-0.5 * min(step^-0.5, step * warmup^-1.5): the rate as the paper prints it. Vaswani et al. 2017, eq. 3."""
    step = jnp.asarray(step, jnp.float32)
    return width**-0.5 * jnp.minimum(step**-0.5, step * jnp.asarray(warmup, jnp.float32) ** -1.5)


def cosine(step: Number, *, lr: Number, warmup: Number, total: Number, final: Number) -> Array:
    """Half a cosine from lr to final * lr. Loshchilov & Hutter 2017; GPT-3, LLaMA: final 0.1."""
    fall = 0.5 * (1 + jnp.cos(jnp.pi * _progress(step, warmup, total)))
    return lr * _rise(step, warmup) * (final + (1 - final) * fall)


def linear(step: Number, *, lr: Number, warmup: Number, total: Number, final: Number) -> Array:
    """A straight line from lr to final * lr."""
    return lr * _rise(step, warmup) * (final + (1 - final) * (1 - _progress(step, warmup, total)))


def rsqrt(step: Number, *, lr: Number, warmup: Number) -> Array:
    """lr / sqrt(max(step, warmup) / warmup): constant, then falling (T5: 0.01 and 10^4). Raffel et al. 2020."""
    return lr * jnp.sqrt(jnp.maximum(warmup, 1) / jnp.maximum(step, jnp.maximum(warmup, 1)))


def wsd(step: Number, *, lr: Number, warmup: Number, total: Number, final: Number, decay: float = 0.1) -> Array:
    """Warm-up, stable, and a straight line to final * lr over the last `decay` of the steps. Hu et al. 2024."""
    fall = jnp.clip((total - step) / jnp.maximum(decay * total, 1), 0, 1)
    return lr * _rise(step, warmup) * (final + (1 - final) * fall)


def multistep(
    step: Number,
    *,
    lr: Number,
    warmup: Number,
    total: Number,
    milestones: tuple[float, ...] = (0.6, 0.9),
    factor: float = 0.316,
) -> Array:
    """lr times `factor` after each milestone, a share of the steps. DeepSeek-AI 2024; V2-Lite: 0.8 and 0.9."""
    passed = sum(jnp.asarray(step > milestone * total, jnp.float32) for milestone in milestones)
    return lr * _rise(step, warmup) * factor**passed


SCHEDULES: dict[str, Schedule] = {
    "constant": constant,
    "noam": noam,
    "cosine": cosine,
    "linear": linear,
    "rsqrt": rsqrt,
    "wsd": wsd,
    "multistep": multistep,
}


def rate(name: str, step: Number, *, lr: Number, warmup: Number, total: Number, final: Number) -> Array:
    """The rate by the schedule `name`, which is given what it reads."""
    numbers = {"lr": lr, "warmup": warmup, "total": total, "final": final}
    schedule = nearest(SCHEDULES, name, "schedule")
    return schedule(step, **given(schedule, numbers))


def _rise(step: Number, warmup: Number) -> Array:
    """The share of lr that the warm-up allows: 1 from step `warmup` on, and everywhere without one."""
    return jnp.minimum(step / jnp.maximum(warmup, 1), 1.0)


def _progress(step: Number, warmup: Number, total: Number) -> Array:
    """How far the decay is: 0 at the end of the warm-up, 1 at the last step."""
    return jnp.clip((step - warmup) / jnp.maximum(total - warmup, 1), 0.0, 1.0)
