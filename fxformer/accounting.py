"""Parameters, FLOPs and memory in closed form, from the Spec."""

import math
from functools import lru_cache

import flax.linen as nn
import jax

from fxformer.model import Transformer, abstract_params


@lru_cache(maxsize=256)
def count(spec: Transformer) -> int:
    """Exact number of parameters, from shapes alone: no memory, no time."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(nn.meta.unbox(abstract_params(spec))))


def flops(spec, length):
    return 2.0 * count(spec)
