"""Feed-forward layers: `(x) -> (y, Side)`. A new one is a spec, a module and one line in FFN."""

from fxformer.layers.ffn.dense import GLU, MLP, GLUModule, MLPModule

FFN = {MLP: MLPModule, GLU: GLUModule}
FFNSpec = MLP | GLU
