#!/usr/bin/env python3
"""The paper plan of docs/scaling.md: what each layout of ranks costs in memory, exchanges and time per step.

    tools/scaling_plan.py [--model m2|mimo] [--expert-bits BITS] [--gpus N ...]

Memory and bytes are exact (the arithmetic of src/spec/parallel_plan.cc); times are floors built from measured pieces,
listed in PIECES with their sources, and from assumptions, marked as such. Nothing here is a benchmark.
"""
import argparse
import math

PIECES = {
    "read_tb_s": 4.3,          # H200, what the decode floors use (4.54 measured for a read-only stream of 8 GB)
    "phase_us": 1.25,          # ramp of one dependent phase, seven a layer (measured 1 to 1.5)
    "phases_a_layer": 7,
    # A sum over two H200 in a CUDA graph: (bytes, us), measured (bench/results/all-reduce-h200.json): ours through peer
    # memory, residual and RMSNorm included, parts in float32; up to 128 tokens of M2 in packets, beyond as many rows.
    "all_reduce_2": [(16, 3.52), (6144, 3.92), (12288, 4.30), (49152, 4.72), (196608, 6.24), (393216, 8.29),
                     (786432, 12.22), (1572864, 21.08), (3145728, 21.14), (6291456, 36.72), (12582912, 78.24),
                     (25165824, 123.7)],
    # What a layer of M2 takes beyond memory, phases and exchanges, by tokens of a step: nearly as much on two GPUs as on
    # one (24.2 and 21.8 us for one token, 76 and 66 for 32, kernels of 32f610c). One token: on one GPU, with the kernels
    # of bench/results/gpu-one-token.json; 32: on two (gpu-ranks-h200.json).
    "beyond_a_layer_us": {1: 17.1, 32: 66.1},
    # Assumptions, until measured: a doubling of the ranks within a host adds this share to the latency ...
    "latency_per_doubling": 0.2,
    # ... and an exchange that leaves the host costs this much more, at this bandwidth a GPU (400 Gb/s).
    "host_hop_us": 15.0,
    "host_gb_s": 50.0,
    "gpus_a_host": 8,
}

M2 = dict(name="MiniMax-M2", hidden=3072, vocab=200064, experts=256, top_k=8, inter=1536, dense=0,
          layers=[dict(heads=48, kv=8, k=128, v=128, window=0, norm=True, moe=True)] * 62, o_bits=8)
MIMO = dict(name="MiMo-V2-Flash", hidden=4096, vocab=152576, experts=256, top_k=8, inter=2048, dense=16384,
            layers=[dict(heads=64, kv=4 if i == 0 or i % 6 == 5 else 8, k=192, v=128,
                         window=0 if i == 0 or i % 6 == 5 else 128, norm=False, moe=i > 0) for i in range(48)],
            o_bits=16)


