#!/usr/bin/env python3
"""What two GPUs must show, each figure beside what it must be: M2 in FP8 and MiMo with 4-bit experts, whole, of random
weights; one GPU beside two; the ladder of all-reduces; exactness; data parallelism; stops, a lost and a late rank.

    two_gpus.py [SECONDS [STEP ...]]    in a folder that tools/gpu_check packed (its part `two`), on a machine with two
                                        GPUs and mpirun. Steps in the order of their weight; one that SECONDS (300)
                                        have no room for is left out, which is said.
Logs and two_gpus.json go to ${OUT:-.}. Exits 1 if a check failed or a step did not end; figures say what they miss.
"""
import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

OUT = pathlib.Path(os.environ.get("OUT", "."))
MPIRUN = ["mpirun", "--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "--mca",
          "btl_vader_single_copy_mechanism", "none", "-n", "2"]
M2, MIMO = "shapes/minimax-m2", "shapes/mimow4"
CHECK = ["python3", "tests/gpu/serve_gpu_ranks_test.py", "./minimo"]
BATCHES, PROMPTS = "1,8,32,96", "900,2048"


@dataclasses.dataclass
class Step:
    name: str
    seconds: int  # its limit; most take less
    commands: list  # one after the other; a list of several within: at once
    figures: dict = dataclasses.field(default_factory=dict)  # key of the result -> (label, must)


def bench(name, seconds, model, *flags, figures):
    return Step(name, seconds, [["./minimo", "launch", "-n", "2", "--", "bench", *flags, "--model", model, "--backend",
                                 "cuda", "--load-format", "dummy", "--prefill-activations", "fp8", "--input-len", "900",
                                 "--output-len", "90", "--json", str(OUT / f"{name}.json")]], figures)


def latency(name, model, tpot, ttft):
    return bench(name, 20, model, "latency", "--batch-size", "1", "--num-iters", "3",
                 figures={"median_tpot_ms": ("TPOT ms", -tpot), "median_ttft_ms": ("TTFT ms", -ttft)})


def throughput(name, seconds, model, at_once, prompts, must, *flags):
    return bench(name, seconds, model, "throughput", "--max-num-seqs", str(at_once), "--num-prompts", str(prompts),
                 "--random-range-ratio", "0.03", "--num-iters", "1", *flags,
                 figures={"output_tokens_per_second": ("tok/s", must)})


def golden(layout):
    return Step(f"golden-{layout.replace(':', '-')}", 14,
                [MPIRUN + ["./gpu_ranks_check", "golden", "shared", "models", layout]])


def served(name, seconds):
    return Step(name, seconds, [CHECK + [f"ServeGpuRanks.test_{name}"]])


# Musts below 0 are most, others least.
STEPS = [
    latency("m2-latency", M2, 2.4, 45),
    golden("tp"),
    throughput("m2-c32", 20, M2, 32, 64, 1200),
    throughput("m2-c128", 25, M2, 128, 256, 2600),
    throughput("m2-c256", 45, M2, 256, 512, 4000, "--kv-cache-dtype", "fp8"),
    Step("ladder", 20, [MPIRUN + ["./exchange_bench"]]),
    latency("mimo-latency", MIMO, 2.2, 35),
    throughput("mimo-c32", 20, MIMO, 32, 64, 1400),
    throughput("mimo-c128", 25, MIMO, 128, 256, 2700),
    Step("one", 20, [[["env", "CUDA_VISIBLE_DEVICES=0", "./gpu_check", "decode", "m2", "31", "fp8", BATCHES, "945"],
                      ["env", "CUDA_VISIBLE_DEVICES=1", "./gpu_check", "prefill", "m2", "31", "fp8", PROMPTS, "fp8"]]]),
    Step("both", 25, [MPIRUN + ["./gpu_ranks_check", "decode", "m2", "31", "fp8", "tp", "peer", BATCHES, "945"],
                      MPIRUN + ["./gpu_ranks_check", "prefill", "m2", "31", "fp8", "tp", "peer", PROMPTS, "fp8"]]),
    golden("dp2:ep"),
    throughput("m2-c128-dp2", 25, M2, 128, 256, 0, "--data-parallel-size", "2", "--enable-expert-parallel"),
    served("stops_under_load_each_end_soon", 70),
    golden("ep"),
    golden("ep+tp"),
    golden("dp2:tp"),
    served("answers_are_those_of_one_gpu", 40),
    served("a_killed_rank_is_noticed_within_10_s_and_every_request_answered", 25),
    served("a_rank_5_s_late_is_waited_for", 20),
    throughput("mimo-c256", 45, MIMO, 256, 512, 3600, "--kv-cache-dtype", "fp8"),
]


