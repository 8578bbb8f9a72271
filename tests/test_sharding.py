"""On 8 host devices: a sharded model is the model, and each parameter lies where the plan says."""

import itertools
import re
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import Array
from jax.sharding import Mesh, PartitionSpec

import fxformer as fx
from fxformer import sharding, zoo
from fxformer.block import Block
from fxformer.layers.attention.indexer import Indexer
from fxformer.layers.ffn import MoE
from fxformer.model import Params, Transformer
from fxformer.ops.dispatch import Capacity
from fxformer.ops.rotary import Rotary
from fxformer.sharding import PRESETS
from fxformer.stack import Once
from fxformer.walk import parts
from tests.laws.specs import VARIANTS, unique
from train.plan.hlo import cost_of

MESHES = {
    **dict.fromkeys(("dp", "fsdp"), "data=8"),
    **dict.fromkeys(("tp", "fsdp_tp", "sp", "fsdp_sp"), "data=4,model=2"),
    **dict.fromkeys(("cp", "fsdp_cp"), "data=2,context=4"),
    **dict.fromkeys(("tp_cp", "fsdp_tp_cp"), "data=2,model=2,context=2"),
    **dict.fromkeys(("ep", "fsdp_ep"), "data=4"),
    **dict.fromkeys(("ep_tp", "fsdp_ep_tp"), "data=4,model=2"),
    **dict.fromkeys(("pp", "fsdp_pp"), "data=4,stage=2"),
    **dict.fromkeys(("tp_pp", "fsdp_tp_pp", "sp_pp"), "data=2,model=2,stage=2"),
    "cp_pp": "data=2,context=2,stage=2",
}
KEY = jax.random.key(3)
TOKENS = jax.random.randint(jax.random.key(4), (8, 13), 0, 256)


def doubled(spec: Transformer) -> Transformer:
    """The same model with twice the heads and the layers, so that two devices can share them."""

    def with_heads(block: Block) -> Block:
        attention = block.attention
        return replace(block, attention=replace(attention, heads=2 * attention.heads, kv_heads=2 * attention.kv_heads))

    groups = tuple(
        replace(group, n=2 * group.n, blocks=tuple(map(with_heads, group.blocks))) for group in spec.stack.groups
    )
    return replace(spec, stack=replace(spec.stack, groups=groups))


T5 = zoo.toy(width=48, depth=2, heads=4, kv_heads=2, placement="post", norm="layer", position="t5", window=5)
ALIBI = zoo.toy(width=40, depth=4, heads=2, placement="sandwich", position="alibi", ffn="glu", inner=56, head="untied")
PUBLISHED = ("gpt2", "llama2-34b")  # experts and latents have their own: tests/test_moe.py, tests/test_mla.py
SPECS = {doubled(zoo.tiny(name)): name for name in PUBLISHED} | {T5: "t5", ALIBI: "alibi"}


def with_experts(spec: Transformer, **changes) -> Transformer:
    """The same model with four experts in every block, as many as devices that they are cut over."""
    (group,) = spec.stack.groups
    blocks = tuple(replace(block, ffn=replace(block.ffn, experts=4, **changes)) for block in group.blocks)
    return replace(spec, stack=replace(spec.stack, groups=(replace(group, blocks=blocks),)))


MOE = zoo.toy(width=32, depth=1, heads=4, ffn="moe", inner=24)
CROWDED = with_experts(MOE, dispatch=Capacity(factor=0.9, least=1), per_row=True)
SPECS |= {with_experts(MOE): "dropless", CROWDED: "capacity"}
DENSE = [name for name in PRESETS if "expert" not in PRESETS[name]]
each_spec = pytest.mark.parametrize("spec", SPECS, ids=SPECS.values())
each_preset = pytest.mark.parametrize("preset", DENSE)


def even(name: str, value: object) -> Transformer:
    """A toy of one choice whose sizes two devices along each axis of a mesh can share."""
    sizes = {"width": 32, "depth": 2, "heads": 4, "inner": 40, "length": 32}
    spec = zoo.toy(**{**sizes, name: 2 if name == "kv_heads" else value})
    return with_experts(spec) if spec.stack.blocks[0].ffn.__class__ is MoE else spec


