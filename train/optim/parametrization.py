"""How initial values, rates and multipliers follow width and depth: one table, relative to a base model.

At the base every factor is 1, so each parametrisation is the standard one there, to the bit. Elsewhere a factor is a
function of how many times as large things are as in the base: `i` and `o`, the input and output side of a parameter.

    group   what it is                            initial values     rate: Adam  SGD  Muon                 epsilon
    vector  gains, biases, single numbers         1                  1           o    1                    1/o
    table   vectors added to the stream           sqrt(o)            1           o    1                    1/o
    matrix  from one width to another             min(1, sqrt(o/i))  1/i         o/i  sqrt(o/i / longer)   1/o
    head    matrix that says tokens               sqrt(i)            1           i    1                    1/i

Initial values are times those of the library's toys, whose matrices begin with 1/sqrt(fan in) and whose tables begin
with 1/sqrt(width): a table so keeps its size, and what leads from a width to few numbers, as to those of a router,
begins with 1/i. In the forward pass logits are multiplied by 1/i, attention's by 1/sqrt(key width) once more (which is
1/d in place of 1/sqrt(d)), embeddings by sqrt(base width), and with CompleteP each branch by base depth / depth.
Epsilon goes with the gradient, so that Adam's ratio is the same. What decays is lr x weight_decay of a parameter: that
stays what it is, which is the papers' weight decay divided by the factor of the rate.

mup: Yang et al. 2022 (Tensor Programs V), table 8, whose form fits heads that are tied; for Muon and where only one
side grows Yang, Simon & Bernstein 2023 (A spectral condition for feature learning), section 4. completep: Dey et al.
2025 (CompleteP), table 1 with alpha = 1, and its epsilons.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any, NamedTuple, cast

import jax
from flax.linen.spmd import LogicallyPartitioned

from fxformer.axes import sides
from fxformer.block import Block
from fxformer.layers.attention import GQA, MLA, Differential
from fxformer.layers.head import Tied, Untied
from fxformer.model import Transformer, abstract_params
from fxformer.stack import Once, Repeat

Tree = Any


class Growth(NamedTuple):
    """How many times as large as in the base model: the input side of a parameter, its output side, the longer one."""

    inputs: float
    outputs: float
    longer: float


Factor = Callable[[Growth], float]


def one(growth: Growth) -> float:
    """As in the standard parametrisation."""
    return 1.0


class Group(NamedTuple):
    """What is multiplied by what, for parameters of one kind."""

    init: Factor = one
    adam: Factor = one
    sgd: Factor = one
    muon: Factor = one
    eps: Factor = one


STANDARD = dict.fromkeys(("vector", "table", "matrix", "head"), Group())
MUP = {
    "vector": Group(sgd=lambda g: g.outputs, eps=lambda g: 1 / g.outputs),
    "table": Group(init=lambda g: math.sqrt(g.outputs), sgd=lambda g: g.outputs, eps=lambda g: 1 / g.outputs),
    "matrix": Group(
        init=lambda g: min(1.0, math.sqrt(g.outputs / g.inputs)),
        adam=lambda g: 1 / g.inputs,
        sgd=lambda g: g.outputs / g.inputs,
        muon=lambda g: math.sqrt(g.outputs / g.inputs / g.longer),
        eps=lambda g: 1 / g.outputs,
    ),
    "head": Group(init=lambda g: math.sqrt(g.inputs), sgd=lambda g: g.inputs, eps=lambda g: 1 / g.inputs),
}


def group_of(names: tuple[str | None, ...]) -> str:
    """The group of a parameter, by its logical axes. Tables of logit biases are vectors: they begin with one size."""
    _, inputs, outputs = sides(names)
    if not outputs:
        return "vector"
    if names[inputs[0]] in (None, "vocab"):
        return "table" if names[outputs[0]] == "width" else "vector"
    return "head" if names[outputs[0]] == "vocab" else "matrix"


Power = Callable[[float], float]


class Parametrization(NamedTuple):
    """A row of each group, multipliers of the forward pass, settings that say the base, and rates of each optimizer.

    embed, head: of the growth of the width; attention: of that of a key; branch: of that of the depth, which in blocks
    multiplies epsilon too, as it does gradients. All multiply what the standard parametrisation has.
    """

    groups: Mapping[str, Group]
    rates: Mapping[str, Callable[[Group], Factor]]
    bases: tuple[str, ...] = ()
    embed: Power = lambda width: 1.0
    head: Power = lambda width: 1.0
    attention: Power = lambda key: 1.0
    branch: Power = lambda depth: 1.0


ENTRYWISE: dict[str, Callable[[Group], Factor]] = {  # optimizers whose updates are of one size in every entry
    "adamw": attrgetter("adam"),
    "adamw-uncorrected": attrgetter("adam"),
    "lion": attrgetter("adam"),
}
SIZES = ("base_width", "base_heads", "base_inner")
PARAMETRIZATIONS = {
    "standard": Parametrization(
        STANDARD, {**ENTRYWISE, "adafactor": attrgetter("adam"), "sgd": attrgetter("sgd"), "muon": attrgetter("muon")}
    ),
    "mup": Parametrization(
        MUP,
        {**ENTRYWISE, "sgd": attrgetter("sgd"), "muon": attrgetter("muon")},
        SIZES,
        embed=lambda width: 1 / math.sqrt(width),
        head=lambda width: 1 / width,
        attention=lambda key: 1 / math.sqrt(key),
    ),
    "completep": Parametrization(
        MUP,
        ENTRYWISE,
        (*SIZES, "base_depth"),
        embed=lambda width: 1 / math.sqrt(width),
        head=lambda width: 1 / width,
        attention=lambda key: 1 / math.sqrt(key),
        branch=lambda depth: 1 / depth,
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """A parametrisation by name, and sizes of its base model; None is the size of the model itself."""

    parametrization: str = "standard"
    base_width: int | None = None
    base_depth: int | None = None
    base_heads: int | None = None
    base_inner: int | None = None

    @property
    def rule(self) -> Parametrization:
        """The parametrisation itself."""
        return PARAMETRIZATIONS[self.parametrization]

    def check(self, optimizer: str, model: Mapping[str, Any]) -> None:
        """Raise ValueError where it is relative to nothing, or no source says how the optimizer goes with it.

        model: settings of the toy factory.
        """
        named, rule = f"parametrization={self.parametrization!r}", self.rule
        if optimizer not in rule.rates:
            raise ValueError(
                f"{named} has no rates for optimizer={optimizer!r}, of which its papers say nothing; use "
                f"{', '.join(rule.rates)}"
            )
        sizes = [base for base in rule.bases if base in ("base_width", "base_depth")]
        if sizes and all(getattr(self, base) is None for base in sizes):
            raise ValueError(f"{named} is relative to a base model; set {' or '.join(sizes)}")
        if "base_inner" in rule.bases and model["inner"] is not None and self.base_inner is None:
            raise ValueError(
                f"inner={model['inner']} may grow with the width or not; set base_inner, what it is in the base model"
            )

    def base_of(self, model: Mapping[str, Any]) -> dict[str, Any]:
        """Settings of the base model, for those of a model; key heads keep their share of all heads."""
        said = {base.removeprefix("base_"): getattr(self, base) for base in self.rule.bases}
        base = {**model, **{name: size for name, size in said.items() if size is not None}}
        if base["kv_heads"] is not None and base["heads"] != model["heads"]:
            heads, rest = divmod(base["kv_heads"] * base["heads"], model["heads"])
            if rest or not heads:
                raise ValueError(
                    f"base_heads={base['heads']} leaves kv_heads={model['kv_heads']} of heads={model['heads']} no "
                    "whole share; use a multiple of heads / kv_heads"
                )
            base["kv_heads"] = heads
        return base


CHANNELS: dict[type, Callable[[Any], int]] = {  # that a query and a key are compared in
    GQA: lambda spec: spec.key_width,
    MLA: lambda spec: spec.nope_width + spec.rope_width,
    Differential: lambda spec: spec.key_width,
}


def multiplied(rule: Parametrization, spec: Transformer, base: Transformer) -> Transformer:
    """The model with what its parametrisation multiplies in the forward pass."""
    width, depth = spec.embed.width / base.embed.width, spec.stack.depth / base.stack.depth

    def of_block(block: Block, at_base: Block) -> Block:
        channels = CHANNELS[type(block.attention)](block.attention)
        more = rule.attention(channels / CHANNELS[type(at_base.attention)](at_base.attention))
        scale = block.attention.scale if more == 1 else more / math.sqrt(channels)
        attention = replace(block.attention, scale=scale)
        residual = replace(block.residual, branch=block.residual.branch * rule.branch(depth))
        return replace(block, attention=attention, residual=residual)

    def of_group(group: Repeat | Once, at_base: Repeat | Once) -> Repeat | Once:
        return replace(group, blocks=tuple(map(of_block, group.blocks, at_base.blocks)))

    head = cast(Tied | Untied, spec.head)  # no family has another
    return replace(
        spec,
        embed=replace(spec.embed, scale=spec.embed.scale * rule.embed(width)),
        stack=replace(spec.stack, groups=tuple(map(of_group, spec.stack.groups, base.stack.groups))),
        head=replace(head, scale=head.scale * rule.head(width)),
    )


class Factors(NamedTuple):
    """What the initial values, the rate and Adam's epsilon of a parameter are multiplied by, and who says so."""

    group: str
    init: float
    rate: float
    eps: float

    @property
    def decay(self) -> float:
        """Of weight_decay, so that its product with the rate stays."""
        return 1 / self.rate