def end(processes):
    for how in (signal.SIGTERM, signal.SIGKILL):
        for process in processes:
            if process.poll() is None:
                os.killpg(process.pid, how)
        time.sleep(0 if all(p.poll() is not None for p in processes) else 2)


def run(step, until):
    """How the step ended: "ok" is in time and with exit codes 0. Its output is in NAME.log."""
    with open(OUT / f"{step.name}.log", "w") as log:
        for group in step.commands:
            group = group if isinstance(group[0], list) else [group]
            processes = [subprocess.Popen(c, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
                         for c in group]
            while any(p.poll() is None for p in processes) and time.monotonic() < until:
                time.sleep(0.02)
            if any(p.poll() is None for p in processes):
                end(processes)
                return "cut by its limit"
            if any(p.returncode != 0 for p in processes):
                return f"FAILED, exit {[p.returncode for p in processes]}"
    return "ok"


def lines(name):
    """JSON lines of a step's log."""
    log = OUT / f"{name}.log"
    found = []
    for line in log.read_text(errors="replace").splitlines() if log.exists() else []:
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return [line for line in found if isinstance(line, dict)]


def figures_of(step):
    path = OUT / f"{step.name}.json"
    if not step.figures or not path.exists():
        return []
    result = json.loads(path.read_text())
    result = result.get("points", [result])[0]
    figures = []
    for key, (label, must) in step.figures.items():
        value = result[key]
        met = None if must == 0 else value <= -must if must < 0 else value >= must
        figures.append({"what": f"{step.name} {label}", "value": value, "must": abs(must) or None, "met": met})
    return figures


def efficiency():
    """How many times two GPUs are as fast as one, by half."""
    def times(name):
        return {(line["bench"], line.get("batch", line.get("tokens"))): line["ms"]
                for line in lines(name) if "ms" in line and line.get("bench") in ("decode", "prefill")}
    one, both = times("one"), times("both")
    return [{"what": f"{kind} of {size}", "one_ms": one[kind, size], "two_ms": both[kind, size],
             "efficiency": one[kind, size] / both[kind, size] / 2} for kind, size in one if (kind, size) in both]


def main():
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 300
    begin = time.monotonic()
    steps, figures = [], []
    for step in [s for s in STEPS if s.name in sys.argv[2:] or not sys.argv[2:]]:
        at = time.monotonic()
        if at - begin + step.seconds > seconds:
            verdict = "left out: no time"
        else:
            (OUT / f"{step.name}.json").unlink(missing_ok=True)
            verdict = run(step, at + step.seconds)
        wrong = [line for line in lines(step.name) if line.get("ok") is False or line.get("wrong", 0) != 0]
        if verdict == "ok" and wrong:
            verdict = f"FAILED: {len(wrong)} checks"
        steps.append({"step": step.name, "seconds": round(time.monotonic() - at, 1), "verdict": verdict})
        print(f"{step.name:45} {steps[-1]['seconds']:6.1f} s  {verdict}", flush=True)
        for figure in figures_of(step) if verdict == "ok" else []:
            figures.append(figure)
            says = "" if figure["met"] is None else f", must {figure['must']}: {'met' if figure['met'] else 'MISSED'}"
            print(f"    {figure['what']}: {figure['value']:.2f}{says}", flush=True)
    for line in efficiency():
        print(f"    {line['what']}: {line['one_ms']:.2f} ms on one, {line['two_ms']:.2f} on two, "
              f"{100 * line['efficiency']:.0f} %")
    ladder = [line for line in lines("ladder") if "bytes" in line or "many_rows" in line]
    (OUT / "two_gpus.json").write_text(json.dumps(
        {"steps": steps, "figures": figures, "efficiency": efficiency(), "ladder": ladder}, indent=1))
    return 0 if all(s["verdict"] == "ok" or s["verdict"].startswith("left out") for s in steps) else 1


if __name__ == "__main__":
    sys.exit(main())
