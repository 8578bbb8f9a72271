"""What decays and what Muon orthogonalises, by the names of every parameter of every structure."""

import jax
import jax.numpy as jnp
import optax
import pytest

from fxformer.model import abstract_params
from tests.laws.specs import PUBLISHED, STRUCTURES, shapes_of
from train.optim.optimizer import OptimizerRecipe, build

MODELS = {**PUBLISHED, **STRUCTURES}
MATRIX, TABLE, REST = ("weight",), ("table", "types", "text", "span", "memory_tokens"), (
    "scale", "bias", "alpha", "gate", "sinks", "head_gains", "selection_bias", "layer_scale", "value_own",
    "value_first", "mix_logits", "mix_weights", *(f"lambda_{side}_{k}" for side in ("query", "key") for k in (1, 2)),
)  # fmt: skip
LAST = ("head.out.weight", "head.readout.out.weight", "pooler.out.weight")  # says tokens or classes
RATE, DECAY = 0.5, 0.25


def dotted(path) -> str:
    return ".".join(part.key for part in path)


def optimizer_of(name, spec, decay=0.0):
    recipe = OptimizerRecipe(name=name, clip=0.0)
    return build(recipe, lr=RATE, weight_decay=decay, boxes=abstract_params(spec))


@pytest.mark.parametrize("name", MODELS)
def test_matrices_and_tables_decay_and_nothing_else_does(name):
    """Words, token types, positions and buckets alike; each parameter stands for itself as one number."""
    spec = MODELS[name]
    ones = jax.tree.map(lambda leaf: jnp.ones(()), shapes_of(spec))
    optimizer, zeros = optimizer_of("sgd", spec, DECAY), jax.tree.map(jnp.zeros_like, ones)
    updates, _ = optimizer.update(zeros, optimizer.init(ones), ones)
    for path, update in jax.tree_util.tree_leaves_with_path(updates):
        last = path[-1].key
        assert last in MATRIX + TABLE + REST, f"{dotted(path)} has no group"
        assert update == (0 if last in REST else -RATE * DECAY), dotted(path)


@pytest.mark.parametrize("name", MODELS)
def test_muon_has_the_hidden_matrices_and_no_others(name):
    """In encoders and beside the stack too, not the head's, the classes' and no table."""
    spec = MODELS[name]
    state = jax.eval_shape(optimizer_of("muon", spec).init, shapes_of(spec))
    (partition,) = (part for part in state if isinstance(part, optax.transforms.PartitionState))
    momentum = partition.inner_states["matrix"].inner_state[0].mu
    told = {dotted(path) for path, _ in jax.tree_util.tree_leaves_with_path(momentum)}
    known = {dotted(path) for path, _ in jax.tree_util.tree_leaves_with_path(shapes_of(spec))}
    assert told == {path for path in known if path.endswith(".weight") and path not in LAST}
