"""Settings that some language model of transformers reads in a way that changes its logits, beside those in KINDS.

A family that does not know one of them refuses it by name, unless its value says that there is no such thing. The
names are those of transformers 5.24 and, where they were others, of version 4.
"""

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

from fxformer.hf.kinds import KINDS, SWITCH, shown

# name -> a value with which the setting changes nothing. null changes nothing anywhere.
NEUTRAL: Mapping[str, Any] = {
    **dict.fromkeys(
        (
            *("alibi", "apply_residual_connection_post_layernorm", "asm", "attention_k_eq_v", "attention_out_bias"),
            *("attn_temperature_tuning", "bias", "causal_mask", "conv_bias", "enable_moe_block", "gating", "is_moe"),
            *("layernorm_embedding", "learned_pos_emb", "lm_head_bias", "moe_apply_router_weight_on_input"),
            *("multi_query", "mup_enabled", "new_decoder_architecture", "norm_bias", "normalize_before"),
            *("normalize_embedding", "normalize_router_prob_before_dropping", "parallel_attn", "prefix_lm"),
            *("projectors_bias", "qk_layernorm", "qk_norm", "qkv_bias", "quant_mode", "relative_attention"),
            *("rescale_embeddings", "rope_interleaved", "rotary_value", "scale_embedding", "shared_expert_sink"),
            *("sinusoidal_embeddings", "sinusoidal_pos_embds", "token_dropout", "trigram_input", "use_alibi"),
            *("use_attention_gate", "use_bias", "use_bidirectional_attention", "use_bottleneck", "use_double_wide_mlp"),
            *("use_entity_aware_attention", "use_expert_bias", "use_lang_emb", "use_long_context", "use_mem_rope"),
            *("use_parallel_residual", "use_post_norm", "use_prompt", "use_qk_norm", "use_qkv_bias"),
            *("use_sandwich_norm", "use_shared_attention_adapter", "use_task_id"),
        ),
        False,
    ),
    **dict.fromkeys(
        (
            *("embedding_fraction", "embedding_multiplier", "key_multiplier", "lm_head_multiplier", "logit_scale"),
            *("logits_scaling", "moe_layer_interval", "moe_routed_scaling_factor", "residual_multiplier"),
            *("rotary_pct", "route_scale", "router_scaling_factor", "scale_emb", "inner_group_num", "rope_ratio"),
            *("routed_scaling_factor", "moe_layer_freq", "partial_rotary_factor", "encoder_sparse_step"),
        ),
        1,
    ),
    **dict.fromkeys(
        (
            *("first_k_dense_replace", "hidden_size_per_layer_input", "moe_latent_size", "n_shared_experts"),
            *("num_experts", "num_experts_per_tok", "num_kv_shared_layers", "num_local_experts", "num_shared_experts"),
            *("moe_router_logit_softcapping", "prompt_length", "shared_intermediate_size", "moe_num_experts"),
            *("n_routed_experts", "zero_expert_num", "no_rope_layer_interval", "num_global_tokens"),
        ),
        0,
    ),
    "position_embedding_type": "absolute",
    "pre_norm": True,
    "use_rope": True,
}

