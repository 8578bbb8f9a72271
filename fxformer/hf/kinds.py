"""What each setting of config.json may be: one table of types and ranges, whichever family reads it.

Sizes are bounded by 32 bits, and those that tensors show by the tensors that are stored (`check_room`), before anything
is built of them.
"""

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fxformer.hf.files import Stored

Settings = Mapping[str, Any]

LARGEST = 2**31 - 1  # of a size: arrays are indexed by 32 bits
DEEPEST = 2**10  # layers: DeepNet, the deepest published model, has a thousand
FINITE = 2.0**127  # of a number that float32 holds, with room for a product by less than 2


@dataclass(frozen=True, slots=True)
class Kind:
    """What a setting may be.

    words: that, in a sentence. make: its value from JSON, None where it may not be that.
    room: what it cannot exceed in a checkpoint, TENSORS or LONGEST; None where no tensor shows it.
    """

    words: str
    make: Callable[[Any], Any]
    room: str | None = None


TENSORS, LONGEST = "tensors", "elements along its longest axis"


def whole(least: int, most: int = LARGEST, room: str | None = None) -> Kind:
    """A whole number in this range."""

    def make(value: Any) -> Any:
        return value if type(value) is int and least <= value <= most else None

    return Kind(f"a whole number from {least} to {most}", make, room)


def real(words: str, within: Callable[[float], bool]) -> Kind:
    """A finite number of which `within` is true; a whole one is as good. NaN is within nothing."""

    def make(value: Any) -> Any:
        number = type(value) in (int, float) and -FINITE <= value <= FINITE
        return float(value) if number and within(value) else None

    return Kind(words, make)


def listed(words: str, within: Callable[[Any], bool]) -> Kind:
    """A list of which all elements are `within`."""
    return Kind(words, lambda value: value if type(value) is list and all(map(within, value)) else None)


def _is_name(value: Any) -> bool:
    return type(value) is str and value != ""


SIZE = whole(1, room=LONGEST)  # an axis of some tensor
LAYERS = whole(1, DEEPEST, room=TENSORS)
POSITIVE = whole(1)  # a number that no tensor shows
COUNT = whole(0)
ABOVE_0 = real("a finite number above 0", lambda value: value > 0)
FROM_0 = real("a finite number from 0 on", lambda value: value >= 0)
ANY = real("a finite number", lambda value: True)
SHARE = real("a number from 0 to less than 1", lambda value: 0 <= value < 1)
PART = real("a number above 0, at most 1", lambda value: 0 < value <= 1)
SWITCH = Kind("true or false", lambda value: value if type(value) is bool else None)
NAME = Kind("a name", lambda value: value if _is_name(value) else None)
TEXT = Kind("a text", lambda value: value if type(value) is str else None)
NAMES = listed("a list of names", _is_name)
OBJECT = Kind("an object", lambda value: value if isinstance(value, Mapping) else None)

