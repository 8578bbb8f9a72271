"""What attention needs and costs: qk-norm and its like (E5, E12), the cache (E9), order without positions (E10)."""

from typing import Any

import numpy as np

from fxformer import accounting
from train.config import Config
from train.reproduce.claim import ABOVE_0, NO_WORSE, SMALLEST, Claim, Expected, exactly, of_mean
from train.reproduce.reading import (
    Curve,
    Found,
    Results,
    at_best,
    difference_at_best,
    each,
    exponents,
    last,
    mean_at_best,
    mean_curve,
    sensitivities,
    where,
)
from train.verdict.runs import Result, by, loss_of


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


def cache_bytes(config: Config, results: Results) -> Found:
    """E9. Loss against the bytes that a token leaves in the cache."""
    arms = {_attention_name(r): runs for (_, _), runs in by(results, "attention", "kv_heads").items() for r in runs[:1]}
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
                difference_at_best(arms[name], arms["MHA"]),
            ),
            Claim(
                f"{name} keeps fewer bytes of a token, share of MHA's",
                source,
                Expected("less than 1", high=1.0),
                exactly(sizes[name] / sizes["MHA"]),
            ),
        )
    ]
    points = [
        Curve(name, [sizes[name]], [float(np.mean([loss_of(r) for r in at_best(runs)]))]) for name, runs in arms.items()
    ]
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
    nope, rope = (where(results, position=name, depth=deep) for name in ("none", "rotary"))
    bag = where(results, position="none", depth=1)
    arms = {"none, depth 1": bag, f"none, depth {deep}": nope, f"rotary, depth {deep}": rope}
    return Found(
        claims=[
            Claim(
                "one layer without position encoding sees a bag of tokens, nats that order is worth",
                "by construction",
                Expected("0, but for rounding", low=-1e-4, high=1e-4),
                mean_at_best(bag, each(order)),
            ),
            Claim(
                f"{deep} layers without position encoding learn order, nats that it is worth",
                source,
                ABOVE_0,
                mean_at_best(nope, each(order)),
            ),
            Claim(
                "order is worth less to them than to rotary ones, in nats",
                source,
                ABOVE_0,
                difference_at_best(rope, nope, each(order)),
            ),
            Claim("they end above rotary ones, in nats", source, ABOVE_0, difference_at_best(nope, rope)),
        ],
        axes=("learning rate", "validation loss, nats"),
        curves=[mean_curve(name, runs, "lr", loss_of) for name, runs in arms.items()],
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
