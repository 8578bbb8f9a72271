"""Depth as config.json says it, block by block, and as a Stack says it, in repeats of a pattern."""

from collections.abc import Sequence
from dataclasses import replace

from fxformer.block import Block
from fxformer.stack import Repeat, Stack


def fold(blocks: Sequence[Block]) -> tuple[Repeat, ...]:
    """The repeats that say these blocks with the fewest blocks in their patterns, then the fewest and earliest repeats.

    Local and global in turn is one repeat of two blocks, three dense ones before twenty sparse ones are two repeats.
    """

    numbers: dict[Block, int] = {}
    kinds = [numbers.setdefault(block, len(numbers)) for block in blocks]
    if len(numbers) in (1, len(blocks)):  # one pattern, of one block or of all
        return (Repeat(len(blocks) // len(numbers), tuple(numbers)),)
    # (blocks in patterns, repeats, less what the first covers, how wide and how often it is) from each block on.
    best: list[tuple[int, int, int, int, int]] = [(0, 0, 0, 0, 0)] * (len(blocks) + 1)
    for start in reversed(range(len(blocks))):
        options = []
        for width in range(1, len(blocks) - start + 1):
            end = start + width
            while kinds[end : end + width] == kinds[start : start + width]:
                end += width
            cost, repeats, *_ = best[end]
            options.append((width + cost, repeats + 1, start - end, width, (end - start) // width))
        best[start] = min(options)
    groups, start = [], 0
    while start < len(blocks):
        _, _, _, width, n = best[start]
        groups.append(Repeat(n, tuple(blocks[start : start + width])))
        start += n * width
    return tuple(groups)


def unfolded(stack: Stack) -> Stack:
    """The same computation with a repeat for each block, so that two ways to write one pattern compare equal.

    Tied repeats stay: their blocks share parameters.
    """
    groups = [
        [group] if group.tied else [Repeat(1, (block,)) for block in group.blocks * group.n] for group in stack.groups
    ]
    return replace(stack, groups=tuple(repeat for group in groups for repeat in group))
