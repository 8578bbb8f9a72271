"""What a page of this package is, and what config.json files of all families have in common."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fxformer.hf.files import Stored
from fxformer.hf.names import Tensor
from fxformer.model import Transformer

Settings = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One Hugging Face `model_type` in both directions.

    architecture: the class that `transformers` makes of it.
    defaults: the settings that `read` sees, with the values `transformers` takes where config.json is silent.
    optional: those of them that may be null. fixed: settings that are understood at this value only; `read` sees them
    too. inert: settings that change no logits, unread.
    read: settings -> Spec. write: Spec -> settings; None where the structure is another one, and where it is not,
    no more than a guess: reading it back decides.
    amend: settings and the stored tensors by name -> settings, where the tensors know better.
    tensors: the name table. others: tables of other writers, read and never written. prefix: of the names, absent in
    checkpoints of the bare model.
    renamed: ends of names in old checkpoints -> today's. buffers: patterns of tensors that hold no parameter,
    {depth} in them being the number of layers.
    copies: tensors that may repeat another one, or stand for it. repeated: those that are written too.
    """

    architecture: str
    defaults: Settings
    optional: frozenset[str] = frozenset()
    fixed: Settings = field(default_factory=dict)
    inert: frozenset[str] = frozenset()
    read: Callable[[Settings], Transformer]
    write: Callable[[Transformer], Settings | None]
    amend: Callable[[Settings, Mapping[str, Stored]], Settings] = lambda settings, stored: settings
    tensors: tuple[Tensor, ...]
    others: tuple[tuple[Tensor, ...], ...] = ()
    prefix: str
    renamed: Mapping[str, str] = field(default_factory=dict)
    buffers: tuple[str, ...] = ()
    copies: Mapping[str, str] = field(default_factory=dict)
    repeated: tuple[str, ...] = ()


# Settings of any model that change no logits: bookkeeping, tokens of the tokenizer, generation, dropout, labels.
INERT = frozenset({
    "architectures", "auto_map", "model_type", "dtype", "torch_dtype", "transformers_version", "_name_or_path",
    "name_or_path", "_commit_hash", "use_cache", "return_dict", "output_hidden_states", "output_attentions",
    "torchscript", "use_bfloat16", "gradient_checkpointing", "chunk_size_feed_forward", "tokenizer_class",
    "prefix", "task_specific_params", "problem_type", "finetuning_task", "num_labels", "_num_labels",
    "id2label", "label2id", "attn_implementation", "_attn_implementation", "bos_token_id", "eos_token_id",
    "pad_token_id", "sep_token_id", "decoder_start_token_id", "max_length", "min_length", "max_new_tokens",
    "do_sample", "early_stopping", "num_beams", "num_beam_groups", "diversity_penalty", "temperature", "top_k",
    "top_p", "typical_p", "repetition_penalty", "length_penalty", "no_repeat_ngram_size",
    "encoder_no_repeat_ngram_size", "bad_words_ids", "num_return_sequences", "output_scores",
    "return_dict_in_generate", "forced_bos_token_id", "forced_eos_token_id", "remove_invalid_values",
    "exponential_decay_length_penalty", "suppress_tokens", "begin_suppress_tokens",
    "quantization_config", "compression_config",  # which `quantization` reads
})  # fmt: skip
FIXED: Settings = {
    "is_encoder_decoder": False,
    "is_decoder": False,
    "add_cross_attention": False,
    "cross_attention_hidden_size": None,
    "tie_encoder_decoder": False,
    "pruned_heads": {},
}

# Their name of an activation -> ours; where two are the same function, the first is written.
ACTIVATIONS = {
    "relu": "relu",
    "gelu": "gelu_erf",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "quick_gelu": "gelu_sigmoid",
    "silu": "silu",
    "swish": "silu",
    "relu2": "relu2",
}
ACTIVATION_NAMES = {ours: theirs for theirs, ours in reversed(ACTIVATIONS.items())}


# What may stand for a default of each type.
TYPES: dict[type, tuple[type, ...]] = {bool: (bool,), int: (int,), float: (int, float), str: (str,)}


def settings(family: Family, config: Settings) -> Settings:
    """Every setting that the family reads; raises ValueError for one that would change the model and is not read."""
    fixed = {**FIXED, **family.fixed}
    for key, value in config.items():
        if key in fixed and value != fixed[key]:
            raise ValueError(f"config.json has {key}={value!r}; only {fixed[key]!r} is supported")
        known = key in fixed or key in family.defaults or key in INERT or key in family.inert
        if not known and value is not None:
            raise ValueError(f"config.json has {key}={value!r}, which is unknown; remove it if it changes no logits")
    read = {key: config.get(key, default) for key, default in family.defaults.items()}
    for key, default in family.defaults.items():
        kind, value = type(default), read[key]
        if value is None and key in family.optional:
            continue
        if kind in TYPES and (type(value) not in TYPES[kind] or (kind is int and value < 1)):
            raise ValueError(f"config.json has {key}={value!r}, which makes no model; a usual value is {default!r}")
    return {**family.fixed, **read}


def count(settings: Settings, name: str, otherwise: int | None = None) -> int:
    """A number that only some configs need, or that may be 0; `otherwise` where the config leaves it open."""
    value = otherwise if settings[name] is None else settings[name]
    if type(value) is not int:
        raise ValueError(f"config.json has {name}={value!r}, which makes no model; give a number")
    return value
