"""The experiments: a configuration each, and a function of its results that returns claims held against measurements.

A difference is over pairs of runs of one seed. Where rates are swept each arm has its best one, chosen by other seeds.
"Worse by nothing that matters" is worse by less than SMALLEST nats.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import fxformer as fx
from fxformer import accounting
from train.config import Config
from train.reproduce.claim import Claim, Expected, Interval, exactly, of_mean, of_share, of_shares
from train.reproduce.looks import order_gap
from train.reproduce.reading import (
    Curve,
    Found,
    Results,
    at_best,
    best_rate,
    difference,
    exponents,
    last,
    loss_difference,
    mean_curve,
    sensitivities,
    where,
    worked,
)
from train.sweep.coords import FLAT, coordinates
from train.sweep.group import Look
from train.verdict.runs import Result, by, loss_of
from train.verdict.stats import loglog_slope
from train.verdict.transfer import step_of, transfers

SMALLEST = 0.02  # nats: a smaller difference does not matter
ABOVE_0 = Expected("more than 0", low=0.0)
NO_WORSE = Expected(f"worse by less than {SMALLEST} nats", high=SMALLEST)


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
                loss_difference(at_best(arms["rms"]), at_best(arms["layer"])),
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


def qk_norm(config: Config, results: Results) -> Found:
    """E5. What qk-norm and z-loss do to LR sensitivity, and the rate to attention logits."""
    source = "Wortsman et al. 2023, section 3.1"
    largest = last("attention_logit_max")
    plain, normed = (where(results, qk_norm=name, z_loss=0) for name in ("none", "layer"))
    penalised = [r for r in where(results, qk_norm="none") if r["args"]["z_loss"] > 0]
    base = sensitivities(plain)
    return Found(
        claims=[
            Claim(
                "qk-norm lowers LR sensitivity, by nats",
                source,
                ABOVE_0,
                of_mean(base - sensitivities(normed)),
            ),
            Claim(
                "z-loss lowers LR sensitivity, by nats",
                "Wortsman et al. 2023, section 3.2",
                ABOVE_0,
                of_mean(base - sensitivities(penalised)),
            ),
            Claim(
                "the largest attention logit grows with the rate, exponent",
                source,
                ABOVE_0,
                of_mean(exponents(plain, "lr", largest)),
            ),
            Claim(
                "with qk-norm it grows less, difference of exponents",
                source,
                ABOVE_0,
                of_mean(exponents(plain, "lr", largest) - exponents(normed, "lr", largest)),
            ),
        ],
        axes=("learning rate", "largest attention logit after training"),
        curves=[mean_curve(name, runs, "lr", largest) for name, runs in (("none", plain), ("qk-norm", normed))],
        note="Sensitivity over all rates, failed runs at the loss at initialisation: "
        f"{base.mean():.3f} without, {sensitivities(normed).mean():.3f} with qk-norm, "
        f"{sensitivities(penalised).mean():.3f} with z-loss.",
    )


def activation_growth(config: Config, results: Results) -> Found:
    """E6. The residual stream by depth after training, pre against sandwich."""
    source = "Kim et al. 2025 (Peri-LN), section 3"
    arms = {name: where(results, placement=name) for name in ("pre", "sandwich")}
    rate = min(best_rate(runs) for runs in arms.values())
    same = {name: where(runs, lr=rate) for name, runs in arms.items()}
    levels = {name: np.array([r["stats_final"]["residual_rms"] for r in runs], float) for name, runs in same.items()}

    def growth(result: Result) -> float:
        rms = result["stats_final"]["residual_rms"]
        return loglog_slope(range(1, len(rms) + 1), rms).slope

    def level(result: Result) -> float:
        return result["stats_final"]["residual_rms"][-1]

    return Found(
        claims=[
            Claim(
                "after training the stream grows faster by depth in pre-norm than in sandwich, difference of exponents",
                source,
                ABOVE_0,
                difference(same["pre"], same["sandwich"], growth),
            ),
            Claim(
                "its last layer stands higher in pre-norm, log of the ratio",
                source,
                ABOVE_0,
                difference(same["pre"], same["sandwich"], lambda result: math.log(level(result))),
            ),
            Claim(
                "its last layer grows faster with the rate in pre-norm, difference of exponents",
                source,
                ABOVE_0,
                of_mean(exponents(arms["pre"], "lr", level) - exponents(arms["sandwich"], "lr", level)),
            ),
        ],
        axes=("layer", "RMS of the stream after training"),
        curves=[Curve(name, range(1, rms.shape[1] + 1), rms.mean(0).tolist()) for name, rms in levels.items()],
        note=f"Both at the rate {rate:g}, the smaller of their best ones.",
    )


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


def transfer(config: Config, results: Results, *, across: str, still: str, moving: str, source: str) -> Found:
    """E8, E11. Where the best rate goes as a model grows, in steps of the grid of rates."""
    found = {each.arm["parametrization"]: each for each in transfers(results, across)}
    sizes = [best.size for best in found[still].best]
    span = f"from {across} {sizes[0]} to {sizes[-1]}, in steps of the grid"
    return Found(
        claims=[
            Claim(
                f"under {still} the best rate stays {span}",
                source,
                Expected("one step at most, either way", low=-1.0, high=1.0),
                Interval(*found[still].shift),
            ),
            Claim(
                f"under {moving} it falls {span}",
                source,
                Expected("by more than one step", high=-1.0),
                Interval(*found[moving].shift),
            ),
        ],
        axes=(across, "best rate"),
        curves=[Curve(name, sizes, [best.rate for best in each.best]) for name, each in found.items()],
        note=f"A step of the grid is a factor of {step_of(results):.3g}.",
    )


def mup(config: Config, results: Results) -> Found:
    """E8. Where the best rate goes as a model widens, and how much a few steps change every activation of it."""
    source = "Yang et al. 2022 (Tensor Programs V)"
    found = transfer(config, results, across="width", still="mup", moving="standard", source=source)
    slopes: dict[str, list[float]] = {"mup": [], "standard": []}
    for each in coordinates(config, say=lambda line: None):
        if each.slopes.change is not None:
            slopes[each.arm["parametrization"]].append(each.slopes.change.slope)
    checked = [
        Claim(
            "under mup a few steps change every activation by as much at every width, the largest exponent",
            f"{source}, appendix D.1",
            Expected(f"within {FLAT} of 0", low=-FLAT, high=FLAT),
            exactly(max(slopes["mup"], key=abs)),
        ),
        Claim(
            "under standard they change every activation by more in a wider model, the smallest exponent",
            f"{source}, appendix D.1",
            Expected(f"more than {FLAT}", low=FLAT),
            exactly(min(slopes["standard"])),
        ),
    ]
    return replace(found, claims=[*found.claims, *checked])


def cache_bytes(config: Config, results: Results) -> Found:
    """E9. Loss against the bytes that a token leaves in the cache."""
    arms = {
        _attention_name(r): at_best(runs)
        for (_, _), runs in by(results, "attention", "kv_heads").items()
        for r in runs[:1]
    }
    sizes = {
        name: accounting.cache_bytes(config.with_settings(_structure(runs[0])).spec()) for name, runs in arms.items()
    }
    sources = {"GQA": "Ainslie et al. 2023, section 3", "MQA": "Shazeer 2019", "MLA": "DeepSeek-V2 2024, appendix D"}
    claims = [
        claim
        for name, source in sources.items()
        for claim in (
            Claim(
                f"{name} keeps the loss of MHA, difference in nats",
                source,
                NO_WORSE,
                loss_difference(arms[name], arms["MHA"]),
            ),
            Claim(
                f"{name} keeps fewer bytes of a token, share of MHA's",
                source,
                Expected("less than 1", high=1.0),
                exactly(sizes[name] / sizes["MHA"]),
            ),
        )
    ]
    points = [Curve(name, [sizes[name]], [float(np.mean([loss_of(r) for r in runs]))]) for name, runs in arms.items()]
    parameters = ", ".join(f"{name} {runs[0]['params']:,}" for name, runs in arms.items())
    return Found(
        claims=claims,
        axes=("cache bytes a token", "validation loss, nats"),
        curves=points,
        note=f"Each at its best rate. Parameters, which are not equal: {parameters}.",
    )


def _structure(result: Result) -> dict[str, Any]:
    return {name: result["args"][name] for name in ("attention", "kv_heads")}


def _attention_name(result: Result) -> str:
    heads, kv_heads = result["args"]["heads"], result["args"]["kv_heads"]
    if result["args"]["attention"] == "mla":
        return "MLA"
    return {heads: "MHA", 1: "MQA"}.get(kv_heads, "GQA")


def no_positions(config: Config, results: Results) -> Found:
    """E10. What the order of tokens is worth to a causal model without position encoding."""
    source = "Haviv et al. 2022"

    def order(result: Result) -> float:
        return result["beside"]["order_gap"]

    deep = max(r["args"]["depth"] for r in results)
    nope, rope = (at_best(where(results, position=name, depth=deep)) for name in ("none", "rotary"))
    bag = at_best(where(results, position="none", depth=1))
    arms = {"none, depth 1": bag, f"none, depth {deep}": nope, f"rotary, depth {deep}": rope}
    return Found(
        claims=[
            Claim(
                "one layer without position encoding sees a bag of tokens, nats that order is worth",
                "by construction",
                Expected("0, but for rounding", low=-1e-4, high=1e-4),
                of_mean([order(r) for r in bag]),
            ),
            Claim(
                f"{deep} layers without position encoding learn order, nats that it is worth",
                source,
                ABOVE_0,
                of_mean([order(r) for r in nope]),
            ),
            Claim(
                "order is worth less to them than to rotary ones, in nats",
                source,
                ABOVE_0,
                difference(rope, nope, order),
            ),
            Claim("they end above rotary ones, in nats", source, ABOVE_0, loss_difference(nope, rope)),
        ],
        axes=("learning rate", "validation loss, nats"),
        curves=[
            mean_curve(
                name,
                where(results, position=runs[0]["args"]["position"], depth=runs[0]["args"]["depth"]),
                "lr",
                loss_of,
            )
            for name, runs in arms.items()
        ],
        note="What order is worth: the loss where the tokens before the last one are shuffled, less the loss where "
        "they are not.",
    )


def remedies(config: Config, results: Results) -> Found:
    """E12. Remedies against LR sensitivity, alone and in pairs."""
    arms: dict[frozenset[str], list[Result]] = {}
    for result in results:
        arms.setdefault(frozenset(_remedies_of(result)), []).append(result)
    per_seed = {arm: sensitivities(runs) for arm, runs in arms.items()}
    none = per_seed[frozenset()]
    claims = []
    for arm, values in sorted(per_seed.items(), key=lambda item: (len(item[0]), sorted(item[0]))):
        names = sorted(arm)
        if len(arm) == 1:
            claims.append(
                Claim(
                    f"{names[0]} alone lowers LR sensitivity, by nats",
                    SOURCES[names[0]],
                    ABOVE_0,
                    of_mean(none - values),
                )
            )
        elif len(arm) == 2:
            alone = [per_seed[frozenset([name])] for name in names]
            claims.append(
                Claim(
                    f"{names[0]} and {names[1]} add up, interaction in nats",
                    "as each alone",
                    ADDITIVE,
                    of_mean(values - alone[0] - alone[1] + none),
                )
            )
    return Found(
        claims=claims,
        axes=("learning rate", "validation loss, nats"),
        curves=[
            mean_curve(" + ".join(sorted(arm)) or "none", runs, "lr", loss_of)
            for arm, runs in arms.items()
            if len(arm) < 2
        ],
        note="Sensitivity: "
        + ", ".join(f"{' + '.join(sorted(arm)) or 'none'} {values.mean():.3f}" for arm, values in per_seed.items())
        + ".",
    )


ADDITIVE = Expected(f"0 +- {SMALLEST}", low=-SMALLEST, high=SMALLEST)
SOURCES = {
    "qk-norm": "Wortsman et al. 2023, section 3.1",
    "z-loss": "Wortsman et al. 2023, section 3.2",
    "softcap": "Gemma 2 2024, section 2",
    "sandwich": "Ding et al. 2021; Gemma 2 2024",
}


def _remedies_of(result: Result) -> list[str]:
    args = result["args"]
    has = {
        "qk-norm": args["qk_norm"] != "none",
        "z-loss": args["z_loss"] > 0,
        "softcap": args["softcap"] is not None,
        "sandwich": args["placement"] == "sandwich",
    }
    return [name for name, there in has.items() if there]


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
        quick={"width": [32, 64, 128], "seed": range(3)},
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