def share(count, parts, part, grain=1):
    units = -(-count // grain)
    each, longer = divmod(units, parts)
    begin = min(count, (part * each + min(part, longer)) * grain)
    return min(count, ((part + 1) * each + min(part + 1, longer)) * grain) - begin


def grain_of(count, parts):
    even = -(-count // parts)
    for grain in (128, 64, 32, 16, 8, 4, 2):
        if -(-(-(-count // grain)) // parts) * grain * 10 <= even * 11:
            return grain
    return 1


def heads_of_rank0(layer, ranks):
    """(query heads, KV heads) of the fullest rank."""
    if ranks <= layer["kv"]:
        kv = share(layer["kv"], ranks, 0)
        return kv * layer["heads"] // layer["kv"], kv
    holders = [share(ranks, layer["kv"], k) for k in range(layer["kv"])]
    return -(-(layer["heads"] // layer["kv"]) // min(holders)), 1


def rank_bytes(model, ranks, tensor, expert, expert_bits):
    h = model["hidden"]
    attention = experts = dense = kv_token = kv_sequence = 0
    rows = share(model["inter"], tensor, 0, grain_of(model["inter"], tensor))
    owned = share(model["experts"], expert, 0)
    for layer in model["layers"]:
        q, kv = heads_of_rank0(layer, ranks)
        attention += (q * layer["k"] + kv * (layer["k"] + layer["v"])) * h + q * layer["v"] * h * model["o_bits"] // 8
        cache = 2 * kv * (layer["k"] + layer["v"])
        if layer["window"]:
            kv_sequence += cache * layer["window"]
        else:
            kv_token += cache
        if layer["moe"]:
            experts += 3 * h * rows * owned * expert_bits / 8
        else:
            dense += 3 * h * share(model["dense"], ranks, 0, grain_of(model["dense"], ranks))
    ends = 2 * share(model["vocab"], ranks, 0) * h * 2
    return dict(attention=attention, experts=experts, dense=dense, ends=ends, kv_token=kv_token,
                kv_sequence=kv_sequence, weights=attention + experts + dense + ends)


def touched(model, batch):
    """Experts of a layer that a batch reads, uniform routing."""
    return model["experts"] * (1 - (1 - model["top_k"] / model["experts"]) ** batch)


def imbalance(model, batch, expert):
    """Fullest expert share over the mean: measured by simulation for PERFORMANCE.md, here its normal approximation."""
    mean = touched(model, batch) / expert
    if expert == 1:
        return 1.0
    deviation = math.sqrt(mean * (1 - 1 / expert) * (1 - touched(model, batch) / model["experts"]))
    return min(expert, 1 + deviation * math.sqrt(2 * math.log(expert)) / mean)


def all_reduce_us(size, ranks):
    if ranks == 1:
        return 0.0
    points = PIECES["all_reduce_2"]
    for (b0, t0), (b1, t1) in zip(points, points[1:]):
        if size <= b1:
            us = t0 + (t1 - t0) * max(0, size - b0) / (b1 - b0)
            break
    else:
        us = points[-1][1] * size / points[-1][0]
    inside = min(ranks, PIECES["gpus_a_host"])
    us *= 1 + PIECES["latency_per_doubling"] * math.log2(inside / 2)
    if ranks > inside:
        hosts = ranks / inside
        us += PIECES["host_hop_us"] * math.log2(hosts) + 2 * (hosts - 1) / hosts * size / inside / PIECES["host_gb_s"] / 1e3
    return us


def decode_ms(model, ranks, tensor, expert, expert_bits, batch, context=945):
    b = rank_bytes(model, ranks, tensor, expert, expert_bits)
    part = touched(model, batch) / model["experts"] * imbalance(model, batch, expert)
    read = b["attention"] + b["dense"] + b["ends"] / 2 + b["experts"] * min(1, part)
    read += batch * (b["kv_token"] * context + b["kv_sequence"])
    memory = read / (PIECES["read_tb_s"] * 1e12) * 1e3
    layers = len(model["layers"])
    phases = layers * PIECES["phases_a_layer"] * PIECES["phase_us"] / 1e3
    size = batch * model["hidden"] * 4  # float32; the embedding is whole on every GPU
    exchanges = 2 * layers * all_reduce_us(size, ranks)
    exchanges += sum(layer["norm"] for layer in model["layers"]) * all_reduce_us(batch * 8, ranks)
    return memory, phases, exchanges / 1e3


def expected_ms(model, ranks, tensor, expert, expert_bits, batch, context=945):
    """What today's kernels would take: the floor, and what a layer takes beyond it, which ranks do not share."""
    beyond = len(model["layers"]) * PIECES["beyond_a_layer_us"][batch] / 1e3
    return sum(decode_ms(model, ranks, tensor, expert, expert_bits, batch, context)) + beyond


def layouts(model, ranks):
    out = [(ranks, 1), (1, ranks)]
    for tensor in (4, 8, 16):
        if ranks % tensor == 0 and 1 < tensor < ranks:
            out.append((tensor, ranks // tensor))
    return out


def name(tensor, expert):
    return "tp" if expert == 1 else "ep" if tensor == 1 else f"{tensor}x{expert}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=["m2", "mimo"], default="m2")
    parser.add_argument("--expert-bits", type=float, default=8)
    parser.add_argument("--gpus", type=int, nargs="*", default=[1, 2, 4, 8, 16, 64])
    args = parser.parse_args()
    model = M2 if args.model == "m2" else MIMO
    print(f"{model['name']}, experts of {args.expert_bits:g} bits\n")
    print("| GPUs | experts | weights a GPU | KV a token, a GPU | B=1: memory + phases + exchanges | B=32 | B=256 |")
    print("|---|---|---|---|---|---|---|")
    for ranks in args.gpus:
        for tensor, expert in (layouts(model, ranks) if ranks > 1 else [(1, 1)]):
            b = rank_bytes(model, ranks, tensor, expert, args.expert_bits)
            cells = []
            for batch in (1, 32, 256):
                memory, phases, exchanges = decode_ms(model, ranks, tensor, expert, args.expert_bits, batch)
                cells.append(f"{memory:.2f} + {phases:.2f} + {exchanges:.2f} = {memory + phases + exchanges:.2f} ms")
            print(f"| {ranks} | {name(tensor, expert)} | {b['weights'] / 1e9:.1f} GB | {b['kv_token'] / 1e3:.1f} KB | "
                  + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
