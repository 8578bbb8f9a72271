"""A model as a Flax Linen module, for programs that are written in Linen; `Layer` is one of a single layer."""

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike

from fxformer.cache import Cache
from fxformer.coords import Coords
from fxformer.given import Tokens, floating
from fxformer.jit import promoting
from fxformer.layer import Layer
from fxformer.layers.context import Execution, Memory
from fxformer.model import Output, TransformerModule, inputs_of
from fxformer.transformer import Transformer

__all__ = ["Layer", "Model"]


class Model(nn.Module):
    """`apply` as a module: its parameters are those of `init`, so each can be given to the other.

    `init` boxes them with the names of their axes, as Linen does for sharding; `flax.linen.meta.unbox` takes that off.
    Dropout is active exactly when there is an rng of the name "dropout".
    """

    spec: Transformer
    kernel: str | None = None
    remat: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    @promoting()
    def __call__(
        self,
        tokens: Tokens,
        *,
        coords: Coords | None = None,
        cache: Cache | None = None,
        encoder_tokens: Tokens | None = None,
        encoder_coords: Coords | None = None,
        memory: Memory | None = None,
    ) -> Output:
        execution = Execution(kernel=self.kernel, remat=self.remat)
        tokens_BT, context, reading = inputs_of(
            self.spec, tokens, coords, cache, encoder_tokens, encoder_coords, memory, execution
        )
        module = TransformerModule(self.spec, name="model")
        nn.share_scope(self, module)
        output: Output = module(tokens_BT, context, reading, cache, floating(self.dtype))
        return output
