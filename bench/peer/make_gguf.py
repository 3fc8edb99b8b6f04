#!/usr/bin/env python3
"""Writes a GGUF file of a model's real layer shapes with random weights, for side_by_side.py.

    make_gguf.py bench/shapes/minimax-m2 --layers 2 --vocab 32000 --type Q8_0 OUT.gguf

Shapes come from the config.json beside which this project keeps its own. Every matrix but the router (float32, as
converters write it) has the one type. Values are drawn from a table that begins at another place in every tensor:
Gaussian, fan-in scaled, block outputs damped by half, as `minimo synth` draws its own. Needs numpy and gguf (PyPI).
"""
import argparse
import json
import pathlib

import gguf
import numpy as np

BLOCK = 32  # values a block of Q8_0 and Q4_0: one fp16 scale each
TABLE_BLOCKS = 1 << 20
PEAK = {"Q8_0": (127, 4.2), "Q4_0": (7, 2.8)}  # largest code, and its distance in standard deviations


class Blocks:
    """Random quantized blocks of unit deviation times `deviation`, cut out of one table of codes."""

    def __init__(self, kind, seed):
        rng = np.random.default_rng(seed)
        self.kind, self.rng = kind, rng
        self.peak, self.sigmas = PEAK[kind]
        normal = rng.standard_normal((TABLE_BLOCKS, BLOCK), dtype=np.float32)
        codes = np.clip(np.rint(normal * (self.peak / self.sigmas)), -self.peak, self.peak).astype(np.int8)
        if kind == "Q8_0":
            self.codes = codes.view(np.uint8)
        else:  # low nibbles: the first half of the block
            nibbles = (codes + 8).astype(np.uint8)
            self.codes = nibbles[:, :BLOCK // 2] | nibbles[:, BLOCK // 2:] << 4
        self.block_bytes = 2 + self.codes.shape[1]

    def make(self, rows, cols, deviation):
        blocks = rows * cols // BLOCK
        out = np.empty((blocks, self.block_bytes), np.uint8)
        unit = deviation * self.sigmas / self.peak
        scales = (unit * self.rng.uniform(0.85, 1.15, TABLE_BLOCKS)).astype(np.float16).view(np.uint8).reshape(-1, 2)
        for begin in range(0, blocks, TABLE_BLOCKS // 2):
            count = min(TABLE_BLOCKS // 2, blocks - begin)
            at = int(self.rng.integers(0, TABLE_BLOCKS // 2))
            out[begin:begin + count, :2] = scales[at:at + count]
            out[begin:begin + count, 2:] = self.codes[at:at + count]
        return out


def layers_of(config, count):
    """Per layer: sliding, moe, kv heads."""
    if config["model_type"] == "minimax_m2":
        return [(False, True, config["num_key_value_heads"])] * count
    sliding, moe = config["hybrid_layer_pattern"][:count], config["moe_layer_freq"][:count]
    kv = {0: config["num_key_value_heads"], 1: config["swa_num_key_value_heads"]}
    return [(bool(s), bool(m), kv[s]) for s, m in zip(sliding, moe)]


def add_keys(writer, arch, config, layers, vocab):
    m2 = arch == "minimax-m2"
    k_dim = config["head_dim"]
    v_dim = k_dim if m2 else config["v_head_dim"]
    experts = config["num_local_experts"] if m2 else config["n_routed_experts"]
    writer.add_vocab_size(vocab)
    writer.add_context_length(8192)
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(len(layers))
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_expert_feed_forward_length(config["intermediate_size"] if m2 else config["moe_intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv([kv for _, _, kv in layers])
    writer.add_key_length(k_dim)
    writer.add_value_length(v_dim)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"] if m2 else config["layernorm_epsilon"])
    writer.add_expert_count(experts)
    writer.add_expert_used_count(config["num_experts_per_tok"])
    writer.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)
    writer.add_rope_freq_base(config["rope_theta"])
    rotary = config["rotary_dim"] if m2 else int(k_dim * config["partial_rotary_factor"]) // 2 * 2
    writer.add_rope_dimension_count(rotary)
    if not m2:
        writer.add_sliding_window(config["sliding_window"])
        writer.add_array(f"{arch}.attention.sliding_window_pattern", [int(s) for s, _, _ in layers])
        writer.add_float32(f"{arch}.rope.freq_base_swa", config["swa_rope_theta"])
        writer.add_float32(f"{arch}.attention.value_scale", config["attention_value_scale"])
    writer.add_tokenizer_model("no_vocab")
    return k_dim, v_dim, experts


def tensors_of(arch, config, layers, vocab, k_dim, v_dim, experts):
    """(name, shape with the columns last, deviation; None: float32 ones, 0: float32 zeros, kind or F32)."""
    m2 = arch == "minimax-m2"
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    expert_size = config["intermediate_size"] if m2 else config["moe_intermediate_size"]
    yield "token_embd.weight", (vocab, hidden), 1.0
    for i, (sliding, moe, kv) in enumerate(layers):
        p = f"blk.{i}."
        fan = hidden ** -0.5
        yield p + "attn_norm.weight", (hidden,), None
        yield p + "ffn_norm.weight", (hidden,), None
        yield p + "attn_q.weight", (heads * k_dim, hidden), fan
        yield p + "attn_k.weight", (kv * k_dim, hidden), fan
        yield p + "attn_v.weight", (kv * v_dim, hidden), fan
        yield p + "attn_output.weight", (hidden, heads * v_dim), 0.5 * (heads * v_dim) ** -0.5
        if m2:
            yield p + "attn_q_norm.weight", (heads * k_dim,), None
            yield p + "attn_k_norm.weight", (kv * k_dim,), None
        if sliding:
            yield p + "attn_sinks.weight", (heads,), None
        if moe:
            yield p + "ffn_gate_inp.weight", (experts, hidden), "router"
            yield p + "exp_probs_b.bias", (experts,), 0
            for part in ("gate", "up"):
                yield p + f"ffn_{part}_exps.weight", (experts, expert_size, hidden), fan
            yield p + "ffn_down_exps.weight", (experts, hidden, expert_size), 0.5 * expert_size ** -0.5
        else:
            inner = config["intermediate_size"]
            yield p + "ffn_gate.weight", (inner, hidden), fan
            yield p + "ffn_up.weight", (inner, hidden), fan
            yield p + "ffn_down.weight", (hidden, inner), 0.5 * inner ** -0.5
    yield "output_norm.weight", (hidden,), None
    yield "output.weight", (vocab, hidden), 2.0 * hidden ** -0.5


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shapes", type=pathlib.Path, help="a folder of bench/shapes")
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--layers", type=int, required=True)
    parser.add_argument("--vocab", type=int, default=32000)
    parser.add_argument("--type", choices=sorted(PEAK), default="Q8_0")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    config = json.loads((args.shapes / "config.json").read_text())
    arch = {"minimax_m2": "minimax-m2", "mimo_v2_flash": "mimo2"}[config["model_type"]]
    layers = layers_of(config, args.layers)
    writer = gguf.GGUFWriter(args.out, arch)
    dims = add_keys(writer, arch, config, layers, args.vocab)
    blocks = Blocks(args.type, args.seed)
    kind = gguf.GGMLQuantizationType[args.type]
    tensors = list(tensors_of(arch, config, layers, args.vocab, *dims))
    for name, shape, deviation in tensors:
        if isinstance(deviation, float):
            stored = (*shape[:-1], shape[-1] // BLOCK * blocks.block_bytes)
            writer.add_tensor_info(name, stored, np.dtype(np.uint8), int(np.prod(stored)), kind)
        else:
            writer.add_tensor_info(name, shape, np.dtype(np.float32), int(np.prod(shape)) * 4)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for name, shape, deviation in tensors:
        if deviation is None:
            data = np.ones(shape, np.float32)
        elif deviation == "router":
            data = (blocks.rng.standard_normal(shape, dtype=np.float32) * shape[1] ** -0.5).astype(np.float32)
        elif deviation == 0:
            data = np.zeros(shape, np.float32)
        else:
            data = blocks.make(int(np.prod(shape[:-1])), shape[-1], deviation)
        writer.write_tensor_data(data)
    writer.close()


if __name__ == "__main__":
    main()
