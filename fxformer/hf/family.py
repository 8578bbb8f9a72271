"""What a page of this package is, and what config.json files of all families have in common."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fxformer.hf.files import Stored
from fxformer.hf.foreign import NEUTRAL, check_foreign
from fxformer.hf.kinds import KINDS, checked, shown
from fxformer.hf.kinds import Settings as Settings
from fxformer.hf.names import Tensor
from fxformer.hf.rope import unread_rope
from fxformer.model import Transformer


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One Hugging Face `model_type` in both directions.

    architecture: the class that `transformers` makes of it where config.json does not name one of `classes`.
    classes: the parts that each class adds to the bare model; none where there is one class only.
    parts: the lines of the name table that each part adds. spare: parts that a checkpoint may lack, and for each of
    them those that cannot be without it.
    parts_of: Spec -> the parts that it has, in the order in which they are preferred where several say the same.
    defaults: the settings that `read` sees, with the values `transformers` takes where config.json is silent.
    optional: those of them that may be null, as may those whose default is null; what is no null is checked by KINDS.
    synonyms: other names of them. unseen: sizes among them that no stored tensor shows.
    fixed: settings that are understood at this value only; `read` sees them too. inert: settings that change no logits,
    unread.
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
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    parts: Mapping[str, tuple[Tensor, ...]] = field(default_factory=dict)
    spare: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    parts_of: Callable[[Transformer], tuple[frozenset[str], ...]] = lambda spec: (frozenset(),)
    defaults: Settings
    optional: frozenset[str] = frozenset()
    synonyms: Mapping[str, str] = field(default_factory=dict)
    unseen: frozenset[str] = frozenset()
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


# Settings of any model that change no logits: bookkeeping, tokens of the tokenizer, generation, training, labels.
INERT = frozenset({
    "architectures", "auto_map", "model_type", "dtype", "torch_dtype", "transformers_version", "_name_or_path",
    "name_or_path", "_commit_hash", "use_cache", "return_dict", "output_hidden_states", "output_attentions",
    "torchscript", "use_bfloat16", "gradient_checkpointing", "chunk_size_feed_forward", "tokenizer_class",
    "prefix", "task_specific_params", "problem_type", "finetuning_task", "num_labels", "_num_labels",
    "id2label", "label2id", "attn_implementation", "_attn_implementation", "bos_token_id", "eos_token_id",
    "pad_token_id", "sep_token_id", "cls_token_id", "mask_token_id", "decoder_start_token_id", "max_length",
    "min_length", "max_new_tokens",
    "do_sample", "early_stopping", "num_beams", "num_beam_groups", "diversity_penalty", "temperature", "top_k",
    "top_p", "typical_p", "repetition_penalty", "length_penalty", "no_repeat_ngram_size",
    "encoder_no_repeat_ngram_size", "bad_words_ids", "num_return_sequences", "output_scores",
    "return_dict_in_generate", "forced_bos_token_id", "forced_eos_token_id", "remove_invalid_values",
    "exponential_decay_length_penalty", "suppress_tokens", "begin_suppress_tokens", "cache_implementation",
    "initializer_range", "initializer_factor", "hidden_dropout", "hidden_dropout_prob", "attention_dropout",
    "attention_probs_dropout_prob", "resid_pdrop", "embd_pdrop", "attn_pdrop", "dropout_rate", "router_jitter_noise",
    "router_aux_loss_coef", "router_z_loss_coef", "output_router_logits", "pretraining_tp", "max_window_layers",
    "output_past", "is_decoder",
    "quantization_config", "compression_config",  # which `quantization` reads
})  # fmt: skip
FIXED: Settings = {
    "is_encoder_decoder": False,
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


# What another value of a fixed setting would change.
CHANGES = {
    "router_dtype": "in another one the router rounds its logits, and tokens near a tie go to other experts",
}


def settings(family: Family, config: Settings) -> Settings:
    """Every setting that the family reads, and by config.json the `parts` of its class and their number of `labels`.

    Raises ValueError for a setting that may not be as it is, or that another model reads.
    """
    config = _named(family, config)
    fixed = {key: value for key, value in {**FIXED, **family.fixed}.items() if key not in family.inert}
    for key, value in config.items():
        if key in fixed:
            _check_fixed(key, value, fixed[key])
        elif key not in family.defaults and key not in INERT and key not in family.inert:
            check_foreign(key, value)
    read = {}
    for key, default in family.defaults.items():
        value = config.get(key, default)
        null = value is None and (default is None or key in family.optional)
        read[key] = None if null else checked(key, value, default)
    return {**family.fixed, **read, "parts": declared_parts(family, config), "labels": _labels(config)}


def declared_parts(family: Family, config: Settings) -> frozenset[str]:
    """The parts of the classes that config.json names, or of the usual one where it names none that is known."""
    named = config.get("architectures")
    names = [] if named is None else checked("architectures", named)
    known = [name for name in names if name in family.classes]
    return frozenset(part for name in known or [family.architecture] for part in family.classes.get(name, ()))


def _labels(config: Settings) -> int:
    """The number of classes that a model tells apart."""
    names, number = config.get("id2label"), config.get("num_labels")
    if names:
        return len(checked("id2label", names))
    return 2 if number is None else checked("num_labels", number)


def unread(family: Family, config: Settings, understood: Settings) -> list[str]:
    """The settings of config.json that nothing reads: each might as well not be there."""
    known = {*FIXED, *family.fixed, *family.defaults, *family.synonyms, *INERT, *family.inert, *NEUTRAL, *KINDS}
    beside = [key for key, value in config.items() if key not in known and value is not None]
    if "rope_scaling" not in family.defaults:
        return beside
    return beside + unread_rope(understood, whole=family.defaults["partial_rotary_factor"] is None)


def _check_fixed(key: str, value: Any, wanted: Any) -> None:
    """Raise ValueError for another value than `wanted`; nothing, no and none are one."""
    if value != wanted and (value or wanted):
        why = f": {CHANGES[key]}" if key in CHANGES else ""
        raise ValueError(f"config.json has {shown(key, value)}; only {wanted!r} is supported{why}")


def _named(family: Family, config: Settings) -> Settings:
    """The settings by the names that the family reads; raises ValueError where two names of one differ."""
    found = {key: value for key, value in config.items() if key not in family.synonyms}
    for other, name in family.synonyms.items():
        here, there = found.get(name), config.get(other)
        if here is not None and there is not None and here != there:
            raise ValueError(f"config.json has {shown(name, here)} and {shown(other, there)}, which are one setting")
        if there is not None:
            found[name] = there
    return found


def count(settings: Settings, name: str, otherwise: int | None = None) -> int:
    """A number that only some configs need; `otherwise` where the config leaves it open."""
    value: int | None = otherwise if settings[name] is None else settings[name]
    if value is None:
        raise ValueError(f"config.json has {name}=None, which makes no model; give a number")
    return value
