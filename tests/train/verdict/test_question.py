"""What a grid asks, by hand: its arms and their names, the pairs that are compared, and what cannot be asked."""

import pytest

from train.config.grid import chain, product, zipped
from train.verdict.asked import in_words, objections, thin
from train.verdict.question import Arm, Question, arms_of, completed, pairs_of, question_of

RATES, SEEDS = [1e-3, 1e-2, 1e-1], [0, 1, 2]


def names(cells, question):
    return [arm.name for arm in arms_of(cells, question)]


def pairs(cells, question):
    return [(a.name, b.name) for a, b in pairs_of(cells, question)]


PLACEMENTS = product(placement=["pre", "post"], depth=[2, 4, 8], lr=RATES, seed=SEEDS)
DEEPNORM = zipped(arm=["post", "deepnorm", "pre"], placement=["post", "post", "pre"], residual_scale=[1.0, 1.68, 1.0],
                  branch_scale=[1.0, 0.42, 1.0])  # fmt: skip
BY_DEPTH = chain(
    product(arm=["pre"], placement=["pre"], residual_scale=[1.0], depth=[2, 4]),
    product(of=[zipped(arm=["deepnorm"] * 2, placement=["post"] * 2, residual_scale=[1.41, 1.68], depth=[2, 4])]),
)


@pytest.mark.parametrize(
    ("cells", "compare", "across", "tune"),
    [
        (PLACEMENTS, ("placement",), ("depth",), ("lr",)),
        (product(kv_heads=[1, 4], lr=RATES, seed=SEEDS), ("kv_heads",), (), ("lr",)),
        (product(kv_heads=[1, 4], depth=[2, 4], lr=RATES), ("kv_heads",), ("depth",), ("lr",)),
        (product(depth=[2, 4], lr=RATES), ("depth",), (), ("lr",)),
        (product(of=[zipped(width=[32, 64], heads=[2, 4])], lr=RATES), ("width",), (), ("lr",)),
        (product(of=[zipped(ffn=["mlp", "glu"], inner=[96, 64])], depth=[2, 4], lr=RATES), ("ffn",), ("depth",),
         ("lr",)),
        (product(of=[zipped(width=[32, 64], heads=[2, 4])], norm=["rms", "layer"]), ("norm",), ("width",), ()),
        (product(lr=RATES, seed=SEEDS), ("lr",), (), ()),
        (zipped(placement=["pre", "post"], lr=[1e-2, 1e-3]), ("placement",), (), ()),
        (product(of=[DEEPNORM], depth=[4, 8], lr=RATES), ("arm",), ("depth",), ("lr",)),
        (product(of=[BY_DEPTH], lr=RATES), ("arm",), ("depth",), ("lr",)),
        (product(warmup=[0, 20], placement=["pre", "post"]), ("warmup", "placement"), (), ()),
        (product(objective=["causal", "prefix"], norm=["rms", "layer"]), ("norm",), ("objective",), ()),
    ],
)  # fmt: skip
def test_what_a_grid_asks_where_it_does_not_say(cells, compare, across, tune):
    question = question_of(cells)
    assert (question.compare, question.across, question.tune) == (compare, across, tune)
    assert question.at == ("best rate" if tune else "the same rate")
    assert list(objections(question, cells)) == []
    assert pairs_of(cells, question)


def test_seeds_alone_ask_nothing():
    assert question_of(product(seed=SEEDS)) is None and question_of([{}]) is None


def test_a_search_has_too_many_arms_to_compare():
    """A question of a thousand arms has half a million pairs, and a thousand candidates between each."""
    drawn = [{"warmup": k, "clip": k / 7, "lr": 1e-3 * (k % 5)} for k in range(1000)]
    assert question_of(drawn) is None
    assert next(objections(completed({"compare": ("warmup",)}, drawn), drawn)).startswith("1000 arms are too many to ")
    tuned = [{**cell, "norm": norm} for cell in drawn for norm in ("rms", "layer")]
    assert list(objections(completed({"compare": ("norm",), "tune": ("lr", "warmup", "clip")}, tuned), tuned)) == []


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (product(placement=["pre", "post"], norm=["rms", "layer"]),
         ["pre · rms", "pre · layer", "post · rms", "post · layer"]),
        (zipped(ffn=["mlp", "glu"], inner=[96, 64]), ["mlp", "glu"]),
        (zipped(placement=["pre", "post"], ffn=["mlp", "glu"]), ["pre · mlp", "post · glu"]),
        (zipped(width=[32, 64], heads=[2, 4]), ["width 32", "width 64"]),
        (product(width=[32, 64], heads=[2, 4]),
         ["width 32 · heads 2", "width 32 · heads 4", "width 64 · heads 2", "width 64 · heads 4"]),
        (zipped(placement=["pre", "post", "post"], residual_scale=[1.0, 1.0, 1.68], branch_scale=[1.0, 1.0, 0.42]),
         ["pre", "post · residual_scale 1.0", "post · residual_scale 1.68"]),
        (product(qk_norm=["none", "rms"]), ["qk_norm none", "qk_norm rms"]),
        (product(window=[None, 8]), ["window none", "window 8"]),
    ],
)  # fmt: skip
def test_arms_have_the_shortest_name_that_tells_them_apart(cells, expected):
    assert names(cells, Question(compare=tuple(cells[0]), tune=())) == expected