STRUCTURES = unique({f"{name}={value}": even(name, value) for name, values in VARIANTS.items() for value in values})
STRUCTURES |= {"mla=cut": zoo.toy(width=32, depth=2, heads=4, attention="mla", ffn="glu", inner=40, window=6)}
WHOLE = ("fsdp_sp", "fsdp_tp_cp", "fsdp_tp_pp")  # every cut of what is dense stands in one of these
# What stages cannot do part by part, and the sentence that says so.
TOGETHER = {
    **dict.fromkeys(("norm=batch", "qk_norm=batch"), "a norm over tokens takes those of a batch"),
    "ffn=moe": "experts share the places of a batch",
}


def test_every_preset_has_a_mesh_here():
    assert MESHES.keys() == PRESETS.keys()


@cache
def initialised(spec: Transformer) -> Params:
    """In NumPy, of which each device gets its part without a program that cuts it."""
    return jax.device_get(fx.init(spec, KEY))


def loss(spec: Transformer, params: Params, tokens: Array, kernel: str | None = None) -> Array:
    logits = fx.apply(spec, params, tokens[:, :-1], kernel=kernel).logits
    return fx.ops.cross_entropy(logits, tokens[:, 1:]).mean()


@cache
def learnt(spec: Transformer) -> tuple[Array, Params]:
    """Loss and gradients on one device."""
    return jax.jit(jax.value_and_grad(partial(loss, spec)))(initialised(spec), TOKENS)


def crosses(spec: Transformer, preset: str) -> bool:
    """Has the model what the preset cuts, and is it none that the preset refuses?"""
    return ("layer" if any(parts(spec, MoE)) else "expert") not in PRESETS[preset]


@pytest.mark.parametrize(
    ("spec", "preset"),
    [(spec, preset) for spec in SPECS for preset in PRESETS if crosses(spec, preset)],
    ids=lambda each: SPECS.get(each, each) if isinstance(each, fx.Transformer) else each,
)
def test_loss_and_gradients_are_those_of_one_device(spec, preset):
    """To 1e-5 of the largest gradient: sums over devices round in another order."""
    is_one_device(spec, preset)


@pytest.mark.parametrize("preset", WHOLE)
@pytest.mark.parametrize("name", STRUCTURES)
def test_every_structure_is_itself_however_it_is_cut(name, preset):
    if "layer" in PRESETS[preset] and name in TOGETHER:
        has_no_stages(STRUCTURES[name], TOGETHER[name])
    else:
        is_one_device(STRUCTURES[name], preset)


def has_no_stages(spec: Transformer, sentence: str, key: Array | None = None) -> None:
    """Neither as a plan nor as a run."""
    mesh, rules = sharding.mesh("stage=2"), PRESETS["pp"]
    sentence = f"{sentence}, and stages see it part by part; leave that out, or use rules without pp"
    with pytest.raises(ValueError, match=sentence):
        sharding.plan(spec, mesh, rules, drawn=key is not None)
    with sharding.use(mesh, rules), pytest.raises(ValueError, match=sentence):
        fx.apply(spec, initialised(spec), TOKENS, key=key)


@pytest.mark.parametrize("choice", ["dropout", "stochastic_depth"])
def test_what_is_drawn_for_a_batch_has_no_stages_while_it_is_drawn(choice):
    spec = even(choice, 0.5)
    has_no_stages(spec, "dropout is drawn for a batch", KEY)
    sharding.plan(spec, sharding.mesh("stage=2"), PRESETS["pp"])


def test_an_indexer_has_no_stages():
    (group,) = even("attention", "mla").stack.groups
    (block,) = group.blocks
    index = Indexer(heads=4, width=6, keep=3, rotary=Rotary(width=4))
    block = replace(block, attention=replace(block.attention, query_latent=14, index=index))
    spec = even("attention", "mla")
    spec = replace(spec, stack=replace(spec.stack, groups=(replace(group, blocks=(block,)),)))
    has_no_stages(spec, "an indexer's loss is a mean over a batch")


def test_only_layers_that_come_out_even_have_stages():
    spec, mesh, rules = zoo.toy(width=32, depth=3, heads=4), sharding.mesh("stage=2"), PRESETS["pp"]
    with pytest.raises(ValueError, match="axis layer of size 3 is not divisible by the 2 devices of mesh axis stage"):
        sharding.plan(spec, mesh, rules)
    with sharding.use(mesh, rules), pytest.raises(ValueError, match="3 layers are not divisible by 2 stages"):
        fx.apply(spec, initialised(spec), TOKENS)
    (group,) = spec.stack.groups
    for alone in (replace(group, tied=True), Once(group.blocks)):
        with pytest.raises(ValueError, match="layers, and those of the model stand alone or are tied; use rules wi"):
            sharding.plan(replace(spec, stack=replace(spec.stack, groups=(alone,))), mesh, rules)


