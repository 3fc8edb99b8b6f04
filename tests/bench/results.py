"""Result files as `minimo bench` writes them, with figures that a test knows."""

import json
import pathlib
import random

MACHINE = {"commit": "0123456789ab", "command": "minimo bench serve --port 8000", "date": "2026-01-02T03:04:05Z",
           "host": "h", "os": "Linux", "cpu": "A <CPU> & more", "cores": 16, "memory_bytes": 10**11,
           "gpus": [{"name": "NVIDIA H200", "driver": "580.1", "memory_bytes": 141 << 30}],
           "memory_read_bandwidth": {"best_gbs": 100.5, "median_gbs": 99.0, "worst_gbs": 90.0, "threads": 16,
                                     "passes": 9, "buffer_bytes": 1 << 30, "huge_pages": True}}


def shape(kind, name):
    return {"name": name, "type": kind, "hidden": 3072, "layers": 62, "vocab": 200064, "experts": 256, "top_k": 8,
            "expert_width": 1536, "parameters": 228.7e9, "active_parameters": 10.4e9,
            "number_format": {"name": "w4", "qkv_bits": 8.0, "output_bits": 8.0, "dense_bits": 8.0,
                              "expert_bits": 4.25, "router_bits": 16.0, "head_bits": 8.0}}


def serve(kind, name, label, concurrency, tpot_ms, floor_ms, seed):
    rng = random.Random(seed)
    n = max(16, 2 * concurrency)
    ttfts = [max(0.01, rng.gauss(0.05 + concurrency * 0.002, 0.01)) for _ in range(n)]
    tpots = [rng.gauss(tpot_ms, tpot_ms * 0.05) for _ in range(n)]
    latencies = [t + p * 89 / 1e3 for t, p in zip(ttfts, tpots)]
    curve = [[b, floor_ms / concurrency ** 0.6 * b ** 0.6] for b in (1, 2, 4, 8, 16, 32, 64, 128, 256)]
    return {"kind": "serve", "label": label, "model_id": name, "max_concurrency": concurrency, "seed": 0,
            "completed": n, "failed": 0, "output_throughput": concurrency * 900 / tpot_ms,
            "median_ttft_ms": 1e3 * sorted(ttfts)[n // 2], "p99_ttft_ms": 1e3 * max(ttfts),
            "mean_tpot_ms": tpot_ms, "std_tpot_ms": tpot_ms * 0.05,
            "median_tpot_ms": sorted(tpots)[n // 2], "p99_tpot_ms": max(tpots), "ttfts": ttfts,
            "latencies": latencies, "output_lens": [90] * n, "environment": MACHINE, "model_shape": shape(kind, name),
            "floor": {"tpot_ms": floor_ms, "bandwidth_gbs": 4540, "curve": curve}}


def write(folder):
    folder = pathlib.Path(folder)
    results = []
    for concurrency, tpot, floor in ((1, 2.2, 1.7), (16, 15.0, 12.0), (32, 25.0, 19.4), (128, 41.0, 31.7),
                                     (256, 46.0, 35.7)):
        results.append(serve("minimax_m2", "minimax-m2", "M2 w4, 1x H200", concurrency, tpot, floor, concurrency))
    for concurrency, tpot, floor in ((1, 1.9, 1.2), (16, 9.0, 7.5), (32, 16.0, 12.7)):
        results.append(serve("mimo_v2_flash", "mimo-v2-flash", "MiMo w4, 2x H200", concurrency, tpot, floor, 7))
    results.append({"kind": "kernels", "environment": MACHINE, "model_shape": shape("minimax_m2", "minimax-m2"),
                    "lines": [{"op": "linear", "shape": "8192 x 3072 fp8", "tokens": 1, "median_us": 600.0, "gbs": 42.0,
                               "tflops": 0.084, "floor_us": 520.0, "share_of_floor": 0.87}]})
    results.append({"kind": "load", "environment": MACHINE, "model_shape": shape("minimax_m2", "minimax-m2"),
                    "total_s": 3.0, "phases": [{"name": "weights", "seconds": 2.4, "gbs": 50.0},
                                               {"name": "first token", "seconds": 0.6}]})
    results.append({"kind": "throughput", "environment": MACHINE, "model_shape": shape("minimax_m2", "minimax-m2"),
                    "num_requests": 100, "elapsed_time": 10.0, "requests_per_second": 10.0,
                    "tokens_per_second": 9900.0, "output_tokens_per_second": 900.0})
    files = []
    for i, result in enumerate(results):
        path = folder / f"result-{i:02}.json"
        path.write_text(json.dumps(result))
        files.append(str(path))
    return files
