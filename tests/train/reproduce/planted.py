"""Results of an experiment's own cells with planted truth, so that what reads them can be tried without training."""

import math

import numpy as np

from train.config import Config
from train.verdict.outcome import WORKED


def result(config: Config, cell, *, loss=2.5, logit=3.0, gradient=1.0, rms=None, order=0.1, works=True, noise=1e-3):
    """A record of one cell: each seed has its own noise, the same for all arms by a half."""
    args = config.flat() | cell
    shared = np.random.default_rng(args["seed"]).normal()
    own = np.random.default_rng(abs(hash(str(sorted(map(str, cell.items()))))) % 2**32).normal()
    wiggle = noise * (shared + own)
    layers = args["depth"]
    return {
        "args": args,
        "outcome": WORKED[0] if works else "stuck",
        "initial_loss": 5.6,
        "val_loss": loss + wiggle if works else 3.3 + wiggle,
        "last_ffn_grad_norm": gradient * math.exp(wiggle),
        "params": 1000,
        "seconds_a_step": 0.9e-3 if args["norm"] == "rms" else 1e-3,
        "stats_final": {
            "attention_logit_max": [logit * math.exp(wiggle)] * layers,
            "residual_rms": [(i + 1) ** (rms or 0.5) * math.exp(wiggle) for i in range(layers)],
        },
        "beside": {"order_gap": order + wiggle},
    }
