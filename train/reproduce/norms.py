"""Norms, where they stand, and what they let train: E1 to E4, and E7."""

import math
import time
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

import fxformer as fx
from train.config import Config
from train.reproduce.claim import (
    ABOVE_0,
    NO_WORSE,
    SMALLEST,
    Claim,
    Expected,
    Interval,
    exactly,
    of_mean,
    of_share,
    of_shares,
)
from train.reproduce.reading import (
    Curve,
    Found,
    Results,
    at_best,
    best_rate,
    difference_at_best,
    exponents,
    loss_difference,
    mean_curve,
    where,
    worked,
)
from train.verdict.runs import Result, by, loss_of


def gradient_at_init(config: Config, results: Results) -> Found:
    """E1. The gradient of the last feed-forward matrix before any step, by depth."""
    source = "Xiong et al. 2020, theorem 1"
    laws = {"post": ("does not change with depth", 0.0), "pre": ("falls as depth^(-1/2)", -0.5)}

    def gradient(result: Result) -> float:
        return result["last_ffn_grad_norm"]

    claims = [
        Claim(
            f"{placement}-norm: the gradient of the last feed-forward matrix at initialisation {words}",
            source,
            Expected(f"an exponent of {law:g} +- 0.1", low=law - 0.1, high=law + 0.1),
            of_mean(exponents(where(results, placement=placement), "depth", gradient)),
        )
        for placement, (words, law) in laws.items()
    ]
    return Found(
        claims=claims,
        axes=("depth", "gradient norm"),
        curves=[mean_curve(name, where(results, placement=name), "depth", gradient) for name in laws],
        note="The law is about what the branches add up to. Branches that start with a gain of 1 add about as much in "
        "two blocks as the embedding, which therefore hides it in shallow stacks; here their matrices start with 2.",
    )


def warmup(config: Config, results: Results) -> Found:
    """E2. One peak rate and depth, with and without warm-up."""
    source = "Xiong et al. 2020, section 3.2"
    longest = max(r["args"]["warmup"] for r in results)
    post, pre = (where(results, placement=name) for name in ("post", "pre"))
    bare, warm = where(post, warmup=0), where(post, warmup=longest)
    shares = [
        f"{name} with {steps} steps of warm-up {k} of {n}"
        for name, runs in (("post", post), ("pre", pre))
        for (steps,), group in sorted(by(runs, "warmup").items())
        for k, n in [worked(group)]
    ]
    return Found(
        claims=[
            Claim(
                "post-norm without warm-up ends above post-norm with it, in nats",
                source,
                ABOVE_0,
                loss_difference(bare, warm),
            ),
            Claim(
                "pre-norm without warm-up ends no higher than post-norm with it, in nats",
                source,
                NO_WORSE,
                loss_difference(where(pre, warmup=0), warm),
            ),
            Claim(
                "pre-norm is not hurt by having no warm-up, in nats",
                source,
                NO_WORSE,
                loss_difference(where(pre, warmup=0), where(pre, warmup=longest)),
            ),
        ],
        axes=("steps of warm-up", "validation loss, nats"),
        curves=[mean_curve(name, runs, "warmup", loss_of) for name, runs in (("post", post), ("pre", pre))],
        logarithmic=False,
        note=f"Runs that worked: {'; '.join(shares)}.",
    )


def depth_reach(config: Config, results: Results) -> Found:
    """E3. How deep a stack trains at the rate that is best for the shallowest."""
    source = "Wang et al. 2022 (DeepNet), section 4"
    arms = {
        "post": [r for r in where(results, placement="post") if r["args"]["residual_scale"] == 1],
        "DeepNorm": [r for r in where(results, placement="post") if r["args"]["residual_scale"] != 1],
        "pre": where(results, placement="pre"),
    }
    depths = [depth for (depth,) in sorted(by(results, "depth"))]
    chosen = {name: where(runs, lr=best_rate(where(runs, depth=depths[0]))) for name, runs in arms.items()}
    shares = {name: [worked(where(runs, depth=depth)) for depth in depths] for name, runs in chosen.items()}
    claims = [
        Claim(
            f"{name} trains {depths[-1]} layers where post-norm does not, difference in the share that works",
            source,
            ABOVE_0,
            of_shares(shares[name][-1], shares["post"][-1]),
        )
        for name in ("DeepNorm", "pre")
    ]
    reach = {name: _reach(depths, counts) for name, counts in shares.items()}
    return Found(
        claims=claims,
        axes=("depth", "share of runs that work"),
        curves=[Curve(name, depths, [k / n for k, n in counts]) for name, counts in shares.items()],
        logarithmic=False,
        note="At the best rate of the shallowest stack, half of the seeds or more work up to depth "
        + ", ".join(f"{depth} for {name}" for name, depth in reach.items())
        + ".",
    )


