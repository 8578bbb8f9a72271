"""A spike is seen while a run goes on."""

import numpy as np
import pytest

from train.verdict.outcome import SUSTAINED
from train.verdict.watch import has_spiked


def falling(seed: int, noise: float = 0.05) -> np.ndarray:
    return 3 + 2 * np.exp(-np.arange(300) / 60) + noise * np.random.default_rng(seed).standard_normal(300)


def first_seen(losses: np.ndarray) -> int | None:
    """The step after which it is said."""
    return next((n for n in range(1, len(losses) + 1) if has_spiked(list(losses[:n]))), None)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("step", [60, 200])
def test_a_spike_is_seen_as_soon_as_it_has_lasted(seed, step):
    losses = falling(seed)
    losses[step - 1 :][:20] += 1.0
    assert first_seen(losses) == step - 1 + SUSTAINED


@pytest.mark.parametrize("seed", range(8))
def test_noise_and_one_bad_batch_are_no_spike(seed):
    losses = falling(seed)
    losses[150] += 3.0
    assert first_seen(losses) is None
