#!/usr/bin/env python3
"""minimo beside another engine's llama-bench on the same layer shapes, in one interleaved run (A B C, A B C, ...).

    side_by_side.py --peer PATH/llama-bench --gguf m2-q4_0.gguf --minimo build/apps/minimo --model m2-w4 \\
        --threads 2 --rounds 3 --output-json bench/results/cpu-m2-4bit.json

The peer's file comes from make_gguf.py, ours from `minimo synth --quantize-all` (docs/cpu.md). Each round starts every
engine afresh, the peer with run-time repack, flash attention and fused experts (its best flags here), ours once per
--activations. Both compute the last layer for one token alone in prefill. Prefill is a prompt of --prompt tokens;
decode is --generate tokens one by one after that prompt.
The read bandwidth is measured by `minimo bench latency` in each of its runs. Rounds that --output-json holds already
are kept and more are added, so that a long comparison can be made in pieces.
"""
import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile


def run_peer(args):
    command = [args.peer, "-m", args.gguf, "-t", str(args.threads), "-p", str(args.prompt), "-n", "0",
               "-gp", f"{args.prompt},{args.generate}", "-r", str(args.repeats), "-fa", "1", "-fmoe", "1",
               "-rtr", "1", "-mmp", "0", "-o", "json"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    out = {"prefill": [], "decode": []}
    text = done.stdout
    for test in json.loads(text[text.index("["):text.rindex("]") + 1]):
        out["decode" if test["n_gen"] > 0 else "prefill"] += test["samples_ts"]
    return out


def run_minimo(args, activations):
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        subprocess.run([args.minimo, "bench", "latency", "--model", args.model, "--threads", str(args.threads),
                        "--input-len", str(args.prompt), "--output-len", str(args.generate), "--batch-size", "1",
                        "--num-iters", str(args.repeats), "--activations", activations, "--output-json", file.name,
                        "--load-format", "resident" if args.resident and activations == "exact" else "auto",
                        "--kv-cache-dtype", args.int8_kv_cache if activations == "int8" else "auto"],
                       check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        result = json.load(open(file.name))
    point = result["points"][0]
    steps = point["tpots_ms"]  # of all repeats, one after the other
    each = len(steps) // args.repeats
    runs = [steps[i * each:(i + 1) * each] for i in range(args.repeats)]
    return {"prefill": [1000 * args.prompt / ms for ms in point["ttfts_ms"]],
            "decode": [1000 / statistics.mean(run) for run in runs],  # as the peer counts: whole runs, slow steps and all
            "decode_step": 1000 / statistics.median(steps),
            "bandwidth_gbs": result["bandwidth_gbs"], "bytes_per_token": point["bytes_per_step"],
            "environment": result["environment"]}


def spread(values):
    return {"median": statistics.median(values), "least": min(values), "most": max(values), "count": len(values)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", required=True, help="its llama-bench")
    parser.add_argument("--gguf", required=True)
    parser.add_argument("--minimo", default="build/apps/minimo")
    parser.add_argument("--model", required=True, help="a folder of minimo synth --quantize-all")
    parser.add_argument("--engines", nargs="+", choices=["peer", "exact", "int8"], default=["peer", "exact", "int8"],
                        help="what to run now; exact and int8 are minimo's --activations")
    parser.add_argument("--resident", action="store_true",
                        help="exact with --load-format resident: weights in memory of its own, as the peer's are")
    parser.add_argument("--int8-kv-cache", default="bf16",
                        help="--kv-cache-dtype of --activations int8; the peer's cache is float16, that of exact float32")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=2, help="measurements a round")
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--generate", type=int, default=32)
    parser.add_argument("--output-json", type=pathlib.Path)
    args = parser.parse_args()

    engines = {"peer": lambda: run_peer(args), "exact": lambda: run_minimo(args, "exact"),
               "int8": lambda: run_minimo(args, "int8")}
    rounds = {}
    if args.output_json and args.output_json.exists():
        rounds = json.loads(args.output_json.read_text())["rounds"]
    for number in range(args.rounds):
        for name in args.engines:
            rounds.setdefault(name, []).append(engines[name]())
            if args.output_json:  # a run that is cut off keeps what it has
                args.output_json.write_text(json.dumps({"rounds": rounds}) + "\n")
            print(f"round {number + 1}/{args.rounds}: {name} done", file=sys.stderr, flush=True)

    ours = [r for name in rounds if name != "peer" for r in rounds[name]]
    if not ours or "peer" not in rounds:  # the first piece of a comparison
        return
    gguf_bytes = pathlib.Path(args.gguf).stat().st_size
    result = {"kind": "side by side", "gguf": pathlib.Path(args.gguf).name, "gguf_bytes": gguf_bytes,
              "model": pathlib.Path(args.model).name, "threads": args.threads, "prompt": args.prompt,
              "generate": args.generate, "resident": args.resident,
              "int8_kv_cache": args.int8_kv_cache,
              "command": " ".join(pathlib.Path(a).name if "/" in a else a for a in sys.argv),
              "environment": ours[0]["environment"],
              "bytes_per_token": ours[0]["bytes_per_token"],
              "bandwidth_gbs": spread([r["bandwidth_gbs"] for r in ours]), "engines": {}, "rounds": rounds}
    print(f"{result['model']} beside {result['gguf']}, {args.threads} threads, reads "
          f"{result['bandwidth_gbs']['median']:.1f} GB/s ({result['bandwidth_gbs']['least']:.1f} to "
          f"{result['bandwidth_gbs']['most']:.1f})")
    print(f"{'':14}{f'prefill {args.prompt} tok/s':>28}{'x peer':>8}{'decode tok/s':>28}{'x peer':>8}{'of reads':>10}")
    for name in rounds:
        line = {phase: spread([v for r in rounds[name] for v in r[phase]]) for phase in ("prefill", "decode")}
        if name != "peer":
            line["share_of_bandwidth"] = statistics.median(
                v * r["bytes_per_token"] / r["bandwidth_gbs"] * 1e-9 for r in rounds[name] for v in r["decode"])
        result["engines"][name] = line
        peer = result["engines"]["peer"]
        cells = ""
        for phase in ("prefill", "decode"):
            s = line[phase]
            figures = f"{s['median']:.1f} ({s['least']:.1f}-{s['most']:.1f})"
            cells += f"{figures:>28}{s['median'] / peer[phase]['median']:>8.2f}"
        share = f"{100 * line['share_of_bandwidth']:.0f} %" if name != "peer" else ""
        print(f"{name if name == 'peer' else 'minimo ' + name:14}{cells}{share:>10}")
    if args.output_json:
        args.output_json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
