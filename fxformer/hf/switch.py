"""Switch Transformers (`SwitchTransformersForConditionalGeneration`): T5 v1.0 whose every so many-th block is sparse.

An expert takes the first `expert_capacity` tokens of a row that choose it, however long the row. transformers lets
padding stand in that queue, we do not: answers agree unless padding before a token fills an expert. Where the head is
not tied, transformers 5 lets encoder and decoder have embeddings of their own; only equal ones are supported.
"""

from collections.abc import Sequence

from fxformer.hf import t5
from fxformer.hf.family import ACTIVATION_NAMES, ACTIVATIONS, Family, Settings, count
from fxformer.hf.layout import Axes
from fxformer.hf.names import Tensor, tensor
from fxformer.layers.ffn import MLP, FFNSpec, MoE
from fxformer.layers.head import Tied, Untied
from fxformer.layers.project import FanIn, Normal
from fxformer.lookup import nearest
from fxformer.model import Transformer
from fxformer.ops.dispatch import Capacity
from fxformer.ops.route import Switch
from fxformer.stack import Stack


def read(settings: Settings) -> Transformer:
    """The Spec of a Switch Transformer config."""
    gain = settings["initializer_factor"]
    dense = MLP(
        inner=settings["d_ff"],
        activation=nearest(ACTIVATIONS, settings["dense_act_fn"], "dense_act_fn"),
        dropout=settings["dropout_rate"],
        up_init=FanIn(gain),
        down_init=FanIn(gain),
    )
    sparse = MoE(
        experts=settings["num_experts"],
        expert=dense,
        router=Switch(),
        dispatch=Capacity(factor=0.0, least=settings["expert_capacity"]),
        router_bias=settings["router_bias"],
        per_row=True,
        jitter=settings["router_jitter_noise"],
        router_init=Normal(gain),
    )
    depth = count(settings, "num_decoder_layers", settings["num_layers"])

    def ffns(depth: int, step: int) -> Sequence[FFNSpec]:
        return [sparse if step == 1 or (step > 1 and i % step == 1) else dense for i in range(depth)]

    return t5.encoder_decoder(
        settings,
        ffns(settings["num_layers"], _step(settings, "encoder", settings["num_layers"])),
        ffns(depth, _step(settings, "decoder", depth)),
        t5.head_of(settings, scaled=settings["tie_word_embeddings"]),
    )


def _step(settings: Settings, side: str, depth: int) -> int:
    """The period of the sparse blocks; where there are none, transformers still makes the second block sparse."""
    step, sparse = settings[f"{side}_sparse_step"], settings[f"num_sparse_{side}_layers"]
    sparse = 3 if sparse is None else sparse
    if step is None:
        step = depth // sparse if sparse else depth
    return step


def write(spec: Transformer) -> Settings | None:
    """The config of a T5 with sparse feed-forward layers."""
    sizes, head = t5.sizes_of(spec), spec.head
    if sizes is None or spec.encoder is None:
        return None
    encoder, decoder = _sparse(spec.encoder), _sparse(spec.stack)
    ffns = [block.ffn for stack in (spec.encoder, spec.stack) for group in stack.groups for block in group.blocks]
    match next((ffn for ffn in ffns if type(ffn) is MoE), None), head:
        case MoE(expert=MLP() as expert, dispatch=Capacity(least=capacity)) as moe, Tied() | Untied():
            return {
                **sizes,
                "d_ff": expert.inner,
                "dense_act_fn": nearest(ACTIVATION_NAMES, expert.activation, "activation of transformers"),
                "num_experts": moe.experts,
                "expert_capacity": capacity,
                "router_bias": moe.router_bias,
                "router_jitter_noise": moe.jitter,
                "num_sparse_encoder_layers": sum(encoder),
                "num_sparse_decoder_layers": sum(decoder),
                "encoder_sparse_step": _period(encoder),
                "decoder_sparse_step": _period(decoder),
                "tie_word_embeddings": type(head) is Tied,
            }
    return None


def _sparse(stack: Stack) -> list[bool]:
    """Which blocks are sparse."""
    return [type(block.ffn) is MoE for group in stack.groups for block in group.blocks * group.n]


def _period(sparse: Sequence[bool]) -> int:
    """1 where the first block is sparse, else the distance of the first two sparse ones; 0 where none is."""
    places = [i for i, is_sparse in enumerate(sparse) if is_sparse]
    if not places or places[0] == 0:
        return len(places[:1])
    return places[1] - places[0] if len(places) > 1 else len(sparse)


def tensors_of(side: str, root: str) -> tuple[Tensor, ...]:
    """The lines of a stack with dense and sparse feed-forward layers."""
    ffn, ours = f"{side}.block.{{}}.layer.{2 if side == 'decoder' else 1}.mlp", f"{root}.{{}}.ffn"
    expert = f"{ffn}.experts.expert_{{expert}}"
    return (
        *t5.block_tensors(side, root),
        tensor(f"{ffn}.wi.weight", f"{ours}.up.weight", layout=Axes("d f -> f d")),
        tensor(f"{ffn}.wo.weight", f"{ours}.down.weight", layout=Axes("f d -> d f")),
        tensor(f"{ffn}.router.classifier.weight", f"{ours}.router.weight", layout=Axes("d e -> e d")),
        tensor(f"{ffn}.router.classifier.bias", f"{ours}.router.bias"),
        tensor(f"{expert}.wi.weight", f"{ours}.experts.up.weight", layout=Axes("d f -> f d")),
        tensor(f"{expert}.wo.weight", f"{ours}.experts.down.weight", layout=Axes("f d -> d f")),
    )


SWITCH = Family(
    architecture="SwitchTransformersForConditionalGeneration",
    defaults={
        **t5.DEFAULTS,
        "d_model": 768,
        "num_heads": 12,
        "num_layers": 12,
        "num_decoder_layers": 12,
        "num_sparse_encoder_layers": None,
        "num_sparse_decoder_layers": None,
        "encoder_sparse_step": None,
        "decoder_sparse_step": None,
        "num_experts": 8,
        "expert_capacity": 64,
        "router_bias": False,
        "router_jitter_noise": 0.01,
        "dense_act_fn": "relu",
    },
    synonyms=t5.SYNONYMS,
    fixed={
        "is_encoder_decoder": True,
        "is_gated_act": False,
        "num_selected_experts": 1,
        "router_dtype": "float32",
        "router_type": "tokens_masked",
        "batch_prioritized_routing": False,
    },
    inert=frozenset(
        {
            "add_router_probs",
            "feed_forward_proj",
            "n_positions",
            "router_ignore_padding_tokens",
        }
    ),
    read=read,
    write=write,
    tensors=(*t5.ENDS, *tensors_of("encoder", "encoder"), *tensors_of("decoder", "stack")),
    prefix="",
    buffers=t5.BUFFERS,
    copies=t5.COPIES,
    repeated=("encoder.embed_tokens.weight", "decoder.embed_tokens.weight"),
)
