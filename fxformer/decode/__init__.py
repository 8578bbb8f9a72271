"""Decoding: pure loops over (params, cache); the caller may own the cache at every step."""

from fxformer.decode.beam import Beams, beam
from fxformer.decode.fill import fill_blanks, fill_masks
from fxformer.decode.loop import generate, stream
from fxformer.decode.sampling import Sampling, next_token
from fxformer.decode.speculate import Speculation, speculate
from fxformer.decode.steps import check_decodable, prefill, step, unstacked

__all__ = [
    "prefill", "step", "unstacked",
    "generate", "stream", "Sampling", "next_token",
    "beam", "Beams", "speculate", "Speculation", "fill_masks", "fill_blanks",
    "check_decodable",
]  # fmt: skip
