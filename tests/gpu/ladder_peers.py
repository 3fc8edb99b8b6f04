"""What PyTorch, cuBLASLt and Triton of the machine need for the operators of gpu_ladder: JSON lines.

    python ladder_peers.py [TOKENS...]

Dense products: torch.matmul in bf16, torch._scaled_mm in e4m3 (one scale a row). Experts: torch._grouped_mm in bf16,
torch._scaled_grouped_mm in e4m3. Attention: scaled_dot_product_attention. Nothing here takes 4-bit weights.
"""
import json
import sys

import torch
import torch.nn.functional as F
import triton.testing

E4M3 = torch.float8_e4m3fn


def report(model, op, kernel, tokens, flops, run):
    line = {"bench": "prefill op", "peer": kernel, "model": model, "op": op, "tokens": tokens}
    try:
        run()
        torch.cuda.synchronize()
        ms = triton.testing.do_bench(run, warmup=10, rep=40, return_mode="median")
        line |= {"us": round(ms * 1e3, 1), "tflops": round(flops / ms * 1e-9)}
    except Exception as e:  # an operator this build of PyTorch lacks
        line["error"] = str(e).split("\n")[0][:160]
    print(json.dumps(line), flush=True)


def dense(model, op, tokens, rows, cols):
    x = torch.randn(tokens, cols, device="cuda", dtype=torch.bfloat16)
    w = torch.randn(rows, cols, device="cuda", dtype=torch.bfloat16) * cols**-0.5
    flops = 2 * tokens * rows * cols
    report(model, op, "torch.matmul bf16 (cuBLAS)", tokens, flops, lambda: x @ w.t())
    x8, w8 = x.to(E4M3), w.to(E4M3)
    sx, sw = torch.ones(tokens, 1, device="cuda"), torch.ones(1, rows, device="cuda")
    report(model, op, "torch._scaled_mm e4m3 by rows", tokens, flops,
           lambda: torch._scaled_mm(x8, w8.t(), scale_a=sx, scale_b=sw, out_dtype=torch.bfloat16, use_fast_accum=False))


def grouped(model, op, tokens, rows, cols, experts=256, top_k=8):
    counts = torch.bincount(torch.randint(0, experts, (tokens * top_k,)), minlength=experts)
    counts = (counts + 15) // 16 * 16  # the e4m3 product wants multiples of 16
    offsets = counts.cumsum(0).to(torch.int32).cuda()
    slots = int(offsets[-1])
    flops = 2 * tokens * top_k * rows * cols
    x = torch.randn(slots, cols, device="cuda", dtype=torch.bfloat16)
    w = torch.randn(experts, rows, cols, device="cuda", dtype=torch.bfloat16) * cols**-0.5
    report(model, op, "torch._grouped_mm bf16", tokens, flops, lambda: torch._grouped_mm(x, w.transpose(1, 2), offs=offsets))
    x8, w8 = x.to(E4M3), w.to(E4M3)
    sx, sw = torch.ones(slots, device="cuda"), torch.ones(experts, rows, device="cuda")
    report(model, op, "torch._scaled_grouped_mm e4m3 by rows", tokens, flops,
           lambda: torch._scaled_grouped_mm(x8, w8.transpose(1, 2), sx, sw, offs=offsets, out_dtype=torch.bfloat16))


def attention(model, tokens, heads, kv_heads, dim):
    q = torch.randn(1, heads, tokens, dim, device="cuda", dtype=torch.bfloat16)
    k, v = (torch.randn(1, kv_heads, tokens, dim, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    report(model, "attention", "scaled_dot_product_attention", tokens, 2 * tokens * tokens * heads * dim,
           lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True))


for n in [int(a) for a in sys.argv[1:]] or [900, 2048, 8192]:
    dense("m2", "qkv", n, 8192, 3072)
    dense("m2", "o_proj", n, 3072, 6144)
    dense("mimo", "qkv (sliding)", n, 14848, 4096)
    grouped("m2", "gate_up", n, 3072, 3072)
    grouped("m2", "down", n, 3072, 1536)
    grouped("mimo", "gate_up", n, 4096, 4096)
    grouped("mimo", "down", n, 4096, 2048)
    attention("m2", n, 48, 8, 128)