def factors(rule: Parametrization, optimizer: str, spec: Transformer, base: Transformer) -> Tree:
    """`Factors` of every parameter of a model, in the tree of `init`."""
    deep = rule.branch(spec.stack.depth / base.stack.depth)
    rate_of = rule.rates[optimizer]

    def of_leaf(path: Any, box: LogicallyPartitioned, at_base: LogicallyPartitioned) -> Factors:
        name = group_of(box.names)
        group, growth = rule.groups[name], _growth(box.names, box.value.shape, at_base.value.shape)
        within = path[0].key == "stack" and path[1].key.startswith("group_")
        return Factors(name, group.init(growth), rate_of(group)(growth), group.eps(growth) * (deep if within else 1.0))

    boxes = (abstract_params(spec), abstract_params(base))
    return jax.tree_util.tree_map_with_path(of_leaf, *boxes, is_leaf=lambda x: isinstance(x, LogicallyPartitioned))


def _growth(names: tuple[str | None, ...], shape: tuple[int, ...], base: tuple[int, ...]) -> Growth:
    """Of a parameter's sides; what has no output side is all output."""
    _, inputs, outputs = sides(names)
    if not outputs:
        inputs, outputs = (), inputs
    (fan_in, fan_out), (base_in, base_out) = (
        [math.prod(sizes[axis] for axis in side) for side in (inputs, outputs)] for sizes in (shape, base)
    )
    return Growth(fan_in / base_in, fan_out / base_out, max(fan_in, fan_out) / max(base_in, base_out))


def times(factors: Tree, values: Tree, which: Callable[[Factors], float]) -> Tree:
    """Values of all parameters, each multiplied by one of its factors; 1 is no operation."""

    def scaled(factor: Factors, value: Any) -> Any:
        return value if which(factor) == 1 else value * which(factor)

    return jax.tree.map(scaled, factors, values, is_leaf=is_factors)


def is_factors(node: Any) -> bool:
    """Whether it is the leaf that belongs to one parameter."""
    return isinstance(node, Factors)
