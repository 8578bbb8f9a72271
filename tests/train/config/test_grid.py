"""The sweep algebra against nested loops and worked examples, in Python and as read from TOML."""

import hashlib
import tomllib

import pytest

from train.config.grid import cell_key, chain, parse, product, zipped


def toml(text: str) -> list[dict]:
    return parse(tomllib.loads(text)["grid"])


def test_a_product_is_the_nested_loop_with_the_last_axis_fastest():
    loop = [{"placement": p, "lr": r, "seed": s} for p in ("pre", "post") for r in (0.1, 0.3, 1.0) for s in range(5)]
    assert product(placement=["pre", "post"], lr=[0.1, 0.3, 1.0], seed=range(5)) == loop


def test_a_product_of_nothing_is_one_cell_of_defaults():
    assert product() == [{}]


def test_grids_multiply_like_axes():
    sizes = zipped(width=[32, 64, 96], heads=[2, 4, 6])
    expected = [{"width": w, "heads": w // 16, "seed": s} for w in (32, 64, 96) for s in (0, 1)]
    assert product(of=[sizes], seed=[0, 1]) == expected


def test_zip_pairs_values_in_order():
    assert zipped(width=[32, 64], heads=[4, 2]) == [{"width": 32, "heads": 4}, {"width": 64, "heads": 2}]


def test_zip_refuses_unequal_lengths_with_both_numbers():
    with pytest.raises(ValueError, match=r"width of 2, heads of 3"):
        zipped(width=[32, 64], heads=[1, 2, 4])


def test_a_chain_is_one_grid_after_the_other():
    assert chain(product(a=[1, 2]), product(b=[3])) == [{"a": 1}, {"a": 2}, {"b": 3}]


@pytest.mark.parametrize("values", [[], "pre", 3, None, {"a": 1}])
def test_an_axis_is_a_list_of_values_and_nothing_else(values):
    for make in (product, zipped):
        with pytest.raises(ValueError, match="placement takes a list of values"):
            make(placement=values)


def test_a_setting_stands_in_one_factor_of_a_product():
    with pytest.raises(ValueError, match="lr stands twice"):
        product(of=[product(lr=[1, 2])], lr=[3])


def test_toml_of_the_docstring_means_what_it_says():
    """The first form is 2 placements x 3 seeds x 2 sizes; the second 4 cells and then one more."""
    nested = toml("""
        [grid.product]
        placement = ["pre", "post"]
        seed = [0, 1, 2]
        of = [{ zip = { width = [32, 64], heads = [2, 4] } }]
    """)
    expected = [
        {"placement": p, "seed": s, "width": w, "heads": w // 16}
        for w in (32, 64)
        for p in ("pre", "post")
        for s in range(3)
    ]
    assert nested == expected
    chained = toml("""
        [[grid.chain]]
        product = { placement = ["pre", "post"], depth = [2, 4] }
        [[grid.chain]]
        zip = { placement = ["post"], residual_scale = [1.68], depth = [4] }
    """)
    assert chained[:4] == [{"placement": p, "depth": d} for p in ("pre", "post") for d in (2, 4)]
    assert chained[4:] == [{"placement": "post", "residual_scale": 1.68, "depth": 4}]


def test_chains_nest_in_products_and_products_in_chains():
    cells = toml("""
        [grid.product]
        seed = [7, 8]
        of = [
          { chain = [{ product = { norm = ["rms"] } }, { product = { norm = ["layer"], eps = [1e-5, 1e-3] } }] },
          { zip = { depth = [2, 16], lr = [0.1, 0.01] } },
        ]
    """)
    norms = [{"norm": "rms"}, {"norm": "layer", "eps": 1e-5}, {"norm": "layer", "eps": 1e-3}]
    sizes = [{"depth": 2, "lr": 0.1}, {"depth": 16, "lr": 0.01}]
    assert cells == [{**norm, **size, "seed": seed} for norm in norms for size in sizes for seed in (7, 8)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[grid.prodcut]\nlr = [1]", "did you mean 'product'?"),
        ("[grid]\nlr = [1, 2]", "one of product, zip, chain, sample"),
        ("grid = 3", "one of product, zip, chain, sample"),
        ("[grid.product]\nlr = [1]\n[grid.zip]\nwidth = [2]", "one of product, zip, chain, sample"),
        ("[grid]\nchain = []", "chain takes a list of grids"),
        ("[grid.product]", "product takes settings"),
        ("[grid]\nzip = [1, 2]", "zip takes settings"),
        ("[grid.product]\nlr = 3", "lr takes a list of values, not 3"),
        ("[grid.zip]\nwidth = [1, 2]\nheads = [1]", "width of 2, heads of 1"),
        ("[grid.product]\nlr = [1]\nof = [{ product = { lr = [2] } }]", "lr stands twice"),
    ],
)
def test_a_malformed_grid_is_refused_in_one_sentence(text, message):
    with pytest.raises(ValueError, match=message) as refusal:
        toml(text)
    assert "\n" not in str(refusal.value)


def test_the_key_is_the_hash_of_canonical_json():
    """Keys name results on disk: a change of this number would run every finished sweep again."""
    content = {"lr": 0.01, "placement": "pre", "seed": 0}
    assert cell_key(content) == hashlib.sha256(b'{"lr": 0.01, "placement": "pre", "seed": 0}').hexdigest()[:12]


def test_the_key_ignores_order_and_sees_every_value():
    content = {"lr": 0.01, "seed": 0, "placement": "pre"}
    assert cell_key(dict(reversed(content.items()))) == cell_key(content)
    changed = [{**content, "lr": 0.02}, {**content, "seed": 1}, {**content, "placement": "post"}, {**content, "x": 1}]
    assert len({cell_key(each) for each in [content, *changed]}) == 5


RULES = """
    [grid.product]
    optimizer = ["adamw", "sgd"]
    norm = ["rms", "none"]
    [[grid.product.when]]
    optimizer = ["adamw"]
    give = { beta2 = [0.95, 0.99] }
    [[grid.product.when]]
    norm = ["none"]
    keep = { optimizer = ["adamw"], beta2 = [0.99] }
"""


def test_rules_give_settings_to_some_cells_and_leave_out_others():
    assert toml(RULES) == [
        {"optimizer": "adamw", "norm": "rms", "beta2": 0.95},
        {"optimizer": "adamw", "norm": "rms", "beta2": 0.99},
        {"optimizer": "adamw", "norm": "none", "beta2": 0.99},
        {"optimizer": "sgd", "norm": "rms"},
    ]


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("optimizer = ['lion']\ngive = { beta2 = [0.9] }", r"when optimizer = \['lion'\] concerns no cell of its grid"),
        ("optimizer = ['sgd']", "when takes settings with lists of values and one of give and keep"),
        ("give = { beta2 = [0.9] }", "when takes settings with lists of values and one of give and keep"),
        ("norm = ['rms']\ngive = { lr = [1.0] }\nkeep = { lr = [1.0] }", "one of give and keep"),
        ("optimizer = ['sgd']\ngive = { norm = ['rms'] }", "norm stands twice in one product"),
        ("optimizer = 'sgd'\ngive = { beta2 = [0.9] }", "optimizer takes a list of values, not 'sgd'"),
        ("optimizer = ['sgd']\ngive = { beta2 = 0.9 }", "beta2 takes a list of values, not 0.9"),
        ("optimizer = ['sgd']\ngive = 3", "give takes settings with lists of values, not 3"),
        ("optimizer = ['sgd', 'adamw']\nkeep = { norm = ['layer'] }", "keeps no cell; keep values that some have"),
    ],
)
def test_rules_that_are_none(rule, message):
    with pytest.raises(ValueError, match=message) as refusal:
        toml(f"[grid.product]\noptimizer = ['adamw', 'sgd']\nnorm = ['rms', 'none']\n[[grid.product.when]]\n{rule}")
    assert "\n" not in str(refusal.value)
