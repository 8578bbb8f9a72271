"""Published models: their number of parameters, and config.json as it came with the weights, bookkeeping and all.

Settings that models of a family share stand once. Counts are those of the Hub's safetensors metadata or of the papers;
without what predicts further tokens (DeepSeek), and with tied tensors counted once.
"""

from typing import Any, NamedTuple


class Published(NamedTuple):
    """count: of parameters. config: the content of config.json."""

    count: int
    config: dict[str, Any]


GPT2 = {
    "activation_function": "gelu_new", "architectures": ["GPT2LMHeadModel"], "attn_pdrop": 0.1, "bos_token_id": 50256,
    "embd_pdrop": 0.1, "eos_token_id": 50256, "initializer_range": 0.02, "layer_norm_epsilon": 1e-05,
    "model_type": "gpt2", "n_ctx": 1024, "n_positions": 1024, "resid_pdrop": 0.1, "summary_activation": None,
    "summary_first_dropout": 0.1, "summary_proj_to_labels": True, "summary_type": "cls_index",
    "summary_use_proj": True, "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
    "vocab_size": 50257,
}  # fmt: skip
LLAMA = {
    "architectures": ["LlamaForCausalLM"], "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu",
    "initializer_range": 0.02, "model_type": "llama", "pretraining_tp": 1, "rope_scaling": None,
    "tie_word_embeddings": False, "torch_dtype": "float16", "transformers_version": "4.31.0.dev0", "use_cache": True,
    "vocab_size": 32000,
}  # fmt: skip
LLAMA3 = {
    **LLAMA, "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 128000, "eos_token_id": 128001,
    "mlp_bias": False, "num_key_value_heads": 8, "rms_norm_eps": 1e-05, "rope_theta": 500000.0,
    "torch_dtype": "bfloat16", "transformers_version": "4.43.0.dev0", "vocab_size": 128256,
}  # fmt: skip
LLAMA3_ROPE = {
    "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192, "rope_type": "llama3",
}  # fmt: skip
MISTRAL = {
    "architectures": ["MistralForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 1, "eos_token_id": 2,
    "hidden_act": "silu", "hidden_size": 4096, "initializer_range": 0.02, "intermediate_size": 14336,
    "max_position_embeddings": 32768, "model_type": "mistral", "num_attention_heads": 32, "num_hidden_layers": 32,
    "num_key_value_heads": 8, "rms_norm_eps": 1e-05, "rope_theta": 1000000.0, "sliding_window": None,
    "tie_word_embeddings": False, "torch_dtype": "bfloat16", "transformers_version": "4.43.0.dev0", "use_cache": True,
    "vocab_size": 32768,
}  # fmt: skip
MIXTRAL = {
    **MISTRAL, "architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "num_experts_per_tok": 2,
    "num_local_experts": 8, "output_router_logits": False, "transformers_version": "4.36.0.dev0", "vocab_size": 32000,
}  # fmt: skip
GEMMA2 = {
    "architectures": ["Gemma2ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
    "attn_logit_softcapping": 50.0, "bos_token_id": 2, "cache_implementation": "hybrid", "eos_token_id": 1,
    "final_logit_softcapping": 30.0, "hidden_act": "gelu_pytorch_tanh", "hidden_activation": "gelu_pytorch_tanh",
    "initializer_range": 0.02, "max_position_embeddings": 8192, "model_type": "gemma2", "pad_token_id": 0,
    "rms_norm_eps": 1e-06, "rope_theta": 10000.0, "sliding_window": 4096, "torch_dtype": "float32",
    "transformers_version": "4.42.4", "use_cache": True, "vocab_size": 256000,
}  # fmt: skip
OLMO2 = {
    "architectures": ["Olmo2ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0, "eos_token_id": 100257,
    "hidden_act": "silu", "initializer_range": 0.02, "max_position_embeddings": 4096, "model_type": "olmo2",
    "pad_token_id": 100277, "rms_norm_eps": 1e-06, "rope_scaling": None, "rope_theta": 500000,
    "tie_word_embeddings": False, "torch_dtype": "float32", "transformers_version": "4.47.0.dev0", "use_cache": True,
    "vocab_size": 100352,
}  # fmt: skip
QWEN3 = {
    "architectures": ["Qwen3ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 151643,
    "eos_token_id": 151645, "head_dim": 128, "hidden_act": "silu", "initializer_range": 0.02,
    "max_position_embeddings": 40960, "model_type": "qwen3", "num_key_value_heads": 8, "rms_norm_eps": 1e-06,
    "rope_scaling": None, "rope_theta": 1000000, "sliding_window": None, "torch_dtype": "bfloat16",
    "transformers_version": "4.51.0", "use_cache": True, "use_sliding_window": False, "vocab_size": 151936,
}  # fmt: skip
QWEN3_8B = {
    **QWEN3, "hidden_size": 4096, "intermediate_size": 12288, "max_window_layers": 36, "num_attention_heads": 32,
    "num_hidden_layers": 36, "tie_word_embeddings": False,
}  # fmt: skip
GPT_OSS = {
    "architectures": ["GptOssForCausalLM"], "attention_bias": True, "attention_dropout": 0.0, "eos_token_id": 200002,
    "experts_per_token": 4, "head_dim": 64, "hidden_act": "silu", "hidden_size": 2880, "initial_context_length": 4096,
    "initializer_range": 0.02, "intermediate_size": 2880, "max_position_embeddings": 131072, "model_type": "gpt_oss",
    "num_attention_heads": 64, "num_experts_per_tok": 4, "num_key_value_heads": 8, "output_router_logits": False,
    "pad_token_id": 199999, "quantization_config": {
        "modules_to_not_convert": [
            "model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head",
        ], "quant_method": "mxfp4",
    }, "rms_norm_eps": 1e-05, "rope_scaling": {
        "beta_fast": 32.0, "beta_slow": 1.0, "factor": 32.0, "original_max_position_embeddings": 4096,
        "rope_type": "yarn", "truncate": False,
    }, "rope_theta": 150000, "router_aux_loss_coef": 0.9, "sliding_window": 128, "swiglu_limit": 7.0,
    "tie_word_embeddings": False, "transformers_version": "4.55.0.dev0", "use_cache": True, "vocab_size": 201088,
}  # fmt: skip
DEEPSEEK = {
    "attention_bias": False, "attention_dropout": 0.0, "hidden_act": "silu", "initializer_range": 0.02,
    "kv_lora_rank": 512, "max_position_embeddings": 163840, "moe_layer_freq": 1, "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64, "rms_norm_eps": 1e-06, "rope_theta": 10000, "tie_word_embeddings": False,
    "torch_dtype": "bfloat16", "transformers_version": "4.33.1", "use_cache": True, "v_head_dim": 128,
}  # fmt: skip
DEEPSEEK_ROPE = {
    "beta_fast": 32, "beta_slow": 1, "factor": 40, "original_max_position_embeddings": 4096, "type": "yarn",
}  # fmt: skip
DEEPSEEK_V2 = {
    **DEEPSEEK, "architectures": ["DeepseekV2ForCausalLM"], "aux_loss_alpha": 0.001, "auto_map": {
        "AutoConfig": "configuration_deepseek.DeepseekV2Config",
        "AutoModelForCausalLM": "modeling_deepseek.DeepseekV2ForCausalLM",
    }, "bos_token_id": 100000, "eos_token_id": 100001, "first_k_dense_replace": 1, "model_type": "deepseek_v2",
    "n_shared_experts": 2, "norm_topk_prob": False, "num_experts_per_tok": 6, "pretraining_tp": 1,
    "scoring_func": "softmax", "seq_aux": True, "vocab_size": 102400,
}  # fmt: skip
DEEPSEEK_V3 = {
    **DEEPSEEK, "architectures": ["DeepseekV3ForCausalLM"], "bos_token_id": 0, "eos_token_id": 1, "ep_size": 1,
    "first_k_dense_replace": 3, "hidden_size": 7168, "intermediate_size": 18432, "model_type": "deepseek_v3",
    "moe_intermediate_size": 2048, "n_group": 8, "n_routed_experts": 256, "n_shared_experts": 1,
    "norm_topk_prob": True, "num_attention_heads": 128, "num_experts_per_tok": 8, "num_hidden_layers": 61,
    "num_key_value_heads": 128, "num_nextn_predict_layers": 1, "q_lora_rank": 1536, "quantization_config": {
        "activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8", "weight_block_size": [128, 128],
    }, "rope_scaling": {**DEEPSEEK_ROPE, "mscale": 1.0, "mscale_all_dim": 1.0}, "routed_scaling_factor": 2.5,
    "scoring_func": "sigmoid", "topk_group": 4, "topk_method": "noaux_tc", "vocab_size": 129280,
}  # fmt: skip
CHATGLM2 = {
    "add_bias_linear": False, "add_qkv_bias": True, "apply_query_key_layer_scaling": True,
    "apply_residual_connection_post_layernorm": False, "architectures": ["ChatGLMModel"], "attention_dropout": 0.0,
    "attention_softmax_in_fp32": True, "auto_map": {
        "AutoConfig": "configuration_chatglm.ChatGLMConfig",
        "AutoModel": "modeling_chatglm.ChatGLMForConditionalGeneration",
    }, "bias_dropout_fusion": True, "eos_token_id": 2, "ffn_hidden_size": 13696, "fp32_residual_connection": False,
    "hidden_dropout": 0.0, "hidden_size": 4096, "kv_channels": 128, "layernorm_epsilon": 1e-05,
    "model_type": "chatglm", "multi_query_attention": True, "multi_query_group_num": 2, "num_attention_heads": 32,
    "num_layers": 28, "original_rope": True, "padded_vocab_size": 65024, "pad_token_id": 0, "post_layer_norm": True,
    "rmsnorm": True, "seq_length": 32768, "tie_word_embeddings": False, "torch_dtype": "float16",
    "transformers_version": "4.27.1", "use_cache": True,
}  # fmt: skip
CHATGLM3 = {
    **CHATGLM2, "classifier_dropout": None, "pre_seq_len": None, "prefix_projection": False, "quantization_bit": 0,
    "seq_length": 8192, "transformers_version": "4.30.2", "vocab_size": 65024,
}  # fmt: skip
GLM4_CODE = {
    **CHATGLM2, "eos_token_id": [151329, 151336, 151338], "layernorm_epsilon": 1.5625e-07, "num_hidden_layers": 40,
    "num_layers": 40, "pad_token_id": 151329, "padded_vocab_size": 151552, "torch_dtype": "bfloat16",
    "transformers_version": "4.30.2", "vocab_size": 151552,
}  # fmt: skip
GLM4 = {
    "architectures": ["GlmForCausalLM"], "attention_bias": True, "attention_dropout": 0.0,
    "eos_token_id": [151329, 151336, 151338], "head_dim": 128, "hidden_act": "silu", "hidden_size": 4096,
    "initializer_range": 0.02, "intermediate_size": 13696, "max_position_embeddings": 8192, "model_type": "glm",
    "num_attention_heads": 32, "num_hidden_layers": 40, "num_key_value_heads": 2, "pad_token_id": 151329,
    "partial_rotary_factor": 0.5, "rms_norm_eps": 1.5625e-07, "rope_theta": 10000.0, "tie_word_embeddings": False,
    "torch_dtype": "bfloat16", "transformers_version": "4.46.0.dev0", "use_cache": True, "vocab_size": 151552,
}  # fmt: skip
BERT = {
    "architectures": ["BertForMaskedLM"], "attention_probs_dropout_prob": 0.1, "gradient_checkpointing": False,
    "hidden_act": "gelu", "hidden_dropout_prob": 0.1, "hidden_size": 768, "initializer_range": 0.02,
    "intermediate_size": 3072, "layer_norm_eps": 1e-12, "max_position_embeddings": 512, "model_type": "bert",
    "num_attention_heads": 12, "num_hidden_layers": 12, "pad_token_id": 0, "position_embedding_type": "absolute",
    "transformers_version": "4.6.0.dev0", "type_vocab_size": 2, "use_cache": True, "vocab_size": 30522,
}  # fmt: skip
MINILM = {
    **BERT, "_name_or_path": "nreimers/MiniLM-L6-H384-uncased", "architectures": ["BertModel"], "hidden_size": 384,
    "intermediate_size": 1536, "transformers_version": "4.8.2",
}  # fmt: skip
POOLER = {
    "directionality": "bidi", "pooler_fc_size": 768, "pooler_num_attention_heads": 12, "pooler_num_fc_layers": 3,
    "pooler_size_per_head": 128, "pooler_type": "first_token_transform",
}  # fmt: skip
ALBERT = {
    "architectures": ["AlbertForMaskedLM"], "attention_probs_dropout_prob": 0, "bos_token_id": 2,
    "classifier_dropout_prob": 0.1, "down_scale_factor": 1, "embedding_size": 128, "eos_token_id": 3, "gap_size": 0,
    "hidden_act": "gelu_new", "hidden_dropout_prob": 0, "initializer_range": 0.02, "inner_group_num": 1,
    "layer_norm_eps": 1e-12, "max_position_embeddings": 512, "model_type": "albert", "net_structure_type": 0,
    "num_hidden_groups": 1, "num_hidden_layers": 12, "num_memory_blocks": 0, "pad_token_id": 0, "type_vocab_size": 2,
    "vocab_size": 30000,
}  # fmt: skip
T5 = {
    "architectures": ["T5ForConditionalGeneration"], "d_kv": 64, "decoder_start_token_id": 0, "dropout_rate": 0.1,
    "eos_token_id": 1, "initializer_factor": 1.0, "is_encoder_decoder": True, "layer_norm_epsilon": 1e-06,
    "model_type": "t5", "n_positions": 512, "output_past": True, "pad_token_id": 0,
    "relative_attention_num_buckets": 32, "task_specific_params": {
        "summarization": {"early_stopping": True, "num_beams": 4, "prefix": "summarize: "},
        "translation_en_to_de": {"max_length": 300, "prefix": "translate English to German: "},
    }, "vocab_size": 32128,
}  # fmt: skip
FLAN = {
    **T5, "feed_forward_proj": "gated-gelu", "relative_attention_max_distance": 128, "tie_word_embeddings": False,
    "transformers_version": "4.23.1", "use_cache": True,
}  # fmt: skip
SWITCH = {
    "add_router_probs": False, "architectures": ["SwitchTransformersForConditionalGeneration"],
    "batch_prioritized_routing": False, "d_ff": 3072, "d_kv": 64, "d_model": 768, "decoder_sparse_step": 2,
    "decoder_start_token_id": 0, "dense_act_fn": "relu", "dropout_rate": 0.1, "encoder_sparse_step": 2,
    "eos_token_id": 1, "expert_capacity": 64, "feed_forward_proj": "relu", "initializer_factor": 1.0,
    "is_encoder_decoder": True, "is_gated_act": False, "layer_norm_epsilon": 1e-06,
    "model_type": "switch_transformers", "n_positions": 512, "num_decoder_layers": 12, "num_heads": 12,
    "num_layers": 12, "num_selected_experts": 1, "num_sparse_decoder_layers": 6, "num_sparse_encoder_layers": 6,
    "output_past": True, "pad_token_id": 0, "relative_attention_max_distance": 128,
    "relative_attention_num_buckets": 32, "router_aux_loss_coef": 0.001, "router_bias": False,
    "router_dtype": "float32", "router_ignore_padding_tokens": False, "router_jitter_noise": 0.01,
    "router_type": "tokens_masked", "router_z_loss_coef": 0.001, "use_cache": True, "vocab_size": 32128,
}  # fmt: skip


def sizes(width: int, inner: int, heads: int, depth: int, **rest: Any) -> dict[str, Any]:
    """The sizes of one model by the names that most families have for them."""
    named = {"hidden_size": width, "intermediate_size": inner, "num_attention_heads": heads, "num_hidden_layers": depth}
    return {**named, **rest}


def t5_sizes(width: int, inner: int, heads: int, depth: int, **rest: Any) -> dict[str, Any]:
    """The same by T5's names."""
    return {"d_model": width, "d_ff": inner, "num_heads": heads, "num_layers": depth, **rest}


PUBLISHED = {
    "gpt2": Published(124_439_808, {**GPT2, "n_embd": 768, "n_head": 12, "n_layer": 12}),
    "gpt2-xl": Published(1_557_611_200, {**GPT2, "n_embd": 1600, "n_head": 25, "n_layer": 48, "output_past": True}),
    "distilgpt2": Published(
        81_912_576,
        {
            **GPT2,
            **{"_num_labels": 1, "id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}},
            **{"n_embd": 768, "n_head": 12, "n_layer": 6},
        },
    ),
    "llama-7b": Published(
        6_738_415_616,
        {**LLAMA, **sizes(4096, 11008, 32, 32), "max_sequence_length": 2048, "pad_token_id": 0, "rms_norm_eps": 1e-06},
    ),
    "llama2-7b": Published(
        6_738_415_616,
        {
            **{**LLAMA, **sizes(4096, 11008, 32, 32, num_key_value_heads=32), "rms_norm_eps": 1e-05},
            **{"_name_or_path": "meta-llama/Llama-2-7b-hf", "max_position_embeddings": 4096},
        },
    ),
    "llama2-70b": Published(
        68_976_648_192,
        {
            **{**LLAMA, **sizes(8192, 28672, 64, 80, num_key_value_heads=8), "rms_norm_eps": 1e-05},
            **{"max_position_embeddings": 4096, "pad_token_id": 0},
        },
    ),
    "codellama-7b": Published(
        6_738_546_688,
        {
            **{**LLAMA, **sizes(4096, 11008, 32, 32, num_key_value_heads=32), "rms_norm_eps": 1e-05},
            **{"max_position_embeddings": 16384, "rope_theta": 1000000, "vocab_size": 32016},
        },
    ),
    "tinyllama-1.1b": Published(
        1_100_048_384,
        {
            **{**LLAMA, **sizes(2048, 5632, 32, 22, num_key_value_heads=4), "rms_norm_eps": 1e-05},
            **{"attention_bias": False, "max_position_embeddings": 2048, "rope_theta": 10000.0},
        },
    ),
    "smollm2-135m": Published(
        134_515_008,
        {
            **{**LLAMA, **sizes(576, 1536, 9, 30, num_key_value_heads=3), "bos_token_id": 0, "eos_token_id": 0},
            **{"initializer_range": 0.041666666666666664, "is_llama_config": True, "max_position_embeddings": 8192},
            **{"rms_norm_eps": 1e-05, "rope_interleaved": False, "rope_theta": 100000, "tie_word_embeddings": True},
            **{"transformers_version": "4.40.1", "vocab_size": 49152},
        },
    ),
    "llama3.1-8b": Published(
        8_030_261_248,
        {
            **{**LLAMA3, **sizes(4096, 14336, 32, 32), "max_position_embeddings": 131072},
            "rope_scaling": {**LLAMA3_ROPE, "factor": 8.0},
        },
    ),
    "llama3.1-405b": Published(
        405_853_388_800,
        {
            **{**LLAMA3, **sizes(16384, 53248, 128, 126), "max_position_embeddings": 131072},
            "rope_scaling": {**LLAMA3_ROPE, "factor": 8.0},
        },
    ),
    "llama3.2-1b": Published(
        1_235_814_400,
        {
            **{**LLAMA3, **sizes(2048, 8192, 32, 16, head_dim=64), "max_position_embeddings": 131072},
            **{"rope_scaling": {**LLAMA3_ROPE, "factor": 32.0}, "tie_word_embeddings": True},
        },
    ),
    "llama3.2-3b": Published(
        3_212_749_824,
        {
            **{**LLAMA3, **sizes(3072, 8192, 24, 28, head_dim=128), "max_position_embeddings": 131072},
            **{"rope_scaling": {**LLAMA3_ROPE, "factor": 32.0}, "tie_word_embeddings": True},
        },
    ),
    "mistral-7b": Published(
        7_241_732_096,
        {
            **{**MISTRAL, "rope_theta": 10000.0, "sliding_window": 4096, "transformers_version": "4.34.0.dev0"},
            "vocab_size": 32000,
        },
    ),
    "mistral-7b-v0.3": Published(7_248_023_552, {**MISTRAL, "transformers_version": "4.42.0.dev0"}),
    "mistral-nemo": Published(
        12_247_782_400,
        {
            **{**MISTRAL, **sizes(5120, 14336, 32, 40, head_dim=128)},
            **{"max_position_embeddings": 131072, "vocab_size": 131072},
        },
    ),
    "mixtral-8x7b": Published(46_702_792_704, {**MIXTRAL, "router_aux_loss_coef": 0.02}),
    "mixtral-8x22b": Published(
        140_620_634_112,
        {
            **{**MIXTRAL, **sizes(6144, 16384, 48, 56), "max_position_embeddings": 65536},
            **{"router_aux_loss_coef": 0.001, "transformers_version": "4.38.0"},
        },
    ),
    "gemma2-2b": Published(
        2_614_341_888,
        {**GEMMA2, **sizes(2304, 9216, 8, 26, head_dim=256, num_key_value_heads=4, query_pre_attn_scalar=256)},
    ),
    "gemma2-9b": Published(
        9_241_705_984,
        {
            **{**GEMMA2, **sizes(3584, 14336, 16, 42, head_dim=256, num_key_value_heads=8, query_pre_attn_scalar=256)},
            "sliding_window_size": 4096,
        },
    ),
    "gemma2-27b": Published(
        27_227_128_320,
        {
            **{**GEMMA2, **sizes(4608, 36864, 32, 46, head_dim=128, num_key_value_heads=16, query_pre_attn_scalar=144)},
            **{"_attn_implementation": "eager", "sliding_window_size": 4096},
        },
    ),
    "olmo2-7b": Published(7_298_617_344, {**OLMO2, **sizes(4096, 11008, 32, 32, num_key_value_heads=32)}),
    "olmo2-13b": Published(13_716_198_400, {**OLMO2, **sizes(5120, 13824, 40, 40, num_key_value_heads=40)}),
    "qwen3-0.6b": Published(
        596_049_920,
        {**QWEN3, **sizes(1024, 3072, 16, 28), "max_window_layers": 28, "tie_word_embeddings": True},
    ),
    "qwen3-8b": Published(8_190_735_360, QWEN3_8B),
    "qwen3-8b-yarn": Published(
        8_190_735_360,
        {
            **QWEN3_8B,
            "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768},
        },
    ),
    "gpt-oss-20b": Published(
        20_914_757_184,
        {
            **{**GPT_OSS, "num_hidden_layers": 24, "num_local_experts": 32},
            "layer_types": ["sliding_attention", "full_attention"] * 12,
        },
    ),
    "gpt-oss-120b": Published(
        116_829_156_672,
        {
            **{**GPT_OSS, "num_hidden_layers": 36, "num_local_experts": 128},
            "layer_types": ["sliding_attention", "full_attention"] * 18,
        },
    ),
    "deepseek-v2-lite": Published(
        15_706_484_224,
        {
            **{**DEEPSEEK_V2, **sizes(2048, 10944, 16, 27, num_key_value_heads=16), "moe_intermediate_size": 1408},
            **{"n_group": 1, "n_routed_experts": 64, "q_lora_rank": None, "routed_scaling_factor": 1.0},
            **{"rope_scaling": {**DEEPSEEK_ROPE, "mscale": 0.707, "mscale_all_dim": 0.707}, "topk_group": 1},
            "topk_method": "greedy",
        },
    ),
    "deepseek-v2": Published(
        235_741_434_880,
        {
            **{**DEEPSEEK_V2, **sizes(5120, 12288, 128, 60, num_key_value_heads=128), "moe_intermediate_size": 1536},
            **{"ep_size": 1, "n_group": 8, "n_routed_experts": 160, "q_lora_rank": 1536},
            **{"rope_scaling": {**DEEPSEEK_ROPE, "mscale": 1.0, "mscale_all_dim": 1.0}, "routed_scaling_factor": 16.0},
            **{"topk_group": 3, "topk_method": "group_limited_greedy"},
        },
    ),
    "deepseek-v3": Published(671_026_419_200, DEEPSEEK_V3),
    "deepseek-v3.2": Published(
        671_877_944_064,
        {
            **{**DEEPSEEK_V3, "architectures": ["DeepseekV32ForCausalLM"], "model_type": "deepseek_v32"},
            **{"index_head_dim": 128, "index_n_heads": 64, "index_topk": 2048, "transformers_version": "4.44.2"},
            "quantization_config": {**DEEPSEEK_V3["quantization_config"], "scale_fmt": "ue8m0"},
        },
    ),
    "chatglm-6b": Published(
        6_173_286_400,
        {
            **{"architectures": ["ChatGLMModel"], "bos_token_id": 130004, "eos_token_id": 130005},
            **{"gmask_token_id": 130001, "hidden_size": 4096, "inner_hidden_size": 16384, "layernorm_epsilon": 1e-05},
            **{"mask_token_id": 130000, "max_sequence_length": 2048, "model_type": "chatglm", "pad_token_id": 3},
            **{"num_attention_heads": 32, "num_layers": 28, "position_encoding_2d": True, "torch_dtype": "float16"},
            **{"transformers_version": "4.23.1", "use_cache": True, "vocab_size": 130528},
        },
    ),
    "chatglm2-6b": Published(6_243_584_000, CHATGLM2),
    "chatglm2-6b-32k": Published(
        6_243_584_000, {**CHATGLM2, "_name_or_path": "THUDM/chatglm2-6b-32k", "rope_ratio": 50}
    ),
    "chatglm3-6b": Published(6_243_584_000, CHATGLM3),
    "chatglm3-6b-32k": Published(6_243_584_000, {**CHATGLM3, "rope_ratio": 50, "seq_length": 32768}),
    "glm-4-9b": Published(9_399_951_360, GLM4),
    "glm-4-9b-code": Published(9_399_951_360, {**GLM4_CODE, "rope_ratio": 1, "seq_length": 8192}),
    "glm-4-9b-chat-code": Published(9_399_951_360, {**GLM4_CODE, "rope_ratio": 500, "seq_length": 131072}),
    "bert-base-mlm": Published(109_514_298, BERT),
    "bert-large-mlm": Published(335_174_458, {**BERT, **sizes(1024, 4096, 16, 24)}),
    "bert-base-chinese-mlm": Published(102_290_312, {**BERT, **POOLER, "vocab_size": 21128}),
    "bert-base-multilingual-cased-mlm": Published(177_974_523, {**BERT, **POOLER, "vocab_size": 119547}),
    "minilm-l6": Published(22_713_216, {**MINILM, "num_hidden_layers": 6}),
    "minilm-l12": Published(33_360_000, {**MINILM, "num_hidden_layers": 12}),
    "albert-base-mlm": Published(11_221_680, {**ALBERT, **sizes(768, 3072, 12, 12)}),
    "albert-xxlarge-mlm": Published(206_368_944, {**ALBERT, **sizes(4096, 16384, 64, 12)}),
    "t5-small": Published(60_506_624, {**T5, **t5_sizes(512, 2048, 8, 6)}),
    "t5-11b": Published(11_307_321_344, {**T5, **t5_sizes(1024, 65536, 128, 24), "d_kv": 128}),
    "t5-v1.1-small": Published(
        76_961_152,
        {
            **{**T5, **t5_sizes(512, 1024, 6, 8, num_decoder_layers=8), "feed_forward_proj": "gated-gelu"},
            **{"tie_word_embeddings": False, "use_cache": True},
        },
    ),
    "flan-t5-small": Published(76_961_152, {**FLAN, **t5_sizes(512, 1024, 6, 8, num_decoder_layers=8)}),
    "flan-t5-base": Published(247_577_856, {**FLAN, **t5_sizes(768, 2048, 12, 12, num_decoder_layers=12)}),
    "flan-t5-xl": Published(2_849_757_184, {**FLAN, **t5_sizes(2048, 5120, 32, 24, num_decoder_layers=24)}),
    "switch-base-8": Published(619_339_008, {**SWITCH, "num_experts": 8}),
    "switch-base-128": Published(7_415_217_408, {**SWITCH, "num_experts": 128}),
}