def _reach(depths: Sequence[int], counts: Sequence[tuple[int, int]]) -> int:
    failed = [i for i, (k, n) in enumerate(counts) if 2 * k < n]
    return depths[-1] if not failed else 0 if failed[0] == 0 else depths[failed[0] - 1]


def norm_kinds(config: Config, results: Results) -> Found:
    """E4. RMSNorm against LayerNorm: loss, and time of the op."""
    source = "Zhang & Sennrich 2019, tables 2 and 5"
    arms = {name: where(results, norm=name) for name in ("rms", "layer")}
    ratio = of_mean(np.log(_op_times("rms") / _op_times("layer")))
    step = _step_time(arms["rms"]) / _step_time(arms["layer"])
    return Found(
        claims=[
            Claim(
                "RMSNorm ends with the loss of LayerNorm, difference in nats",
                source,
                Expected(f"less than {SMALLEST} nats either way", low=-SMALLEST, high=SMALLEST),
                difference_at_best(arms["rms"], arms["layer"]),
            ),
            Claim(
                "RMSNorm costs less than LayerNorm, ratio of times of the op",
                source,
                Expected("less than 1", high=1.0),
                Interval(*map(math.exp, ratio)),
            ),
        ],
        axes=("learning rate", "validation loss, nats"),
        curves=[mean_curve(name, runs, "lr", loss_of) for name, runs in arms.items()],
        note=f"A norm and its gradient on {OP_SHAPE[0]} vectors of {OP_SHAPE[1]} numbers, on this machine. A step "
        f"took {step:.3f} of the time, in the paper's Transformer 0.931.",
    )


OP_SHAPE, OP_REPEATS = (2048, 256), 40


def _step_time(results: Results) -> float:
    """Seconds of a step, the median over runs; not a number where none was timed."""
    return float(np.median([math.nan if r["seconds_a_step"] is None else r["seconds_a_step"] for r in results]))


def _op_times(name: str) -> np.ndarray:
    """Seconds of a norm and its gradient, a number for each repeat, after a first call that compiles."""
    op = fx.ops.NORMS[name]
    slope = jax.jit(jax.grad(lambda x_ND: jnp.sum(jnp.sin(op(x_ND, 1e-6)))))
    x_ND = jax.random.normal(jax.random.key(0), OP_SHAPE)
    jax.block_until_ready(slope(x_ND))
    seconds = np.zeros(OP_REPEATS)
    for i in range(OP_REPEATS):
        begin = time.perf_counter()
        jax.block_until_ready(slope(x_ND))
        seconds[i] = time.perf_counter() - begin
    return seconds


def rezero(config: Config, results: Results) -> Found:
    """E7. The stack is the identity before any step; and deep stacks train without a norm or warm-up."""
    source = "Bachlechner et al. 2020, section 3"
    depth = max(r["args"]["depth"] for r in results)
    spec = config.with_settings({"depth": depth}).spec()
    params = fx.init(spec, jax.random.key(0))
    tokens_BT = jnp.arange(config.data.length)[None]
    table_VD = params["embed"]["table"]
    gap_BTD = fx.apply(spec, params, tokens_BT).hidden - table_VD[tokens_BT] * spec.embed.scale
    deep = at_best(where(results, depth=depth))
    return Found(
        claims=[
            Claim(
                f"{depth} layers are the identity at initialisation, largest difference",
                source,
                Expected("0, exactly", low=0.0, high=0.0),
                exactly(float(jnp.max(jnp.abs(gap_BTD)))),
            ),
            Claim(
                f"{depth} layers train without norm and warm-up, share of seeds",
                source,
                Expected("more than half", low=0.5, high=1.0),
                of_share(*worked(deep)),
            ),
        ],
        axes=("learning rate", "validation loss, nats"),
        curves=[mean_curve(f"depth {d}", runs, "lr", loss_of) for (d,), runs in sorted(by(results, "depth").items())],
    )
