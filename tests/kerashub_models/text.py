"""Backbones of KerasHub that read text, or write it."""

from tests.kerashub_models.building import backbone

TEXT = {"vocabulary_size": 50, "num_layers": 2, "hidden_dim": 32, "intermediate_dim": 64}
HEADS, LENGTH = {"num_heads": 4}, {"max_sequence_length": 16}
GROUPED = {"num_query_heads": 4, "num_key_value_heads": 2}
ENCODER = {**TEXT, **HEADS, **LENGTH}
EXPERTS = {"num_experts": 4, "top_k": 2, "moe_intermediate_dim": 16}
GEMMA = {**TEXT, **GROUPED, "head_dim": 8}
WINDOW = {"use_sliding_window_attention": True, "sliding_window_size": 4}
NORMS = {"use_post_ffw_norm": True, "use_post_attention_norm": True}
FULL_ATTENTION = ["full_attention"] * 2


def both_sides(**sizes):
    return {f"{side}_{name}": n for side in ("encoder", "decoder") for name, n in sizes.items()}


TEXT_BACKBONES = {
    **{name: backbone(name, **ENCODER) for name in ("Bert", "DistilBert", "Roberta", "XLMRoberta")},
    **{name: backbone(name, **ENCODER) for name in ("ESM2", "GPT2", "GPTNeoX", "OPT", "Bart")},
    **{name: backbone(name, **TEXT, **GROUPED) for name in ("Llama", "Llama3", "Mistral", "Phi3")},
    "Qwen2": backbone("Qwen", **TEXT, **GROUPED),
    "Qwen3": backbone("Qwen3", **GEMMA),
    "QwenMoe": backbone("QwenMoe", **TEXT, **GROUPED, **EXPERTS, shared_expert_intermediate_dim=16),
    "Qwen3Moe": backbone("Qwen3Moe", **GEMMA, **EXPERTS),
    "Mixtral": backbone("Mixtral", **TEXT, **GROUPED, num_experts=4),
    "GptOss": backbone("GptOss", **GEMMA, num_experts=4),
    "Gemma": backbone("Gemma", **GEMMA),
    "Gemma2": backbone(
        "Gemma", **GEMMA, **NORMS, **WINDOW, attention_logit_soft_cap=50, final_logit_soft_cap=30
    ),
    "Gemma3": backbone("Gemma3", **GEMMA, **NORMS, **WINDOW, image_size=16),
    "Albert": backbone(
        "Albert", **ENCODER, embedding_dim=16, num_groups=1, num_inner_repetitions=1
    ),
    "Electra": backbone(
        "Electra",
        vocab_size=50,
        num_layers=2,
        hidden_dim=32,
        embedding_dim=16,
        intermediate_dim=64,
        **HEADS,
        **LENGTH,
    ),
    "DebertaV3": backbone("DebertaV3", **ENCODER, bucket_size=8),
    "XLNet": backbone("XLNet", **TEXT, **HEADS),
    "FNet": backbone("FNet", **TEXT, **LENGTH),
    "RoformerV2": backbone("RoformerV2", **TEXT, **HEADS, head_size=8),
    "ESM1": backbone("ESM", **ENCODER, position_embedding_type="absolute"),
    "Bloom": backbone("Bloom", **TEXT, **HEADS),
    "Falcon": backbone("Falcon", **TEXT, num_attention_heads=4),
    "T5": backbone("T5", **TEXT, **HEADS),
    "SmolLM3": backbone(
        "SmolLM3",
        **TEXT,
        num_attention_heads=4,
        num_key_value_heads=2,
        attention_bias=False,
        attention_dropout=0.0,
        rope_layer_enabled_list=[True, True],
        layer_types=FULL_ATTENTION,
        mlp_bias=False,
        layer_norm_epsilon=1e-6,
        max_position_embeddings=64,
        rope_theta=1e4,
        partial_rotary_factor=1.0,
    ),
    "RWKV7": backbone(
        "RWKV7",
        hidden_size=32,
        head_size=8,
        num_layers=2,
        vocabulary_size=50,
        intermediate_dim=64,
        gate_lora=8,
        mv_lora=8,
        aaa_lora=8,
        decay_lora=8,
    ),
    "T5Gemma": backbone(
        "T5Gemma",
        vocabulary_size=50,
        cross_attention_hidden_size=32,
        **both_sides(
            hidden_dim=32,
            intermediate_dim=64,
            num_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=8,
            layer_types=FULL_ATTENTION,
        ),
    ),
    "Whisper": backbone(
        "Whisper",
        **TEXT,
        **HEADS,
        num_mels=8,
        max_encoder_sequence_length=16,
        max_decoder_sequence_length=16,
    ),
}