PACKED = fx.packed(np.sort(np.random.default_rng(5).integers(-1, 3, (8, 12)), axis=1))
PIPELINED = {"t5": T5, "mla": STRUCTURES["mla=cut"]} | {
    name: STRUCTURES[name] for name in ("attention=differential", "value_residual=0.4")
}


@pytest.mark.parametrize("name", PIPELINED)
def test_stages_say_of_parts_what_one_device_says_of_the_batch(name):
    """Statistics of layers and maps of attention, of rows that are packed and padded each in its own way."""
    spec, mesh, rules = PIPELINED[name], sharding.mesh("data=2,stage=2"), PRESETS["pp"]

    def said() -> tuple:
        out = fx.apply(spec, initialised(spec), TOKENS[:, 1:], coords=PACKED)
        return out.logits, out.stats, fx.attention_maps(spec, initialised(spec), TOKENS[:, 1:], coords=PACKED)

    alone = said()
    with sharding.use(mesh, rules):
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), said(), alone)


def test_groups_of_every_kind_stand_beside_a_pipeline():
    """A block that stands alone, tied ones, and an encoder with a pipeline of its own."""
    spec = zoo.tiny("t5-small")
    (group,), (read,) = spec.stack.groups, spec.encoder.groups
    groups = (Once(group.blocks), group, replace(group, tied=True))
    spec = replace(
        spec,
        stack=replace(spec.stack, groups=groups),
        encoder=replace(spec.encoder, groups=(replace(read, n=2),)),
    )
    mesh, rules, params = sharding.mesh("data=2,stage=2"), PRESETS["fsdp_pp"], initialised(spec)
    sharding.plan(spec, mesh, rules)

    def value(params: Params) -> Array:
        read = {"encoder_tokens": TOKENS[:, :7], "encoder_coords": PACKED.slice(0, 7)}
        return fx.ops.cross_entropy(fx.apply(spec, params, TOKENS[:, :-1], **read).logits, TOKENS[:, 1:]).mean()

    expected_loss, expected = jax.jit(jax.value_and_grad(value))(params)
    with sharding.use(mesh, rules):
        loss, found = jax.jit(jax.value_and_grad(value))(params)
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-6)
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=0, atol=1e-5 * largest), found, expected)


def test_a_stage_has_its_layers_alone_and_hands_on_what_they_say():
    """Of four layers one each; a row at a time goes from stage to stage, and its gradient back."""
    spec = zoo.toy(width=32, depth=4, heads=4, inner=40, head="untied", position="rotary")
    mesh, rules = sharding.mesh("stage=4"), PRESETS["pp"]
    final_norm = 4 * 32
    assert sharding.plan(spec, mesh, rules).bytes == (4 * fx.count(spec) - final_norm) / 4 + final_norm
    found = cost_of(gradient_text(spec, mesh, rules)).collectives
    ticks, row = 8 + 4 - 1, 12 * 32 * 4
    passed = [each for each in found.values() if each.kind == "collective-permute" and each.bytes == row]
    assert [each.times for each in passed] == [ticks, ticks]


