"""What a program costs, read from its text, against XLA's own count and against what was written."""

from functools import partial

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import fxformer as fx
from fxformer import sharding
from train.plan.hlo import Collective, Cost, cost_of, group_size, operation_of

WIDTH = 48


def text_of(function, *shapes, **places):
    return jax.jit(function, **places).lower(*shapes).compile()


def matrix(*sizes, place=None):
    return jax.ShapeDtypeStruct(sizes, jnp.float32, sharding=place)


def looped(steps, x, w):
    return jax.lax.scan(lambda x, _: (jnp.tanh(x @ w), None), x, None, length=steps)[0]


def test_a_program_without_loops_has_the_products_that_were_written():
    def function(x, w, v):
        return jnp.einsum("btd,df->btf", x, w), jnp.einsum("btd,dhk->bthk", x, v)

    compiled = text_of(function, matrix(2, 8, WIDTH), matrix(WIDTH, 32), matrix(WIDTH, 4, 6))
    assert cost_of(compiled.as_text()).flops == 2 * 2 * 8 * WIDTH * (32 + 24)


@pytest.mark.parametrize("steps", [1, 5, 33])
def test_a_loop_costs_as_often_as_it_runs(steps):
    """XLA's count is that of one turn."""
    compiled = text_of(partial(looped, steps), matrix(8, WIDTH), matrix(WIDTH, WIDTH))
    each = 2 * 8 * WIDTH * WIDTH
    assert cost_of(compiled.as_text()).flops == steps * each
    if steps > 1:
        assert compiled.cost_analysis()["flops"] < 2 * each + 20 * 8 * WIDTH


KERNEL = """
ENTRY %main.6_spmd (q: bf16[2,12,1024,64], k: bf16[2,4,2048,64], v: bf16[2,4,2048,32]) -> bf16[2,12,1024,64] {
  %table = s8[1,2,4]{2,1,0} parameter(0)
  %q = bf16[2,12,1024,64]{3,2,1,0:T(8,128)(2,1)} parameter(1)
  %k = bf16[2,4,2048,64]{3,2,1,0:T(8,128)(2,1)} parameter(2)
  %v = bf16[2,4,2048,32]{3,2,1,0:T(8,128)(2,1)} parameter(3)
  ROOT %NAME.1 = bf16[2,12,1024,64]{3,2,1,0} custom-call(%table, %table, %table, %q, %k, /*index=5*/%v), \
custom_call_target="tpu_custom_call", frontend_attributes={kernel_metadata={
"xprof_metadata":"{}"}}
}
"""


@pytest.mark.parametrize(
    ("name", "widths"),
    [
        ("splash_mha_fwd_residuals", 64 + 32),  # logits; outputs
        ("splash_mha_dq_no_residuals", 64 + 32 + 64),  # logits; slopes of weights; of queries
        ("splash_mha_dkv_no_residuals", 64 + 32 + 32 + 64),  # logits; slopes of weights; of values; of keys
        ("custom-call", 0),  # any other
    ],
)
def test_products_of_a_kernel_that_the_compiler_does_not_see_into_are_those_of_its_formula(name, widths):
    assert cost_of(KERNEL.replace("NAME", name)).flops == 2 * 2 * 12 * 1024 * 2048 * widths


def test_loops_within_loops_multiply_and_a_length_that_is_not_known_is_counted_once():
    def nested(x, w):
        return jax.lax.fori_loop(0, 7, lambda _, x: looped(3, x, w), x)

    compiled = text_of(nested, matrix(8, WIDTH), matrix(WIDTH, WIDTH))
    assert cost_of(compiled.as_text()).flops == 21 * 2 * 8 * WIDTH * WIDTH

    def open_ended(x, w, count):
        return jax.lax.fori_loop(0, count, lambda _, x: x @ w, x)

    cost = cost_of(text_of(open_ended, matrix(8, WIDTH), matrix(WIDTH, WIDTH), jnp.int32(3)).as_text())
    assert (cost.flops, cost.open_loops) == (2 * 8 * WIDTH * WIDTH, 1)


@pytest.mark.parametrize("name", ["pre", "glu", "moe"])
def test_a_model_has_the_products_of_the_accounting(name):
    """Looped as unrolled, every key counted; an expert layer computes all slots that it makes."""
    spec = fx.zoo.toy(width=32, depth=3, heads=2, length=16, **{} if name == "pre" else {"ffn": name})
    params = jax.eval_shape(partial(fx.init, spec), jax.random.key(0))
    tokens = jax.ShapeDtypeStruct((2, 16), jnp.int32)
    found = []
    for unroll in (1, 3):

        def said(params, tokens, unroll=unroll):
            return fx.apply(spec, params, tokens, kernel="naive", unroll=unroll).logits

        found.append(cost_of(text_of(said, params, tokens).as_text()).flops)
    assert found[0] == found[1]
    ours = 2 * 16 * fx.accounting.flops(spec, 16)
    assert ours <= found[0] <= (3.0 if name == "moe" else 1.0) * ours


