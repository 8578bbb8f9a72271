"""What models are made of: specs of attentions, feed-forward layers, norms, embeddings and heads, and their modules."""

from fxformer.layers.attention import GQA, MLA, Differential
from fxformer.layers.attention.indexer import Indexer
from fxformer.layers.bias import ALiBi, Buckets
from fxformer.layers.embed import Embed, Learned, LearnedPair, Sinusoidal
from fxformer.layers.ffn import GLU, MLP, MoE
from fxformer.layers.head import Bare, Labels, Pooler, Span, Tied, Transformed, Untied
from fxformer.layers.norm import Norm
from fxformer.layers.project import FanIn, Normal, Truncated, Xavier
from fxformer.layers.residual import Residual

__all__ = [
    "GQA", "MLA", "Differential", "Indexer", "MLP", "GLU", "MoE", "Norm", "Residual",
    "Embed", "Sinusoidal", "Learned", "LearnedPair", "ALiBi", "Buckets",
    "Tied", "Untied", "Transformed", "Bare", "Labels", "Span", "Pooler",
    "FanIn", "Xavier", "Normal", "Truncated",
]  # fmt: skip