KINDS: Mapping[str, Kind] = {
    **dict.fromkeys(
        (
            *("vocab_size", "padded_vocab_size", "type_vocab_size", "n_positions", "num_labels"),
            *("hidden_size", "n_embd", "d_model", "embedding_size", "intermediate_size", "moe_intermediate_size"),
            *("n_inner", "d_ff", "inner_hidden_size", "ffn_hidden_size", "head_dim", "d_kv", "kv_channels"),
            *("num_attention_heads", "n_head", "num_heads", "num_key_value_heads", "multi_query_group_num"),
            *("num_local_experts", "num_experts", "n_routed_experts", "n_shared_experts"),
            *("q_lora_rank", "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"),
            *("index_n_heads", "index_head_dim", "relative_attention_num_buckets"),
        ),
        SIZE,
    ),
    **dict.fromkeys(
        (
            *("num_hidden_layers", "n_layer", "num_layers", "num_decoder_layers"),
            *("num_hidden_groups", "inner_group_num"),
        ),
        LAYERS,
    ),
    **dict.fromkeys(
        (
            *("max_position_embeddings", "original_max_position_embeddings", "sliding_window"),
            *("num_experts_per_tok", "n_group", "topk_group", "expert_capacity", "index_topk"),
            *("relative_attention_max_distance", "query_pre_attn_scalar"),
        ),
        POSITIVE,
    ),
    **dict.fromkeys(
        (
            *("first_k_dense_replace", "max_window_layers", "num_sparse_encoder_layers", "num_sparse_decoder_layers"),
            *("encoder_sparse_step", "decoder_sparse_step"),
        ),
        COUNT,
    ),
    **dict.fromkeys(
        (
            *("rope_theta", "rope_ratio", "factor", "low_freq_factor", "high_freq_factor", "beta_fast", "beta_slow"),
            *("attention_factor", "attn_logit_softcapping", "final_logit_softcapping", "swiglu_limit"),
            "routed_scaling_factor",
        ),
        ABOVE_0,
    ),
    **dict.fromkeys(
        (
            *("layer_norm_eps", "layer_norm_epsilon", "layernorm_epsilon", "rms_norm_eps"),
            *("initializer_range", "initializer_factor"),
        ),
        FROM_0,
    ),
    **dict.fromkeys(("mscale", "mscale_all_dim"), ANY),  # of any size; 0 is as if they were not there
    **dict.fromkeys(
        (
            *("hidden_dropout", "hidden_dropout_prob", "attention_dropout", "attention_probs_dropout_prob"),
            *("resid_pdrop", "embd_pdrop", "dropout_rate", "router_jitter_noise"),
        ),
        SHARE,
    ),
    "partial_rotary_factor": PART,
    **dict.fromkeys(
        (
            *("tie_word_embeddings", "attention_bias", "mlp_bias", "add_bias_linear", "add_qkv_bias", "router_bias"),
            *("scale_attn_weights", "scale_attn_by_inverse_layer_idx", "scale_decoder_outputs", "is_gated_act"),
            *("use_sliding_window", "norm_topk_prob", "rope_interleave", "truncate", "is_decoder"),
        ),
        SWITCH,
    ),
    **dict.fromkeys(
        (
            *("hidden_act", "hidden_activation", "activation_function", "dense_act_fn", "feed_forward_proj"),
            *("topk_method", "rope_type", "type"),
        ),
        NAME,
    ),
    "_name_or_path": TEXT,
    **dict.fromkeys(("layer_types", "mlp_layer_types", "architectures"), NAMES),
    **dict.fromkeys(("id2label", "rope_scaling", "rope_parameters"), OBJECT),
}


def checked(name: str, value: Any, usual: Any = None) -> Any:
    """The value of a setting that is not null; raises ValueError for one that it may not be."""
    made = KINDS[name].make(value)
    if made is None:
        hint = "" if usual is None else f", such as {usual!r}"
        raise ValueError(f"config.json has {shown(name, value)}, which makes no model; give {KINDS[name].words}{hint}")
    return made


def check_room(settings: Settings, files: Sequence[Stored], unseen: Container[str]) -> None:
    """Raise ValueError for a size that the stored tensors have no room for; `unseen` are those that they do not show.

    It is asked before anything is built, so that a slip of the pen takes neither time nor memory.
    """
    longest = max((size for tensor in files for size in tensor.shape), default=0)
    held = {TENSORS: len(files), LONGEST: longest}
    for name, value in settings.items():
        room = KINDS[name].room if name in KINDS and name not in unseen else None
        if room is not None and value is not None and value > held[room]:
            raise ValueError(
                f"config.json has {shown(name, value)}, but the checkpoint has {held[room]} {room}; "
                "the two do not belong together"
            )


def shown(name: str, value: Any) -> str:
    """name=value, cut where it is long."""
    text = repr(value)
    return f"{name}={text if len(text) <= 200 else text[:200] + '…'}"