def mesh_of(text):
    return sharding.mesh(text)


def collectives(function, *shapes, **places):
    return cost_of(text_of(function, *shapes, **places).as_text()).by_kind()


def test_collectives_are_found_with_what_each_device_sends():
    mesh = mesh_of("data=4,model=2")
    rows, columns = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("data",), (None, "model")))
    whole = NamedSharding(mesh, PartitionSpec())
    size = 64 * WIDTH * 4
    gathered = collectives(lambda x: x * 2, matrix(64, WIDTH, place=rows), out_shardings=whole)
    assert gathered == {"all-gather": (1, size * 3 / 4)}
    summed = collectives(lambda x: x.sum(1), matrix(64, WIDTH, place=columns), out_shardings=whole)
    assert summed == {"all-reduce": (1, 2 * 64 * 4 * 1 / 2)}


def test_a_collective_in_a_loop_happens_in_every_turn():
    mesh = mesh_of("data=4")
    cut = NamedSharding(mesh, PartitionSpec(None, "data"))
    whole = NamedSharding(mesh, PartitionSpec())

    def function(x, w):
        def turn(x, _):
            return jax.lax.with_sharding_constraint(jnp.tanh(x @ w), whole), None

        return jax.lax.scan(turn, x, None, length=6)[0]

    found = collectives(function, matrix(8, WIDTH, place=whole), matrix(WIDTH, WIDTH, place=cut), out_shardings=whole)
    assert sum(times for times, _ in found.values()) in (6, 1)  # the matrix once, or what it says in every turn
    sent = {6: 6 * 8 * WIDTH * 4 * 3 / 4, 1: WIDTH * WIDTH * 4 * 3 / 4}
    assert sum(size for _, size in found.values()) == sent[sum(times for times, _ in found.values())]


@pytest.mark.parametrize(
    ("written", "size"),
    [
        ("replica_groups=mesh['axis_0'=4,'axis_1'=2] {'axis_0'}, dimensions={1}", 4),
        ("replica_groups=mesh['a'=4,'b'=2] {'a','b'}, x", 8),
        ("replica_groups=mesh['a'=1,'b'=2,'c'=4], device_ids=([4,2]T(1,0)) {'b'}, x", 2),
        ("replica_groups=[2,4]<=[8], dimensions={0}", 4),
        ("replica_groups=[4,2]<=[2,4]T(1,0), x", 2),
        ("replica_groups={{0,1,2,3},{4,5,6,7}}, x", 4),
        ("source_target_pairs={{0,1}}", 1),
    ],
)
def test_groups_are_read_in_every_way_they_are_written(written, size):
    assert group_size(written) == size


def test_a_ring_sends_what_its_books_say():
    sent = {kind: Collective(kind, 800.0, 4).sent for kind in ("all-gather", "all-reduce", "collective-permute")}
    assert sent == {"all-gather": 600, "all-reduce": 1200, "collective-permute": 800}


def test_pieces_of_one_collective_count_once_and_others_each():
    one, other = ({key: Collective("all-gather", 100.0, 2)} for key in ("channel 1", "channel 2"))
    both = Cost(collectives=one) + Cost(collectives=one) + Cost(collectives=other)
    assert both.times(3).by_kind() == {"all-gather": (6, 300)}


TPU = """HloModule m, is_scheduled=true

%body (p: (s32[], bf16[64,32])) -> (s32[], bf16[64,32]) {
  %p = (s32[]{:T(128)}, bf16[64,32]{1,0:T(8,128)(2,1)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%p), index=0
  %x = bf16[64,32]{1,0:T(8,128)(2,1)} get-tuple-element(%p), index=1
  %w = bf16[32,32]{1,0:T(8,128)(2,1)S(1)} constant({...})
  %y = bf16[64,32]{1,0:T(8,128)(2,1)S(1)} convolution(%x, %w), dim_labels=bf_io->bf
  %z = bf16[64,32]{1,0:T(8,128)(2,1)} add(%y, %y)
  %two = s32[]{:T(128)} constant(2)
  %next = s32[]{:T(128)} add(%i, %two)
  ROOT %t = (s32[]{:T(128)}, bf16[64,32]{1,0:T(8,128)(2,1)}) tuple(%next, %z)
}

%condition (p.1: (s32[], bf16[64,32])) -> pred[] {
  %limit = s32[]{:T(128)} constant(9)
  %p.1 = (s32[]{:T(128)}, bf16[64,32]{1,0:T(8,128)(2,1)}) parameter(0)
  %i.1 = s32[]{:T(128)} get-tuple-element(%p.1), index=0
  ROOT %less = pred[]{:T(512)} compare(%i.1, %limit), direction=LT
}

ENTRY %main (a: bf16[64,32]) -> bf16[64,32] {
  %a = bf16[64,32]{1,0:T(8,128)(2,1)} parameter(0)
  %zero = s32[]{:T(128)} constant(0)
  %start = (s32[]{:T(128)}, bf16[64,32]{1,0:T(8,128)(2,1)}) tuple(%zero, %a)
  %loop = (s32[]{:T(128)}, bf16[64,32]{1,0:T(8,128)(2,1)}) while(%start), condition=%condition, body=%body
  ROOT %out = bf16[64,32]{1,0:T(8,128)(2,1)} get-tuple-element(%loop), index=1
}
"""


