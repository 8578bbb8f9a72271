"""Runs that are made longer: how far they are the same as one that was to be so long from the start."""

import jax.numpy as jnp
import numpy as np

from train.config import Config
from train.optim.schedule import SCHEDULES, rate
from train.optim.signature import reads


def agreed(config: Config, steps: int) -> int:
    """After how many updates a run of `steps` is still the one that `config` asks for: before their rates differ.

    Data, keys and losses follow from the seed and the number of the update; the length decides the rates alone.
    """
    train, count = config.train, np.arange(1, steps + 1)
    lr, warmup, final = (jnp.float32(number) for number in (train.lr, train.warmup, train.final))

    def rates(total: int) -> np.ndarray:
        told = rate(train.schedule, jnp.asarray(count), lr=lr, warmup=warmup, total=jnp.int32(total), final=final)
        return np.asarray(told)

    differing = np.flatnonzero(rates(steps) != rates(train.steps))
    return int(differing[0]) if differing.size else steps


def why_not(config: Config, steps: int) -> str:
    """Why a run of `steps` that is done cannot become the one that `config` asks for."""
    free = ", ".join(name for name, schedule in SCHEDULES.items() if "total" not in reads(schedule))
    first = agreed(config, steps) + 1
    more = f"with schedule={config.train.schedule!r} one of {config.train.steps} has other rates from step {first} on"
    return (
        f"it is of {steps} steps, and {more}, before which it has no checkpoint; choose another name, or a schedule "
        f"that can be lengthened ({free}; wsd before its decay)"
    )
