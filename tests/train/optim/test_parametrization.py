"""What parametrisations multiply in every toy structure, against the papers' tables read by names of parameters."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.linen.spmd import LogicallyPartitioned

import fxformer as fx
from fxformer.model import abstract_params
from tests.laws.specs import PUBLISHED, VARIANTS
from train.config import Config
from train.optim.optimizer import OPTIMIZERS, OptimizerRecipe, build
from train.optim.parametrization import PARAMETRIZATIONS, Factors, factors, is_factors
from train.step import NEUTRAL, numbers_of, recipe_of, start

BASE = {"width": 24, "depth": 2, "heads": 3, "inner": 40}
BASES = {"base_width": 24, "base_inner": 40}
WIDER, DEEPER = 4, 3
CHOICES = [(name, value) for name, values in VARIANTS.items() for value in values]


def config(parametrization="mup", **settings):
    depth = {"base_depth": 2} if parametrization == "completep" and "base_depth" not in settings else {}
    return Config(name="law").with_settings(
        {**BASE, **BASES, **depth, "parametrization": parametrization, **settings}
    )  # fmt: skip


def grown(**settings):
    return config(width=24 * WIDER, inner=40 * WIDER, depth=2 * DEEPER, **settings)


def by_name(tree):
    leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=is_factors)
    return {".".join(part.key for part in path): leaf for path, leaf in leaves}


def fitting(name, value):
    """The settings of one choice, and what it needs beside it."""
    return {"window": None, name: value, **({"objective": "masked"} if (name, value) == ("mask", "full") else {})}


@pytest.mark.parametrize(("name", "value"), CHOICES)
@pytest.mark.parametrize("parametrization", ["mup", "completep"])
def test_at_the_base_every_parametrisation_is_the_standard_one(parametrization, name, value):
    """The same model, and a base that is the model itself: factors of 1, which are no operations."""
    settings = fitting(name, value)
    at_base, standard = config(parametrization, **settings), Config(name="law").with_settings({**BASE, **settings})
    assert at_base.spec() == at_base.base() == standard.spec()


@pytest.mark.parametrize("parametrization", PARAMETRIZATIONS)
def test_at_the_base_the_optimizer_is_the_standard_one(parametrization):
    base = PARAMETRIZATIONS[parametrization].bases and {"parametrization": parametrization}
    recipe = recipe_of(config(**base) if base else Config(name="law").with_settings(BASE))
    assert all(told[1:] == (1, 1, 1) and told.decay == 1 for told in by_name(recipe.factors).values())
    boxes = abstract_params(recipe.spec(NEUTRAL))
    told, known = (build(recipe.optimizer, lr=1.0, weight_decay=0.1, boxes=boxes, **more).init(boxes)
                   for more in ({"factors": recipe.factors}, {}))  # fmt: skip
    assert jax.tree.structure(told) == jax.tree.structure(known)  # a checkpoint of one is read by the other


STILL = ("alpha", "gate", "value_own", "value_first", "mix_logits", "mix_weights")  # numbers that grow in no direction


def printed(path, m, few=("router",)):
    """Initial values, Adam's rate and epsilon by a parameter's name, as the papers print them for m times the width.

    few: modules that lead from a width to as many numbers at every width: experts, or heads."""
    *_, module, last = path.split(".")
    if path.startswith("embed.") or last == "memory_tokens":
        return math.sqrt(m), 1, 1 / m  # from 1/sqrt(width) to one size at every width
    if path == "head.out.weight":
        return math.sqrt(m), 1, 1 / m  # likewise, beside a multiplier of 1/m
    if module in few:
        return 1 / math.sqrt(m), 1 / m, 1  # table 3: variance 1/fan_in^2
    if last == "weight":
        return 1, 1 / m, 1 / m
    return 1, 1, 1 if last in STILL or module == "bias" else 1 / m


@pytest.mark.parametrize(("name", "value"), CHOICES)
def test_factors_of_every_parameter_are_those_the_papers_print(name, value):
    parametrization = "completep" if name == "placement" else "mup"
    told = by_name(recipe_of(grown(parametrization=parametrization, **fitting(name, value))).factors)
    for path, factor in told.items():
        init, rate, eps = printed(path, WIDER, few=("router", "gate") if value == "head" else ("router",))
        eps /= DEEPER if name == "placement" and ".blocks." in path else 1
        assert (factor.init, factor.rate, factor.eps) == pytest.approx((init, rate, eps)), path
        assert factor.rate * factor.decay == 1


@pytest.mark.parametrize(("name", "value"), CHOICES)
def test_the_forward_pass_is_multiplied_as_the_papers_say(name, value):
    settings = fitting(name, value)
    standard = Config(name="law").with_settings({**BASE, **settings}).spec()
    for parametrization, share in (("mup", 1), ("completep", 1 / DEEPER)):
        spec = grown(parametrization=parametrization, **settings).spec()
        assert spec.head.scale == 1 / WIDER
        assert spec.embed.scale == pytest.approx(math.sqrt(24))
        for block, at_base in zip(spec.stack.blocks, standard.stack.blocks * DEEPER, strict=True):
            assert block.residual.branch == pytest.approx(share)
            key = {"mla": 12, "differential": 4}.get(
                value, 8
            )  # of the base: queries . keys / sqrt(key) there, / d beyond
            assert block.attention.scale == pytest.approx(math.sqrt(key) / (WIDER * key))
            assert at_base.attention.scale is None


def test_what_is_drawn_has_the_spread_that_is_printed():
    """Standard deviations at four times the width, over those of the base: of tables, heads, matrices, routers."""
    settings = {"ffn": "moe", "head": "untied", "position": "learned", "depth": 2}

    def spreads(config):
        state = start(recipe_of(config), numbers_of(config))
        return {path: float(np.std(leaf)) for path, leaf in by_name(state.params).items() if np.std(leaf)}

    wide, base = (spreads(config(width=width, inner=inner, **settings)) for width, inner in ((96, 160), (24, 40)))
    for path, spread in wide.items():
        wanted = 1 if path.startswith(("embed", "head")) else 1 / 4 if "router" in path else 1 / 2
        assert spread / base[path] == pytest.approx(wanted, rel=0.2 if "router" in path else 0.06), path


LEAVES = {  # factors that differ from each other and from 1, for a matrix, a gain and a table
    "weight": (("width", "ffn"), (3, 4), Factors("matrix", 1.0, 0.25, 0.5)),
    "scale": (("width",), (5,), Factors("vector", 1.0, 3.0, 0.125)),
    "table": ((None, "width"), (2, 3), Factors("table", 1.0, 0.5, 2.0)),
}
BOXES = {n: LogicallyPartitioned(jax.ShapeDtypeStruct(s, jnp.float32), names) for n, (names, s, _) in LEAVES.items()}
FACTORS = {name: factor for name, (_, _, factor) in LEAVES.items()}
RATE, DECAY, EPS = 0.1, 0.3, 0.05


def adam(corrected):
    def direction(grads, eps):
        m = v = 0.0
        for t, g in enumerate(grads, 1):
            m, v = 0.9 * m + 0.1 * g, 0.95 * v + 0.05 * g * g
            first, second = (1 - 0.9**t, 1 - 0.95**t) if corrected else (1, 1)
            yield m / first / (np.sqrt(v / second) + eps)

    return direction


def momentum(grads, eps):
    m = 0.0
    for g in grads:
        m = 0.9 * m + g
        yield m


DIRECTIONS = {"adamw": adam(True), "adamw-uncorrected": adam(False), "sgd": momentum}


@pytest.mark.parametrize("name", DIRECTIONS)
def test_each_parameter_moves_as_if_it_had_its_own_rate_decay_and_epsilon(name):
    """theta -= rate lr (direction(eps' eps) + decay' weight_decay theta), in float64."""
    random = np.random.default_rng(0)
    theta = {name: random.normal(size=shape) for name, (_, shape, _) in LEAVES.items()}
    grads = [{name: 0.1 * random.normal(size=leaf.shape) for name, leaf in theta.items()} for _ in range(3)]
    recipe = OptimizerRecipe(name=name, beta1=0.9, beta2=0.95, eps=EPS, clip=0.0)
    optimizer = build(recipe, lr=RATE, weight_decay=DECAY, boxes=BOXES, factors=FACTORS)
    params = jax.tree.map(jnp.float32, theta)
    state = optimizer.init(params)
    for grad in grads:
        updates, state = optimizer.update(jax.tree.map(jnp.float32, grad), state, params)
        params = optax.apply_updates(params, updates)
    for leaf, factor in FACTORS.items():
        exact = theta[leaf]
        for direction in DIRECTIONS[name]([grad[leaf] for grad in grads], factor.eps * EPS):
            decay = 0 if leaf == "scale" else factor.decay * DECAY
            exact = exact - factor.rate * RATE * (direction + decay * exact)
        np.testing.assert_allclose(params[leaf], exact, rtol=2e-5, err_msg=leaf)


def test_muon_moves_a_matrix_by_the_spectral_norm_that_grows_like_the_root_of_its_sides():
    """Yang, Simon & Bernstein 2023: |update| ~ sqrt(fan out / fan in), whatever the shape."""

    def norm(width, inner):
        box = LogicallyPartitioned(jax.ShapeDtypeStruct((width, inner), jnp.float32), ("width", "ffn"))
        spec = recipe_of(config(optimizer="muon", width=width, inner=inner)).factors
        own = {"up": spec["stack"]["group_0"]["blocks"]["block_0"]["ffn"]["up"]["weight"]}
        optimizer = build(
            OptimizerRecipe(name="muon", clip=0.0), lr=1.0, weight_decay=0.0, boxes={"up": box}, factors=own
        )
        params = {"up": jnp.asarray(np.random.default_rng(0).normal(size=(width, inner)), jnp.float32)}
        updates, _ = optimizer.update(params, optimizer.init(params), params)
        return np.linalg.norm(updates["up"])  # of equal singular values: sqrt(rank) times the spectral one

    base = norm(24, 40) / math.sqrt(24)
    assert norm(96, 160) / math.sqrt(96) == pytest.approx(base, rel=0.1)  # Muon's singular values are 0.7 to 1.2
    assert norm(96, 40) / math.sqrt(40) == pytest.approx(base / 2, rel=0.1)


def test_sgd_has_the_rates_of_table_8():
    told = by_name(recipe_of(grown(optimizer="sgd", head="untied")).factors)
    rates = {path.rpartition("blocks.")[2]: factor.rate for path, factor in told.items()}
    assert rates["embed.table"] == rates["stack.final_norm.scale"] == rates["head.out.weight"] == WIDER
    assert rates["block_0.ffn.up.weight"] == rates["block_0.attention.out.weight"] == 1


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_standard_parametrisation_multiplies_nothing_in_any_model(name):
    spec = PUBLISHED[name]
    for told in by_name(factors(PARAMETRIZATIONS["standard"], "adamw", spec, spec)).values():
        assert told[1:] == (1, 1, 1)


def test_key_heads_keep_their_share_of_a_base_with_fewer_heads():
    settings = {"width": 96, "inner": 160, "heads": 12, "kv_heads": 4, "base_heads": 3}
    base = config(**settings).base().stack.blocks[0].attention
    assert (base.heads, base.kv_heads, base.key_width) == (3, 1, 8)
    assert config(**settings).spec().stack.blocks[0].attention.scale is None  # its keys are as wide: nothing grew


def test_every_optimizer_has_its_rates_or_is_refused_by_name():
    known = {name: set(rule.rates) for name, rule in PARAMETRIZATIONS.items()}
    assert known["standard"] == set(OPTIMIZERS)
    assert set(OPTIMIZERS) - known["mup"] == {"adafactor"}
    assert set(OPTIMIZERS) - known["completep"] == {"adafactor", "sgd", "muon"}


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"base_width": None, "inner": None, "base_inner": None},
         "parametrization='mup' is relative to a base model; set base_width"),
        ({"parametrization": "completep", "base_width": None, "base_depth": None},
         "parametrization='completep' is relative to a base model; set base_width or base_depth"),
        ({"optimizer": "adafactor"},
         "parametrization='mup' has no rates for optimizer='adafactor', of which its papers say nothing; use adamw, "
         "adamw-uncorrected, lion, sgd, muon"),
        ({"base_inner": None}, "inner=40 may grow with the width or not; set base_inner"),
        ({"base_width": 25}, "the base model cannot be: heads=3 does not divide width=25; use 1, 5 or 25"),
        ({"heads": 6, "kv_heads": 3, "base_heads": 3}, "the base model cannot be: base_heads=3 leaves kv_heads=3 of"),
        ({"parametrization": "mupp"}, "parametrization='mupp' is unknown; did you mean 'mup'?"),
    ],
)  # fmt: skip
def test_a_family_that_cannot_be_is_refused(settings, sentence):
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}"):
        config(**settings)


def test_a_published_model_has_no_family():
    with pytest.raises(ValueError, match="scales toys between widths, and the model is published as it is; leave it"):
        Config(name="law").with_settings({"tiny": "gpt2", "parametrization": "mup", "base_width": 24})
    assert Config(name="law").with_settings({"tiny": "gpt2"}).base() == fx.zoo.tiny("gpt2")
