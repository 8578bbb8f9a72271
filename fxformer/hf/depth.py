"""Depth as config.json says it, block by block, and as a Stack says it, in repeats of a pattern."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

from fxformer.block import Block
from fxformer.stack import Repeat, Stack


def fold(blocks: Sequence[Block]) -> tuple[Repeat, ...]:
    """The repeats that say these blocks with the fewest blocks in their patterns, then the fewest and earliest repeats.

    Local and global in turn is one repeat of two blocks, three dense ones before twenty sparse ones are two repeats.
    """

    @cache
    def best(start: int) -> tuple[int, tuple[Repeat, ...]]:
        """(blocks in patterns, repeats) from block `start` on."""
        if start == len(blocks):
            return 0, ()
        options = []
        for width in range(1, len(blocks) - start + 1):
            pattern, n = tuple(blocks[start : start + width]), 1
            while tuple(blocks[start + n * width : start + (n + 1) * width]) == pattern:
                n += 1
            cost, rest = best(start + n * width)
            options.append((width + cost, (Repeat(n, pattern), *rest)))
        return min(options, key=lambda option: (option[0], len(option[1]), -option[1][0].n * len(option[1][0].blocks)))

    return best(0)[1]


def unfolded(stack: Stack) -> Stack:
    """The same computation with a repeat for each block, so that two ways to write one pattern compare equal.

    Tied repeats stay: their blocks share parameters.
    """
    groups = [
        [group] if group.tied else [Repeat(1, (block,)) for block in group.blocks * group.n] for group in stack.groups
    ]
    return replace(stack, groups=tuple(repeat for group in groups for repeat in group))