def test_an_arm_has_its_cells():
    arm = arms_of(PLACEMENTS, question_of(PLACEMENTS))[1]
    assert arm == Arm("post", (("placement", "post"),))
    assert sum(arm.has(cell) for cell in PLACEMENTS) == 27


def test_pairs_are_those_that_no_third_arm_lies_between():
    four = product(placement=["pre", "post"], norm=["rms", "layer"])
    assert pairs(four, question_of(four)) == [
        ("pre · rms", "pre · layer"), ("pre · rms", "post · rms"), ("pre · layer", "post · layer"),
        ("post · rms", "post · layer"),
    ]  # fmt: skip


def test_versus_compares_each_arm_with_one_whatever_lies_between():
    """(pre, 1), (post, 1), (post, 1.68): the second has each value from one of the others."""
    cells = zipped(placement=["pre", "post", "post"], residual_scale=[1.0, 1.0, 1.68])
    names = {"compare": ("placement", "residual_scale")}
    assert ("pre", "post · residual_scale 1.68") not in pairs(cells, completed(names, cells))
    versus = completed({**names, "versus": "pre"}, cells)
    assert pairs(cells, versus) == [("post · residual_scale 1.0", "pre"), ("post · residual_scale 1.68", "pre")]


def test_arms_that_share_no_place_are_no_pair():
    """At depth 2 there are pre and post, at depth 4 post and sandwich."""
    cells = chain(product(placement=["pre", "post"], depth=[2]), product(placement=["post", "sandwich"], depth=[4]))
    assert pairs(cells, question_of(cells)) == [("pre", "post"), ("post", "sandwich")]