def test_a_cache_is_read_layer_by_layer():
    spec, mesh, rules = T5, sharding.mesh("stage=2"), PRESETS["pp"]
    params, empty = initialised(spec), fx.empty_cache(spec, 8, 16)
    alone = fx.apply(spec, params, TOKENS, cache=empty)
    with sharding.use(mesh, rules):
        out = fx.apply(spec, params, TOKENS, cache=empty)
    np.testing.assert_allclose(out.logits, alone.logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("preset", WHOLE)
def test_a_kernel_that_no_compiler_cuts_is_itself_however_it_is_cut(preset):
    is_one_device(zoo.toy(width=32, depth=2, heads=4, kv_heads=2, inner=40), preset, kernel="splash")


def is_one_device(spec: Transformer, preset: str, kernel: str | None = None) -> None:
    mesh, rules = sharding.mesh(MESHES[preset]), PRESETS[preset]
    params = jax.device_put(initialised(spec), sharding.param_shardings(spec, mesh, rules))
    tokens = jax.device_put(TOKENS, sharding.batch_sharding(mesh, rules))
    with sharding.use(mesh, rules):
        value, gradients = jax.jit(jax.value_and_grad(partial(loss, spec, kernel=kernel)))(params, tokens)
    expected_value, expected = jax.device_get(learnt(spec))
    np.testing.assert_allclose(value, expected_value, rtol=1e-5)
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected))
    for leaf, other in zip(jax.tree.leaves(gradients), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(leaf, other, atol=1e-5 * largest, rtol=0)


def sent(spec: Transformer, preset: str) -> dict[str, tuple[float, float]]:
    """Collectives of a gradient, by kind: how many, and bytes that each device sends."""
    return cost_of(gradient_text(spec, sharding.mesh(MESHES[preset]), PRESETS[preset])).by_kind()


def gradient_text(spec: Transformer, mesh: Mesh, rules: sharding.Rules) -> str:
    """The compiled program of a gradient."""
    shapes = jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        jax.eval_shape(partial(fx.init, spec), KEY),
        sharding.param_shardings(spec, mesh, rules),
    )
    tokens = jax.ShapeDtypeStruct(TOKENS.shape, TOKENS.dtype, sharding=sharding.batch_sharding(mesh, rules))
    with sharding.use(mesh, rules):
        return jax.jit(jax.grad(partial(loss, spec))).lower(shapes, tokens).compile().as_text()


def test_tokens_go_to_their_experts_and_back_all_to_all():
    """There and back, forward and backward, as much as lies in the slots; and the experts stay where they are."""
    found, experts = sent(CROWDED, "ep"), 4 * 3 * 32 * 24 * 4
    slots = 4 * 8 * 5 * 32 * 4  # of experts, rows, and places of each row: floor(12 tokens x 2 choices x 0.9 / 4)
    times, size = found["all-to-all"]
    assert times <= 6 and 3 * slots / 4 * 3 / 4 <= size <= 4.5 * slots / 4 * 3 / 4
    assert found.get("all-gather", (0, 0.0))[1] < experts / 4
    assert sent(CROWDED, "fsdp")["all-gather"][1] > experts / 2 and "all-to-all" not in sent(CROWDED, "tp")


def test_products_that_make_no_sense_say_why():
    for pair in sharding.NO_PRODUCTS:
        with pytest.raises(ValueError, match=f"{pair[0]} and {pair[1]} are no product: "):
            sharding.preset("_".join(pair))
    for name in PRESETS:
        parts = name.split("_")
        assert PRESETS[name] == sharding.product(*reversed(parts)) and sharding.preset(name) == PRESETS[name]
        assert not any(set(pair) <= set(parts) for pair in sharding.NO_PRODUCTS)
    with pytest.raises(ValueError, match="rules='tp_fsdp' is unknown; did you mean 'fsdp_tp'"):
        sharding.preset("tp_fsdp")
    with pytest.raises(ValueError, match="the rules cut experts, and the model has none; use rules without ep"):
        sharding.plan(T5, sharding.mesh("data=4"), PRESETS["ep"])


def test_the_page_lists_parts_and_what_is_no_product():
    page = (Path(__file__).parents[1] / "docs" / "sharding.md").read_text(encoding="utf8")
    assert all(f"| `{name}` |" in page for name in sharding.PARTS)
    assert all(f"`{one}` and `{other}`" in page for one, other in sharding.NO_PRODUCTS)


def test_every_two_parts_are_a_preset_or_no_product():
    for one, other in itertools.combinations([name for name in sharding.PARTS if name != "dp"], 2):
        together = any({one, other} <= set(name.split("_")) for name in PRESETS)
        assert together != ((one, other) in sharding.NO_PRODUCTS or (other, one) in sharding.NO_PRODUCTS), (one, other)


