"""Any spec as a Flax NNX module, through Flax's own bridge from Linen."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
from flax import nnx

from fxformer.fields import checked
from fxformer.given import check_arrays, check_params
from fxformer.layer import Layer, LayerSpec
from fxformer.linen import Model
from fxformer.model import abstract_params
from fxformer.transformer import Params, Transformer


@checked
def model(spec: Transformer, params: Params, rngs: nnx.Rngs | None = None) -> Any:
    """A model with these parameters, those of `init` or `hf.load`: `model(tokens, …)` says what `apply` does.

    rngs: with a stream "dropout", here or in a call, dropout is active.
    Raises ValueError for parameters of another model.
    """
    check_arrays(params)
    check_params(params, nn.meta.unbox(abstract_params(spec)))
    return _holding(nnx.bridge.ToNNX(Model(spec), rngs), params)


def layer(spec: LayerSpec, params: Params, rngs: nnx.Rngs | None = None) -> Any:
    """A layer, a block or a stack with the parameters of `init_layer`: `layer(x, …)` says what `apply_layer` does."""
    check_arrays(params)
    return _holding(nnx.bridge.ToNNX(Layer(spec), rngs), {"layer": params})


def params_of(module: nnx.Module) -> Params:
    """The parameters that a module holds now, as `model` or `layer` took them."""
    params = nnx.to_pure_dict(nnx.state(module, nnx.Param))
    return params.get("layer", params)


def _holding(module: nnx.bridge.ToNNX, params: Mapping[str, Any]) -> nnx.bridge.ToNNX:
    """The module with what the bridge would have initialised lazily."""
    for name, tree in params.items():
        setattr(module, name, jax.tree.map(nnx.Param, tree))
    return module