# Names, with * for any letters, of settings that change logits whatever they are.
FOREIGN = (
    *("_remove_final_layer_norm", "activation", "activation_sparsity_pattern", "adapter_*", "afn", "altup_*"),
    *("attention_chunk_size", "attention_head_*", "attention_heads", "attention_hidden_size", "attention_*multiplier"),
    *("attention_type*", "attention_value_scale", "attention_window*", "attn_config", "attn_layer*", "attn_scale"),
    *("attn_type", "audio_config", "axial_pos_*", "backbone_*", "batch_prioritized_routing", "bi_data"),
    *("block_multiple_of", "block_repeats", "block_size*", "block_types", "causal", "cca_time*", "centroid_*"),
    *("chain_hidden_post_norm", "chunk_size", "clamp_len", "clip_qkv", "compress_r*", "concat_input", "conv1d_width"),
    *("conv_kernel*", "conv_L_cache", "conv_window", "cross_layer*", "d_head", "d_inner", "d_rel", "decoder"),
    *("decoder_attention_heads", "decoder_bias", "decoder_ffn_dim", "decoder_layers", "decoder_vocab_size"),
    *("default_language", "dense_intermediate_size", "dff", "dim", "dim_*", "do_layer_norm_before", "emb_dim"),
    *("emb_layer_norm_before", "embedding_dim", "embedding_rank", "embedding_scale", "enable_bias"),
    *("enable_pronunciation", "enable_shape", "encoder", "encoder_attention_*", "encoder_ffn_dim", "encoder_layers"),
    *("entity_*_size", "eps", "expand", "expansion_ratio", "expert_ffn_hidden_size", "expert_layer_*"),
    *("expert_selection_fn", "feed_forward_size", "ff_activation", "ffn_config", "ffn_dim", "ffn_proj_factor"),
    *("ffn_round_up_to_multiple_of", "floor_scale", "full_attn_*", "gate_soft_cap", "gated_norm_rank"),
    *("gelu_activation", "global_attn_every_n_layers", "global_block_size", "H_cycles", "hc_*", "head_ratio"),
    *("heads_per_ngram", "hidden_dim", "index_*block*", "indexer_*", "input_embedding_size", "interleave_moe_*"),
    *("intermediate_groups", "intermediate_multiple_size", "intermediate_size_mlp", "intra_bottleneck_size"),
    *("is_causal", "k_groups", "kda_*", "keep_window_size", "key_query_shared_bottleneck", "L_cycles"),
    *("lambda_std_dev", "lang_id", "laurel_rank", "layer_group_size", "layer_norm_elementwise_affine"),
    *("layer_rope_theta", "layers_block_type", "linear_*", "ln_before_adapter", "local_att*"),
    *("local_layer_ids", "local_num_chunks_*", "local_radius", "log_scaling_*", "logits_mup_width_multiplier"),
    *("logits_soft_cap", "loop_*", "lru_width", "lsh_*", "mamba_*", "max_2d_position_embeddings"),
    *("max_*coder_position_embeddings", "max_relative_positions", "mem_len", "mixer_rms_eps", "mlp_*_factor"),
    *("mlp_*softcap", "mlp_hidden_act", "mlp_multipliers", "mlp_only_layers", "moe_k", "moe_layers"),
    *("moe_norm_min", "moe_num_shared_experts", "moe_shared_expert_*", "moe_topk", "mrope_section", "n_groups"),
    *("n_heads", "n_langs", "n_layers*", "n_mamba_heads", "n_*put_layers", "n_recurrent_*", "ngram*", "no_bias"),
    *("no_rope_layers", "norm_eps", "norm_epsilon", "norm_type", "normalization_type", "num_attention_heads_per_layer"),
    *("num_blocks", "num_buckets", "num_*coder_attention_heads", "num_dense_layers", "num_encoder_layers"),
    *("num_feedforward_networks", "num_groups", "num_hash*", "num_kv_heads", "num_landmarks", "num_layers_per_stack"),
    *("num_ln_in_parallel_attn", "num_mem_blocks", "num_random_blocks", "num_selected_experts", "o_groups"),
    *("o_lora_rank", "output_embedding_size", "output_gate_type", "output_groups", "output_logit_soft_cap"),
    *("output_vocab_size", "patch_size", "per_layer_config", "ple_*", "pool_q_only", "pooling*", "pos_att_type"),
    *("position_bias_*", "position_biased_input", "post_attention_groups", "prefix_dense_*", "prompt_mid_dim"),
    *("pronunciation_*", "q_groups", "qk_dim_factor", "qk_l2_clip_threshold", "rel_extent", "rel_l2_clip_threshold"),
    *("relative_max_distance", "rescale_every", "residual_in_fp32", "rms_norm_eps_moe_gate", "rope_local_base_freq"),
    *("rotary_dim", "rotary_emb_base", "router_dtype", "router_hidden_size", "router_type", "same_length"),
    *("scale_depth", "scoring_func", "second_expert_policy", "segment_means_seq_len", "segment_types"),
    *("separate_cls", "shape_*", "share_encoder_decoder_embeddings", "shared_expert*_size"),
    *("shared_expert_combination_strategy", "short_conv_kernel_size", "sliding_window_pattern", "sliding_window_size"),
    *("src_vocab_size", "ssm_*", "stagger_local_blocks", "state_size", "swa_*", "swiglu_alpha", "task_type_vocab_size"),
    *("text_config", "tgt_vocab_size", "time_step_*", "top_k_experts", "truncate_seq", "unpadded_vocab_size"),
    *("v_dim_factor", "v_groups", "vision_config", "vocab_size_per_layer_input", "window_size", "word_embed_proj_dim"),
)


def check_foreign(name: str, value: Any) -> None:
    """Raise ValueError for a setting that other models read, unless its value changes nothing there either."""
    neutral = NEUTRAL.get(name, False if KINDS.get(name) is SWITCH else None)
    read = name in NEUTRAL or name in KINDS or any(fnmatchcase(name, pattern) for pattern in FOREIGN)
    if read and value is not None and value != neutral:
        why = "which changes the logits of other models of transformers and is not read for this one"
        raise ValueError(f"config.json has {shown(name, value)}, {why}; remove it if it means nothing here")