def test_the_question_in_words():
    assert in_words(question_of(PLACEMENTS), PLACEMENTS) == (
        "compares placement (pre, post) across depth 2, 4, 8 at each arm's best lr; measures loss; smallest difference "
        "that matters 0.02 nats; 1 pair of arms, 9 of runs at a rate"
    )
    fixed = product(norm=["rms", "layer"], lr=[0.003], seed=SEEDS)
    assert in_words(completed({"versus": "rms", "smallest": 0.1}, fixed), fixed) == (
        "compares norm (rms, layer) each with rms at lr 0.003; measures loss; smallest difference that matters "
        "0.1 nats; 1 pair of arms, 3 of runs"
    )


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"compare": ()}, "compare=[] compares nothing; name the settings whose values make the arms"),
        ({"compare": "norm"}, "compare='norm' is no list of names"),
        ({"compare": ("norm",), "across": ("norm",)}, "norm stands twice; it is compared, pooled over or tuned"),
        ({"compare": ("seed",)}, "seeds pair the runs of two arms; take seed out of the question"),
        ({"compare": ("norm",), "at": "best"}, "at='best' is unknown; did you mean 'best rate'?"),
        ({"compare": ("norm",), "measure": ("losses",)}, "measure='losses' is unknown; did you mean 'loss'?"),
        ({"compare": ("norm",), "measure": ()}, "measure=[] measures nothing"),
        ({"compare": ("norm",), "smallest": 0.0}, "smallest=0.0 is no difference; give nats, more than 0"),
        ({"compare": ("norm",), "smallest": float("nan")}, "smallest=nan is no difference"),
        ({"compare": ("norm",), "smallest": "0.02"}, "smallest='0.02' is no difference"),
        ({"compare": ("norm",), "versus": 3}, "versus=3 is no arm's name"),
        ({"compare": ("norm",), "match": "params", "by": "inner"}, "match='params' is unknown"),
        ({"compare": ("norm",), "match": "flops"}, "match says what is made equal and by which size"),
        ({"compare": ("norm",), "extend": 11}, "extend=11 is no number of rungs; use 0 to 10"),
        ({"compare": ("norm",), "extend": True}, "extend=True is no number of rungs"),
    ],
)  # fmt: skip
def test_what_no_grid_could_be_asked(fields, sentence):
    with pytest.raises(ValueError) as refused:
        Question(**fields)
    assert str(refused.value).startswith(sentence) and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("cells", "given", "sentence"),
    [
        (PLACEMENTS, {"compare": ("norm",)}, "compare names norm, which does not vary: it is None in every cell; "),
        (PLACEMENTS, {"across": ("width",)}, "across names width, which does not vary"),
        (product(norm=["rms", "layer"], lr=[3e-3]), {"at": "best rate", "tune": ("lr",)},
         'at = "best rate" needs values of lr to choose from, and there is one: it is 0.003 in every cell; sweep it, '),
        (PLACEMENTS, {"across": ()}, "depth varies and is neither compared, across nor tuned; add it to one of them"),
        (product(objective=["causal", "prefix"]), {"compare": ("objective",)},
         "losses of different objectives cannot be compared"),
        (product(norm=["rms", "layer"], lr=[3e-3]), {"measure": ("usable range",)},
         'measure "usable range" is taken over values of lr; sweep it'),
        (product(norm=["rms", "layer"], lr=RATES), {"measure": ("depth reach",)},
         'measure "depth reach" is taken over values of depth; sweep it'),
        (zipped(norm=["rms", "layer"], depth=[2, 4]), {"across": ("depth",)},
         "nothing is compared: no two of the 2 arms are given the same depth; give them the same"),
        (chain(product(norm=["rms"], seed=[0, 1]), product(norm=["layer"], seed=[2, 3])), {},
         "rms and layer have no seed in common, by which runs are paired; give both the same seeds"),
        (product(norm=["rms", "layer"], lr=RATES), {"extend": 2, "at": "each rate"},
         'extend looks for a best lr beyond the grid; tune lr and ask at = "best rate", or leave extend out'),
        (chain(product(norm=["rms"], lr=RATES), product(norm=["layer"], lr=RATES[:2])), {},
         "rms and layer have different values of lr, 3 and 2 of them, and a verdict would be withheld; give both"),
        (chain(product(norm=["rms"], depth=[2, 4], lr=RATES), product(norm=["layer"], depth=[2], lr=RATES),
               product(norm=["layer"], depth=[4], lr=[1e-3, 1e-2, 3e-2])), {},
         "rms and layer have different values of lr at depth 4, 3 and 3 of them, and a verdict would be "),
        (product(norm=["rms", "layer"], lr=RATES[:2]), {}, "of 2 rates the best one always lies on the edge"),
    ],
)  # fmt: skip
def test_what_these_cells_cannot_answer(cells, given, sentence):
    assert next(objections(completed(given, cells), cells)).startswith(sentence)


def test_an_arm_that_is_no_arm():
    with pytest.raises(ValueError, match="versus='pots' is unknown; did you mean 'post'"):
        list(objections(completed({"versus": "pots"}, PLACEMENTS), PLACEMENTS))


def test_two_rates_may_be_asked_about_where_they_extend_or_are_fixed():
    cells = product(norm=["rms", "layer"], lr=RATES[:2])
    assert not list(objections(completed({"extend": 3}, cells), cells))
    assert not list(objections(completed({"at": "each rate"}, cells), cells))


@pytest.mark.parametrize(("seeds", "said"), [(1, "1 seed is given"), (2, "2 seeds are given"), (3, ""), (5, "")])
def test_fewer_seeds_than_a_verdict_needs_are_told_and_pairs_of_one_cell_are_enough(seeds, said):
    cells = product(placement=["pre", "post"], depth=[2, 4], lr=[1e-3, 1e-2, 1e-1], seed=list(range(seeds)))
    question = question_of(cells)
    assert question is not None
    told = thin(question, cells)
    assert [each.partition(",")[0] for each in told] == [said] * bool(said)
    more = [*cells, *product(placement=["pre", "post"], depth=[2], lr=[1e-3, 1e-2, 1e-1], seed=[7, 8])]
    assert thin(question, more) == []
