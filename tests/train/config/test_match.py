"""A size that makes arms equal: found among those a structure allows, by hand and by brute force; or refused."""

import numpy as np
import pytest

from train.config import load
from train.config.match import closest, costs_in_words
from train.errors import UserError

TEXT = """
[model]
width = 16
heads = 4
[data]
task = "copy"
length = 12
"""


def asking(tmp_path, grid, question):
    file = tmp_path / "equal.toml"
    file.write_text(f"{TEXT}\n[grid.product]\n{grid}\nlr = [1e-3, 1e-2, 1e-1]\n[question]\n{question}\n")
    return load(file)


@pytest.mark.parametrize("multiple", [1, 3, 8])
@pytest.mark.parametrize(
    "cost", [lambda n: 96 * n + 1000, lambda n: 12 * n**2 + 64 * n, lambda n: 7 * (n // 4)], ids=["linear", "square",
                                                                                              "steps"]
)  # fmt: skip
def test_the_closest_size_is_that_of_brute_force(multiple, cost):
    def allowed(size):
        return cost(size) if size % multiple == 0 else None

    costs = cost(np.arange(multiple, 2**16, multiple))
    for target in (1, costs[0], 3333, costs[57] + 1, 54_321, costs[-1] / 2):
        size = closest(allowed, target)
        assert abs(cost(size) - target) == np.min(np.abs(costs - target))


def test_a_linear_cost_is_solved_in_few_steps():
    asked = set()
    closest(lambda size: asked.add(size) or 96 * size, 96 * 40_000 + 50)
    assert len(asked) < 40


def test_sizes_that_nothing_allows_are_none():
    assert closest(lambda size: None, 3) is None
    assert closest(lambda size: size if size in (1, 2, 4) else None, 100) == 4


def test_a_gated_layer_gets_two_thirds_of_the_width_at_each_depth(tmp_path):
    """Three matrices of width x inner in place of two of 16 x 64: the closest are 42 or 43, 2016 or 2064 of 2048."""
    config = asking(tmp_path, "ffn = ['mlp', 'glu']\ndepth = [1, 2]", "match = 'parameters'\nby = 'inner'")
    inner = {(cell["ffn"], cell["depth"]): cell.get("inner") for cell in config.cells}
    assert inner == {("mlp", 1): None, ("mlp", 2): None, ("glu", 1): 43, ("glu", 2): 43}
    assert config.question.compare == ("ffn",) and len(config.cells) == 12
    lines = costs_in_words(config, config.question)
    assert lines[0].startswith("mlp at depth 1: ") and "inner" not in lines[0]
    # a table of 256 x 16, in a block 4 x 16 x 16 of attention and 2 norms, after it a norm; 12 keys of 4 heads of 4
    outside, block, keys = 256 * 16, 4 * 16 * 16, 4 * 4 * 4 * 12
    plain, gated = (outside + block + 3 * 16 + ffn for ffn in (2 * 16 * 64, 3 * 16 * 43))
    work = 2 * (outside + block + 3 * 16 * 43) + keys
    assert lines[0].startswith(f"mlp at depth 1: {plain:,} parameters, ")
    assert lines[2] == (
        f"glu at depth 1: inner 43, {gated:,} parameters, {work:,} FLOPs a token, 64 bytes of cache a token; "
        f"parameters {100 * (gated / plain - 1):+.2f} %"
    )


def test_heads_are_those_that_divide_the_width(tmp_path):
    """4 heads of 4 keep 2 x 4 x 4 numbers of a token; with 2 key heads each has to be twice as wide, so heads = 2."""
    config = asking(tmp_path, "kv_heads = [4, 2]", "match = 'cache_bytes'\nby = 'heads'")
    assert [cell.get("heads") for cell in config.cells if cell["kv_heads"] == 2] == [2, 2, 2]


@pytest.mark.parametrize(
    ("grid", "question", "sentence"),
    [
        ("kv_heads = [4, 1]", "match = 'cache_bytes'\nby = 'inner'",
         "match = 'cache_bytes' finds no inner for kv_heads 1: bytes of cache a token do not change with inner"),
        ("kv_heads = [4, 1]", "match = 'parameters'\nby = 'depth'",
         "match = 'parameters' finds no depth for kv_heads 1 within 2% of kv_heads 4: depth "),
        ("ffn = ['mlp', 'glu']\ninner = [8, 16]", "match = 'flops'\nby = 'inner'\nacross = ['inner']",
         "inner is solved for by match, and cannot be asked about too"),
        ("ffn = ['mlp', 'glu']\ninner = [8]", "match = 'flops'\nby = 'inner'",
         "inner is solved for by match, and stands in the grid; take it out"),
        ("norm = ['rms', 'layer']", "match = 'parameters'\nby = 'seed'", "by='seed' is unknown; use one of inner,"),
        ("norm = ['rms', 'layer']", "match = 'flops'", "match says what is made equal and by which size"),
        ("ffn = ['mlp', 'glu']", "match = 'params'\nby = 'inner'", "match='params' is unknown"),
    ],
)  # fmt: skip
def test_what_cannot_be_made_equal(tmp_path, grid, question, sentence):
    with pytest.raises(UserError) as refused:
        asking(tmp_path, grid, question)
    assert str(refused.value).startswith(sentence) and "\n" not in str(refused.value)
