"""The experiments: a configuration each, and a function of its results that returns claims held against measurements.

A difference is over pairs of runs of one seed. Where rates are swept each arm has its best ones, chosen by other seeds.
"Worse by nothing that matters" is worse by less than SMALLEST nats.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from train.config import Config
from train.reproduce.attention import cache_bytes, no_positions, qk_norm, remedies
from train.reproduce.looks import order_gap
from train.reproduce.norms import depth_reach, gradient_at_init, norm_kinds, rezero, warmup
from train.reproduce.reading import Found, Results
from train.reproduce.scale import activation_growth, mup, transfer
from train.sweep.group import Look


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """A published result, and how it is tried here.

    config: a file of configs/experiments. read: its claims, from (configuration, results). beside: what is measured of
    each trained model besides. quick: for a shorter try, the values that are kept of swept settings.
    """

    title: str
    config: str
    read: Callable[[Config, Results], Found]
    beside: Mapping[str, Look] = field(default_factory=dict)
    quick: Mapping[str, Sequence[Any]] = field(default_factory=dict)


EXPERIMENTS = {
    "E1": Experiment(
        title="Gradient at initialisation by depth",
        config="e01_gradient_at_init",
        read=gradient_at_init,
        quick={"depth": [2, 16, 32]},
    ),
    "E2": Experiment(title="Who needs warm-up", config="e02_warmup", read=warmup, quick={"seed": range(5)}),
    "E3": Experiment(
        title="How deep a stack trains",
        config="e03_depth_reach",
        read=depth_reach,
        quick={"depth": [2, 32], "lr": [1e-2], "seed": range(4)},
    ),
    "E4": Experiment(
        title="RMSNorm against LayerNorm", config="e04_norm_kinds", read=norm_kinds, quick={"seed": range(5)}
    ),
    "E5": Experiment(
        title="qk-norm, z-loss and the rate", config="e05_qk_norm", read=qk_norm, quick={"seed": range(3)}
    ),
    "E6": Experiment(
        title="Activation growth by depth",
        config="e06_activation_growth",
        read=activation_growth,
        quick={"seed": range(3)},
    ),
    "E7": Experiment(
        title="ReZero is the identity",
        config="e07_rezero",
        read=rezero,
        quick={"depth": [32], "lr": [1e-3, 3e-3], "seed": range(5)},
    ),
    "E8": Experiment(
        title="The best rate over widths",
        config="e08_mup",
        read=mup,
        quick={"width": [32, 64, 256], "seed": range(3)},  # over two octaves the error of an exponent is 0.05
    ),
    "E9": Experiment(
        title="Loss against the size of the cache", config="e09_cache", read=cache_bytes, quick={"seed": range(3)}
    ),
    "E10": Experiment(
        title="Order without position encoding",
        config="e10_nope",
        read=no_positions,
        beside={"order_gap": order_gap},
        quick={"seed": range(3)},
    ),
    "E11": Experiment(
        title="The best rate over depths",
        config="e11_depth_mup",
        read=partial(
            transfer, across="depth", still="completep", moving="mup", source="Dey et al. 2025 (CompleteP), section 4"
        ),
        quick={"depth": [4, 32], "seed": range(3)},
    ),
    "E12": Experiment(
        title="Remedies against LR sensitivity",
        config="e12_remedies",
        read=remedies,
        quick={"lr": [1e-2, 1e-1, 3e-1], "seed": range(3)},
    ),
}
