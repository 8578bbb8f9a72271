"""Feed-forward layers: `(x, context) -> (y, Side)`. A new one is a spec, a module and one line in FFN."""

from fxformer.layers.ffn.dense import DENSE, GLU, MLP
from fxformer.layers.ffn.moe import MoE, MoEModule

FFN = {**DENSE, MoE: MoEModule}
FFNSpec = MLP | GLU | MoE