@pytest.mark.parametrize("spec", [T5, ALIBI], ids=SPECS.get)
@each_preset
def test_sharded_parameters_are_those_of_init_and_lie_as_planned(spec, preset):
    mesh, rules = sharding.mesh(MESHES[preset]), PRESETS[preset]
    params, plan = sharding.init_sharded(spec, KEY, mesh, rules), sharding.plan(spec, mesh, rules)
    leaves = jax.tree.leaves(params)
    for row, leaf, other in zip(plan.rows, leaves, jax.tree.leaves(initialised(spec)), strict=True):
        np.testing.assert_array_equal(leaf, other)
        pieces = [1 if cut is None else mesh.shape[cut] for cut in row.cuts]
        held = {shard.data.shape for shard in leaf.addressable_shards}
        assert held == {tuple(size // n for size, n in zip(leaf.shape, pieces, strict=True))}
    for device in mesh.devices.flat:
        shards = [shard for leaf in leaves for shard in leaf.addressable_shards if shard.device == device]
        assert plan.bytes == sum(shard.data.nbytes for shard in shards)


def test_what_each_preset_cuts():
    """One weight of each kind, by hand: axes (layer, width, head, key) and so on."""
    expected = {
        "dp": ((None, None), (None,) * 4, (None,) * 4, (None,) * 3),
        "fsdp": ((None, "data"), (None, "data", None, None), (None, None, None, "data"), (None, "data", None)),
        "tp": (("model", None), (None, None, "model", None), (None, "model", None, None), (None, None, "model")),
        "fsdp_tp": (
            ("model", "data"),
            (None, "data", "model", None),
            (None, "model", None, "data"),
            (None, "data", "model"),
        ),
    }
    for preset, cuts in expected.items():
        rows = sharding.plan(T5, sharding.mesh(MESHES[preset]), PRESETS[preset]).rows
        block = "stack.group_0.blocks.block_0"
        paths = ("embed.table", *(f"{block}.{path}.weight" for path in ("attention.key", "attention.out", "ffn.up")))
        assert tuple(row.cuts for path in paths for row in rows if row.path == path) == cuts


def test_activations_are_cut_too():
    spec, mesh = ALIBI, sharding.mesh("data=4,model=2")
    params = sharding.init_sharded(spec, KEY, mesh, PRESETS["fsdp_tp"])
    with sharding.use(mesh, PRESETS["fsdp_tp"]):
        out = fx.apply(spec, params, jnp.zeros((8, 5), jnp.int32))
    assert out.logits.addressable_shards[0].data.shape == (8 // 4, 5, 256 // 2)
    assert out.hidden.addressable_shards[0].data.shape == (8 // 4, 5, 40)


def test_without_rules_nothing_is_cut():
    spec = ALIBI
    logits = fx.apply(spec, fx.init(spec, KEY), jnp.zeros((8, 5), jnp.int32)).logits
    assert len(logits.sharding.device_set) == 1


def test_initialisation_never_holds_the_whole_model_on_one_device():
    spec, mesh, rules = zoo.toy(width=256, depth=8, heads=4), sharding.mesh("data=8"), PRESETS["fsdp"]
    shardings = sharding.param_shardings(spec, mesh, rules)
    with sharding.use(mesh, rules):
        program = jax.jit(partial(fx.init, spec), out_shardings=shardings).lower(KEY).compile()
    memory = program.memory_analysis()
    whole = 4 * fx.count(spec)
    assert memory.output_size_in_bytes == pytest.approx(whole / 8, rel=0.01)
    assert memory.peak_memory_in_bytes < whole / 2
    jax.tree.map(np.testing.assert_array_equal, program(KEY), fx.init(spec, KEY))


def test_optimizer_states_follow_their_parameters():
    spec, mesh, rules = T5, sharding.mesh("data=4,model=2"), PRESETS["fsdp_tp"]
    expected = sharding.param_shardings(spec, mesh, rules)
    optimizer = optax.chain(optax.clip(1.0), optax.adam(1e-3))
    state = jax.eval_shape(lambda: {"outer": optimizer.init(fx.init(spec, KEY))})
    adam = sharding.like_params(spec, mesh, rules, state)["outer"][1][0]
    assert adam.mu == expected
    assert adam.nu == expected
    assert adam.count.spec == PartitionSpec()


def test_a_leaf_of_another_shape_is_no_copy_of_a_parameter():
    spec, mesh, rules = T5, sharding.mesh("data=4,model=2"), PRESETS["fsdp_tp"]
    factored = {"embed": {"table": jnp.zeros(256)}}
    assert sharding.like_params(spec, mesh, rules, factored)["embed"]["table"].spec == PartitionSpec()


def test_a_plan_prints_what_it_costs():
    spec = zoo.tiny("gpt2")
    plan = sharding.plan(spec, sharding.mesh("data=8"), PRESETS["fsdp"])
    lines = [" ".join(line.split()) for line in str(plan).splitlines()]
    assert lines[0] == "parameter shape axes cut by bytes per device"
    assert "embed.table 256 x 40 vocab width - data 5,120" in lines
    assert "embed.position.table 96 x 40 - width - data 1,920" in lines
    assert lines[-1] == f"total {plan.bytes:,}"
    assert len({len(line) for line in str(plan).splitlines()}) == 1


@pytest.mark.parametrize(
    ("mesh", "preset", "sentence"),
    [
        (
            "model=4",
            "tp",
            "stack.group_0.blocks.block_0.attention.key.bias: axis kv_head of size 5 is not divisible by the 4 devices "
            "of mesh axis model; change the size, to 4 or 8, the mesh, or use rules that do not cut kv_head",
        ),
        ("data=3", "fsdp", "axis width of size 40 is not divisible by the 3 devices of mesh axis data"),
        ("data=8", "tp", "over mesh axis model, which the mesh lacks; add model=1"),
        ("data=2,model=4", "dp", "nothing over mesh axis model, whose 4 devices would all do the same work"),
    ],
)
def test_a_plan_refuses_silent_replication(mesh, preset, sentence):
    with pytest.raises(ValueError, match=sentence):
        sharding.plan(zoo.tiny("gpt2"), sharding.mesh(mesh), PRESETS[preset])


def test_every_axis_that_does_not_divide_is_named_at_once_with_sizes_that_do():
    spec = zoo.toy(width=48, depth=1, heads=6, kv_heads=3, inner=90, vocab=257, ffn="mlp")
    with pytest.raises(ValueError) as refused:
        sharding.plan(spec, sharding.mesh("model=4"), PRESETS["tp"])
    found = re.findall(r"axis (\w+) of size (\d+) is not divisible.*?, to ([\d or]+),", str(refused.value))
    assert sorted(found) == [("ffn", "90", "88 or 92"), ("head", "6", "4 or 8"), ("kv_head", "3", "4"),
                             ("vocab", "257", "256 or 260")]  # fmt: skip


def test_a_batch_that_the_mesh_does_not_divide_is_refused():
    mesh = sharding.mesh("data=4,model=2")
    sharding.check_batch(8, mesh, PRESETS["tp"])
    sharding.check_batch(7, sharding.mesh("model=2"), PRESETS["tp"])
    with pytest.raises(ValueError, match="batch=6 is not divisible by the 4 devices of mesh axis data; use a multiple"):
        sharding.check_batch(6, mesh, PRESETS["tp"])
    rows = sharding.mesh("data=2,context=4")
    sharding.check_batch(6, rows, PRESETS["cp"], length=12)
    with pytest.raises(ValueError, match="length=13 is not divisible by the 4 devices of mesh axis context; use a"):
        sharding.check_batch(6, rows, PRESETS["cp"], length=13)


def test_a_mesh_is_written_as_sizes_by_name():
    mesh = sharding.mesh("data=2, model=4")
    assert (mesh.axis_names, mesh.devices.shape) == (("data", "model"), (2, 4))
    assert sharding.mesh_size("model=3") == 3
    assert sharding.mesh_size("") == 1


def test_rules_for_an_axis_that_no_array_has_are_refused():
    mesh = sharding.mesh("data=2")
    for made in (sharding.plan, sharding.param_shardings, partial(sharding.init_sharded, key=jax.random.key(0))):
        with pytest.raises(ValueError, match="logical axis='widht' is unknown; did you mean 'width'"):
            made(spec=zoo.toy(), mesh=mesh, rules={"widht": "data"})
    with pytest.raises(ValueError, match="rules='dp' are no mapping from logical axes to mesh axes"):
        sharding.plan(zoo.toy(), mesh, "dp")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("data=4,model=4", "takes 16 devices, there are 8"),
        ("date=4", "axis='date' is unknown; did you mean 'data'"),
        ("pipe=4", "axis='pipe' is unknown; use one of data, model"),
        ("data=2,data=4", "is not like data=2,model=4: give data once"),
        ("data", "is not like data=2,model=4: give data once, with a number of devices"),
        ("data=0", "with a number of devices"),
        ("data=-2", "with a number of devices"),
    ],
)
def test_a_mesh_that_is_none_is_one_sentence(text, sentence):
    with pytest.raises(ValueError, match=sentence) as error:
        sharding.mesh(text)
    assert "\n" not in str(error.value)
