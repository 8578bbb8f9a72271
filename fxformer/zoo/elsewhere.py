"""What arguments of the toy factory are called elsewhere: Hugging Face, nanoGPT, Megatron, PyTorch, papers.

They are no second names: who types one is told the first.
"""

ELSEWHERE = {
    "width": "d_model hidden_size n_embd dim model_dim embed_dim embedding_dim emb_dim hidden_dim hidden",
    "depth": "n_layer n_layers num_layers num_hidden_layers layers n_blocks num_blocks nlayers",
    "heads": "n_head n_heads num_heads num_attention_heads nhead nheads attn_heads attention_heads",
    "kv_heads": "n_kv_head n_kv_heads num_kv_heads num_key_value_heads num_query_groups kv_groups",
    "norm": "norm_type layernorm rmsnorm layer_norm rms_norm normalization norm_kind",
    "placement": "norm_first pre_norm post_norm prenorm postnorm norm_placement norm_position deepnorm",
    "position": "pos_emb position_embedding position_embedding_type pos_encoding positional_encoding position_encoding "
    "rope rotary use_rope rotary_pos_emb alibi",
    "attention": "attn attn_type attention_type attn_implementation mla",
    "mask": "causal is_causal attn_mask attention_mask",
    "ffn": "mlp feed_forward feedforward ff mlp_type swiglu moe glu",
    "activation": "act act_fn hidden_act activation_function activation_fn nonlinearity hidden_activation",
    "inner": "d_ff dff ff_dim ffn_dim intermediate_size dim_feedforward mlp_dim ffn_hidden_size n_inner d_inner "
    "hidden_dim",
    "qk_norm": "qk_layernorm qk_layer_norm use_qk_norm query_key_norm",
    "softcap": "attn_logit_softcapping logit_softcap logit_cap softcapping attn_softcap",
    "gate": "gated_attention attn_gate attention_gate output_gate gated_attn headwise_attn_output_gate",
    "talking_heads": "talking pre_talking_heads post_talking_heads attn_talking_heads talking_head",
    "value_residual": "resformer add_value_residual value_residual_learning v_residual",
    "window": "sliding_window window_size attention_window local_window",
    "memory_tokens": "num_memory_tokens n_memory_tokens num_mem_tokens num_register_tokens registers n_registers "
    "meta_tokens num_meta_tokens",
    "head": "lm_head tie_embeddings tie_word_embeddings tied_embeddings tie_weights weight_tying untied",
    "layer_scale": "layerscale init_values layer_scale_init_value ls_init_value",
    "dropout": "p_dropout dropout_rate resid_pdrop hidden_dropout_prob attn_dropout resid_dropout embd_pdrop drop",
    "stochastic_depth": "drop_path drop_path_rate layer_dropout layerdrop path_dropout droppath",
    "vocab": "vocab_size n_vocab num_tokens vocabulary n_tokens",
    "length": "block_size seq_len seq_length sequence_length max_seq_len max_length context_length context ctx n_ctx "
    "n_positions max_position_embeddings context_size",
    "residual_scale": "alpha deepnorm_alpha skip_scale",
    "branch_scale": "beta deepnorm_beta",
    "init_scale": "initializer_range init_std initializer_factor",
}
