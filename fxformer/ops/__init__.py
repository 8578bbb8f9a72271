"""Pure functions on arrays; every one is usable alone and none needs Flax."""

from fxformer.ops.activation import ACTIVATIONS, gelu_erf, gelu_tanh, relu, relu2, silu
from fxformer.ops.attend import KERNELS, attend
from fxformer.ops.bias import BucketBias, DistanceBias, LogitBias, alibi_slopes, t5_buckets
from fxformer.ops.dispatch import DISPATCHES, Capacity, Dropless, dispatch
from fxformer.ops.loss import cross_entropy, divergence, weighted_mean, z_loss
from fxformer.ops.lsh import lsh_attend, lsh_buckets
from fxformer.ops.mask import Blocks, Causal, Full, Mask, Prefix, Strided, Window, visible
from fxformer.ops.norm import NORMS, layer_norm, rms_norm
from fxformer.ops.position import sinusoids
from fxformer.ops.rotary import NTK, PAIRINGS, SCALINGS, Dynamic, Linear, Llama3, Rotary, YaRN, angles, rotate
from fxformer.ops.route import ROUTERS, GShard, Sigmoid, Switch, TopK, balance, route
from fxformer.ops.sample import choose, keep_min_p, keep_top_k, keep_top_p, penalise, temper
from fxformer.ops.select import index_scores, top_k_mask

__all__ = [
    "attend", "rotate", "angles", "rms_norm", "layer_norm", "sinusoids", "t5_buckets", "alibi_slopes",
    "cross_entropy", "z_loss", "weighted_mean", "choose", "temper", "keep_top_k", "keep_top_p", "keep_min_p",
    "penalise", "route", "balance", "dispatch", "index_scores", "top_k_mask", "divergence",
    "lsh_attend", "lsh_buckets",
    "relu", "gelu_erf", "gelu_tanh", "silu", "relu2",
    "Mask", "Full", "Causal", "Window", "Prefix", "Strided", "Blocks", "visible",
    "Switch", "GShard", "TopK", "Sigmoid", "Capacity", "Dropless",
    "Rotary", "Linear", "NTK", "Dynamic", "YaRN", "Llama3", "LogitBias", "BucketBias", "DistanceBias",
    "NORMS", "ACTIVATIONS", "KERNELS", "PAIRINGS", "SCALINGS", "ROUTERS", "DISPATCHES",
]  # fmt: skip
