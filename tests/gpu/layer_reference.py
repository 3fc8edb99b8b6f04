#!/usr/bin/env python3
"""One layer of each kind at the real shapes with random weights: checkpoints and what transformers makes of them.

    python3 layer_reference.py FOLDER [CASE...]

makes FOLDER/{minimax,mimo-dense,mimo-full,mimo-sliding}/{config.json,model.safetensors,golden.safetensors}; then
gpu_check checkpoint FOLDER/CASE. Needs torch and transformers (5.17); uses a GPU if there is one. 16 of the 256 experts,
a vocabulary of 2,000: all that is cut. The reference is float32 throughout.
"""
import json
import os
import sys

import torch
import transformers
from safetensors.torch import save_file

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
MINIMAX = dict(
    architectures=["MiniMaxM2ForCausalLM"], model_type="minimax_m2", attn_type_list=[1], head_dim=128,
    hidden_act="silu", hidden_size=3072, intermediate_size=1536, max_position_embeddings=4096, num_attention_heads=48,
    num_experts_per_tok=8, num_hidden_layers=1, num_key_value_heads=8, num_local_experts=16, qk_norm_type="per_layer",
    rms_norm_eps=1e-6, rotary_dim=64,
    rope_parameters=dict(rope_type="default", rope_theta=5000000.0, partial_rotary_factor=0.5),
    scoring_func="sigmoid", shared_intermediate_size=0, sliding_window=None, tie_word_embeddings=False,
    use_qk_norm=True, use_routing_bias=True, vocab_size=2000,
    torch_dtype="bfloat16", attention_dropout=0.0, bos_token_id=None, eos_token_id=None)


def mimo(sliding, moe):
    def rope(theta):
        return dict(rope_type="default", rope_theta=theta, partial_rotary_factor=0.334)

    return dict(
        layer_types=["sliding_attention" if sliding else "full_attention"],
        mlp_layer_types=["sparse" if moe else "dense"],
        rope_parameters=dict(full_attention=rope(5000000.0), sliding_attention=rope(10000.0)), rms_norm_eps=1e-5,
        architectures=["MiMoV2FlashForCausalLM"], model_type="mimo_v2_flash", add_full_attention_sink_bias=False,
        add_swa_attention_sink_bias=True, attention_bias=False, attention_dropout=0.0, attention_chunk_size=128,
        attention_value_scale=0.707, bos_token_id=None, eos_token_id=None, head_dim=192, hidden_act="silu",
        hidden_size=4096, hybrid_block_size=None, hybrid_layer_pattern=[int(sliding)], intermediate_size=16384,
        layernorm_epsilon=1e-5, max_position_embeddings=4096, moe_intermediate_size=2048, moe_layer_freq=[int(moe)],
        n_group=1, n_routed_experts=16, n_shared_experts=None, norm_topk_prob=True, num_attention_heads=64,
        num_experts_per_tok=8, num_hidden_layers=1, num_key_value_heads=4, partial_rotary_factor=0.334,
        rope_theta=5000000, routed_scaling_factor=None, scoring_func="sigmoid", sliding_window=128,
        swa_head_dim=192, swa_num_attention_heads=64, swa_num_key_value_heads=8,
        swa_rope_theta=10000, swa_v_head_dim=128, tie_word_embeddings=False, topk_group=1, topk_method="noaux_tc",
        use_cache=True, v_head_dim=128, vocab_size=2000, torch_dtype="bfloat16")


def weights(c):
    """Hub names to random bf16 tensors, of standard deviation 1 / sqrt(columns)."""
    g = torch.Generator(device=DEVICE).manual_seed(7)
    out = {}

    def matrix(name, rows, cols, scale=1.0):
        w = torch.randn(rows, cols, generator=g, device=DEVICE) * scale / cols**0.5
        out[name] = w.to(torch.bfloat16).cpu()

    def vector(name, size, mean, deviation):
        v = mean + deviation * torch.randn(size, generator=g, device=DEVICE)
        out[name] = v.to(torch.bfloat16).cpu()

    hidden, p = c["hidden_size"], "model.layers.0."
    matrix("model.embed_tokens.weight", c["vocab_size"], hidden, hidden**0.5)
    matrix("lm_head.weight", c["vocab_size"], hidden)
    vector("model.norm.weight", hidden, 1, 0.1)
    vector(p + "input_layernorm.weight", hidden, 1, 0.1)
    vector(p + "post_attention_layernorm.weight", hidden, 1, 0.1)
    if c["model_type"] == "minimax_m2":
        q, k, v = 48 * 128, 8 * 128, 8 * 128
        vector(p + "self_attn.q_norm.weight", q, 1, 0.1)
        vector(p + "self_attn.k_norm.weight", k, 1, 0.1)
        block, names, inner = p + "block_sparse_moe.", ("w1", "w3", "w2"), c["intermediate_size"]
        moe, bias, experts = True, block + "e_score_correction_bias", c["num_local_experts"]
        o = 48 * 128
    else:
        kv = c["swa_num_key_value_heads"] if c["hybrid_layer_pattern"][0] else c["num_key_value_heads"]
        q, k, v, o = 64 * 192, kv * 192, kv * 128, 64 * 128
        if c["hybrid_layer_pattern"][0]:
            vector(p + "self_attn.attention_sink_bias", 64, 0, 1)
        block, names = p + "mlp.", ("gate_proj", "up_proj", "down_proj")
        moe, bias, experts = c["moe_layer_freq"][0] == 1, block + "gate.e_score_correction_bias", c["n_routed_experts"]
        inner = c["moe_intermediate_size"] if moe else c["intermediate_size"]
    matrix(p + "self_attn.q_proj.weight", q, hidden)
    matrix(p + "self_attn.k_proj.weight", k, hidden)
    matrix(p + "self_attn.v_proj.weight", v, hidden)
    matrix(p + "self_attn.o_proj.weight", hidden, o)
    folders = [f"experts.{e}." for e in range(experts)] if moe else [""]
    for folder in folders:
        matrix(block + folder + names[0] + ".weight", inner, hidden)
        matrix(block + folder + names[1] + ".weight", inner, hidden)
        matrix(block + folder + names[2] + ".weight", hidden, inner)
    if moe:
        matrix(block + "gate.weight", experts, hidden, 2.0)
        vector(bias, experts, 0, 0.05)
    return out


def main(top, *wanted):
    torch.backends.cuda.matmul.allow_tf32 = False
    cases = {"minimax": MINIMAX, "mimo-dense": mimo(False, False), "mimo-full": mimo(False, True),
             "mimo-sliding": mimo(True, True)}
    for name in wanted or cases:
        config = cases[name]
        folder = os.path.join(top, name)
        os.makedirs(folder, exist_ok=True)
        with open(os.path.join(folder, "config.json"), "w") as f:
            json.dump(config, f)
        save_file(weights(config), os.path.join(folder, "model.safetensors"), metadata={"format": "pt"})
        model, info = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
        loose = {k: list(v)[:4] for k, v in info.items() if v}
        model = model.to(DEVICE).eval()
        ids = (torch.arange(300) * 7919 % 1999).to(torch.int32)
        with torch.no_grad():
            logits = model(ids.long().unsqueeze(0).to(DEVICE), use_cache=False).logits[0].float().cpu()
        save_file({"0.input_ids": ids, "0.logits": logits.contiguous()}, os.path.join(folder, "golden.safetensors"))
        print(json.dumps({"reference": name, "transformers": transformers.__version__, "loading": loose,
                          "logits_std": float(logits.std())}), flush=True)
        del model


main(*sys.argv[1:])
