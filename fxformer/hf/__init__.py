"""Hugging Face checkpoints, read and written without torch: one file with one name table for each family.

A new family is one file (how its config.json reads and writes as a Spec, which of its tensors holds which of our
parameters) and one line in FAMILIES.
"""

from fxformer.hf.checkpoint import load, save

__all__ = ["load", "save"]