def test_a_tpu_counts_by_twos_and_keeps_arrays_beside_its_units():
    """Five turns of 0, 2, 4, 6, 8; each reads x from memory and writes z there, y and w are in no memory."""
    cost = cost_of(TPU)
    assert cost.flops == 5 * 2 * 64 * 32 * 32
    assert cost.bytes == pytest.approx(5 * 2 * (64 * 32 * 2), abs=5 * 12)  # beside its counter


CONVOLUTIONS = {  # as TPUs write products: in words, and what was written
    "heads slide over padding": (
        "bf16[2,512,12,64]", "bf16[2,512,768,1]", "bf16[12,64,768,1]",
        "window={size=1x12 pad=0_0x11_11 rhs_reversal=0x1}, dim_labels=0bf1_1oi0->0b1f", 2 * 2 * 512 * 12 * 64 * 768,
    ),
    "a batch is a window that is spread": (
        "f32[2,12,512,256]", "bf16[2,12,512,64]", "bf16[2,256,12,64]",
        "window={size=2x12 stride=1x11 lhs_dilate=2x12}, dim_labels=01bf_0o1i->01bf", 2 * 2 * 12 * 512 * 256 * 64,
    ),
    "a sum over two axes": (
        "bf16[2048,32,128,1]", "bf16[2048,2,256,1]", "bf16[32,128,2,256]",
        "window={size=32x2 pad=31_31x0_0 rhs_reversal=1x0}, dim_labels=b1f0_0o1i->b0f1", 2 * 2048 * 32 * 128 * 2 * 256,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_a_product_that_is_written_as_a_convolution_costs_what_the_product_does(name):
    y, x, w, rest, flops = CONVOLUTIONS[name]
    text = f"ENTRY %m (x: {x}, w: {w}) -> {y} {{\n  %x = {x}{{0}} parameter(0)\n  %w = {w}{{0}} parameter(1)\n"
    assert cost_of(f"{text}  ROOT %y = {y}{{0}} convolution(%x, %w), {rest}\n}}").flops == flops


def test_a_shape_is_read_from_a_tuple():
    operation = operation_of("  %s = (f32[3,4]{1,0}, /*index=1*/s32[]) custom-call(%a, %b), x")
    assert [shape.sizes for shape in operation.shapes] == [(3, 4), ()] and operation.operands == ("a", "b")


def test_collectives_of_one_channel_are_told_apart_by_what_made_them():
    """As those of `shard_map`, whose channel is always the first."""
    lines = [
        f"  %c.{i} = f32[64]{{0}} collective-permute(%a), channel_id=1, source_target_pairs={{{{0,1}}}}, "
        f'metadata={{op_name="{name}"}}'
        for i, name in enumerate(("ppermute", "transpose(ppermute)"))
    ]
    text = "\n".join(("ENTRY %main (a: f32[64]) -> f32[64] {", "  %a = f32[64]{0} parameter(0)", *lines, "}"))
    assert cost_of(text).by_kind() == {"collective-permute": (2, 2 * 64 * 4)}


def test_a_slice_that_a_fusion_within_a_fusion_takes_is_read_as_far_as_it_is_cut():
    """As a TPU's compiler writes a loop that takes one layer of stacked weights in each turn."""
    text = """
HloModule nested

%inner (a: f32[64,128], i: s32[]) -> f32[1,128] {
  %a = f32[64,128]{1,0} parameter(0)
  %i = s32[] parameter(1)
  %zero = s32[] constant(0)
  ROOT %cut = f32[1,128]{1,0} dynamic-slice(%a, %i, %zero), dynamic_slice_sizes={1,128}
}

%outer (b: f32[64,128], j: s32[]) -> f32[1,128] {
  %b = f32[64,128]{1,0} parameter(0)
  %j = s32[] parameter(1)
  %row = f32[1,128]{1,0} fusion(%b, %j), kind=kLoop, calls=%inner
  ROOT %negated = f32[1,128]{1,0} negate(%row)
}

ENTRY %main (x: f32[64,128], k: s32[]) -> f32[1,128] {
  %x = f32[64,128]{1,0} parameter(0)
  %k = s32[] parameter(1)
  ROOT %out = f32[1,128]{1,0} fusion(%x, %k), kind=kLoop, calls=%outer
}
"""
    assert cost_of(text).bytes == 2 * 128 * 4 + 4  # one row read, one written, and the number of the row
