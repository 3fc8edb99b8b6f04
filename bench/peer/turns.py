#!/usr/bin/env python3
"""Decode of minimo beside another engine's llama-bench, in turns of half a second, on the same layer shapes.

    turns.py --peer PATH/llama-bench --gguf m2-q4_0.gguf --minimo build/apps/minimo --model m2-w4 \\
        --threads 2 --seconds 40 --output-json bench/results/cpu-decode-turns-m2-4bit.json

All engines are started once and stopped (SIGSTOP) but for the one whose turn it is, which reads a prompt of --prompt
tokens and then decodes --generate; the decode alone is timed, by the engine itself. A turn ends when the engine has
printed its figure. So the host's bandwidth, which moves from second to second, is nearly the same for all turns of a
round; the ratio is taken round by round. minimo's own share is of the bandwidth that it measures right after each turn.
Models and flags as in side_by_side.py, but that an engine with all its weights in memory must have room beside the
others. Rounds that --output-json holds already are kept.
"""
import argparse
import json
import os
import pathlib
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time

MANY = 100000


class Engine:
    """One process, stopped between turns."""

    def __init__(self, command, figure):
        self.figure = figure  # of a line of its output, or None
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, bufsize=1)
        self.read()  # loaded and warm
        self.stop()

    def read(self):
        for line in self.process.stdout:
            found = self.figure(line)
            if found:
                return found
        sys.exit(f"{self.process.args[0]} ended with {self.process.wait()}")

    def stop(self):
        os.kill(self.process.pid, signal.SIGSTOP)

    def turn(self):
        os.kill(self.process.pid, signal.SIGCONT)
        found = self.read()
        self.stop()
        return found

    def end(self, how):
        os.kill(self.process.pid, signal.SIGCONT)
        os.kill(self.process.pid, how)
        self.process.communicate()


def peer_figure(line):  # "samples_ts": [ 203.1 ]
    found = re.search(r'"samples_ts": \[ ([0-9.]+)', line)
    return {"decode": float(found[1])} if found else None


def minimo_figure(line):
    found = re.match(r"iteration \d+: TTFT ([0-9.]+) ms, TPOT ([0-9.]+) ms, reads ([0-9.]+) GB/s", line)
    return {"decode": 1000 / float(found[2]), "reads_gbs": float(found[3])} if found else None


def load_format(name, args):
    if args.dummy:
        return "dummy"
    return "resident" if args.resident and name == "exact" else "auto"


def start(name, args, result):
    if name == "peer":
        tests = ["-gp", f"{args.prompt},{args.generate}"] * 400
        return Engine([args.peer, "-m", args.gguf, "-t", str(args.threads), "-p", "0", "-n", "0", *tests, "-r", "1",
                       "-fa", "1", "-fmoe", "1", "-rtr", "1", "-mmp", "0", "-o", "json"], peer_figure)
    return Engine([args.minimo, "bench", "latency", "--model", args.model, "--threads", str(args.threads),
                   "--input-len", str(args.prompt), "--output-len", str(args.generate), "--batch-size", "1",
                   "--num-iters", str(MANY), "--each-iteration", "--activations", name, "--output-json", result,
                   "--load-format", load_format(name, args),
                   "--kv-cache-dtype", args.kv_cache], minimo_figure)


def spread(values):
    quarters = statistics.quantiles(values, n=4) if len(values) > 1 else values * 3
    return {"median": round(quarters[1], 3), "quarter": round(quarters[0], 3), "three_quarters": round(quarters[2], 3),
            "least": round(min(values), 3), "most": round(max(values), 3), "count": len(values)}


def summarize(rounds, details):
    """Of each engine: tokens a second, minimo's share of the reads after each turn, and the ratio round by round."""
    summary = {}
    for name in ("peer", "exact", "int8"):
        mine = [r[name] for r in rounds if name in r]
        if not mine:
            continue
        line = summary[name] = {"tok_s": spread([m["decode"] for m in mine])}
        if name == "peer":
            continue
        line["reads_gbs"] = spread([m["reads_gbs"] for m in mine])
        line["share_of_reads"] = spread([m["decode"] * details[name]["bytes_per_token"] * 1e-9 / m["reads_gbs"]
                                         for m in mine])
        ratios = [r[name]["decode"] / r["peer"]["decode"] for r in rounds if name in r and "peer" in r]
        if ratios:
            line["ratio"] = spread(ratios)
    return summary


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", help="its llama-bench")
    parser.add_argument("--gguf", default="")
    parser.add_argument("--minimo", default="build/apps/minimo")
    parser.add_argument("--model", required=True, help="a folder of minimo synth --quantize-all")
    parser.add_argument("--engines", nargs="+", choices=["peer", "exact", "int8"], default=["peer", "exact", "int8"],
                        help="without the peer: minimo's shares alone")
    parser.add_argument("--resident", action="store_true", help="exact with --load-format resident")
    parser.add_argument("--dummy", action="store_true", help="--model holds a config.json alone: --load-format dummy")
    parser.add_argument("--kv-cache", default="bf16", help="minimo's --kv-cache-dtype; the peer's cache is float16")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=40, help="of turns")
    parser.add_argument("--wait", action="store_true",
                        help="once all are loaded, wait for a line of standard input: until the machine is quiet")
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--generate", type=int, default=33, help="tokens a turn; minimo times the steps between them")
    parser.add_argument("--output-json", type=pathlib.Path, required=True)
    args = parser.parse_args()

    old = json.loads(args.output_json.read_text()) if args.output_json.exists() else {}
    rounds = old.get("rounds", [])
    files = {name: tempfile.NamedTemporaryFile(suffix=".json") for name in args.engines}
    engines = {name: start(name, args, files[name].name) for name in args.engines}
    order = list(args.engines)
    if args.wait:
        sys.stdin.readline()
    end = time.monotonic() + args.seconds
    try:
        while time.monotonic() < end:
            rounds.append({name: engines[name].turn() for name in order})
            order = order[1:] + order[:1]
    finally:
        for name, engine in engines.items():
            engine.end(signal.SIGTERM if name == "peer" else signal.SIGINT)
    details = old.get("minimo", {})
    for name in args.engines:
        if name != "peer":
            ran = json.load(open(files[name].name))
            details[name] = {"bytes_per_token": ran["points"][0]["bytes_per_step"],
                             "bandwidth_gbs_best": ran["bandwidth_gbs"],
                             "environment": {k: v for k, v in ran["environment"].items() if k != "command"}}
    result = {"kind": "decode in turns", "gguf": pathlib.Path(args.gguf).name, "model": pathlib.Path(args.model).name,
              "threads": args.threads, "prompt": args.prompt, "generate": args.generate, "resident": args.resident,
              "kv_cache": args.kv_cache, "summary": summarize(rounds, details), "minimo": details, "rounds": rounds}
    for name, line in result["summary"].items():
        text = f"{name:6} {line['tok_s']}"
        if name != "peer":
            text += f"  of reads {line['share_of_reads']}  reads {line['reads_gbs']['median']}"
        if "ratio" in line:
            text += f"  x peer {line['ratio']}"
        print(text)
    args.output_json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
