#!/usr/bin/env python3
"""What transformers makes of the golden checkpoints in bf16: the relative error of its logits.

    python tests/python/transformers_bf16.py SHARED MODELS MINIMO

FP8 checkpoints are first made bf16 by `MINIMO convert --to bf16` (the golden logits are of the exact weights, so float32
on those is told too). Needs torch, transformers (5.17 or later) and safetensors; a minute on two cores.
"""
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file

shared, models, minimo = sys.argv[1:]
golden = Path(shared) / "golden"
folders = {name: Path(models) / name for name in ("nano-minimax-m2", "nano-mimo-v2-flash")}
folders |= {f.name: f for f in sorted((golden / "random").iterdir())}
for name, folder in folders.items():
    expected = load_file(str((folder if folder.parent.name == "random" else golden / name) / "golden.safetensors"))
    with tempfile.TemporaryDirectory() as plain:
        if "quantization_config" in json.loads((folder / "config.json").read_text()):
            subprocess.run([minimo, "convert", folder, Path(plain) / name, "--to", "bf16"], check=True,
                           stdout=subprocess.DEVNULL)
            folder = Path(plain) / name
        line = {"checkpoint": name, "transformers": transformers.__version__}
        for dtype in ("float32", "bfloat16"):
            try:
                model = transformers.AutoModelForCausalLM.from_pretrained(
                    folder, dtype=getattr(torch, dtype), attn_implementation="eager").eval()
            except TypeError as error:  # shapes that transformers does not load
                line["error"] = str(error)
                break
            errors = []
            for key in sorted(k for k in expected if k.endswith("input_ids")):
                want = expected[key.replace("input_ids", "logits")]
                with torch.no_grad():
                    got = model(expected[key].long()[None], use_cache=False).logits[0].float()[-len(want):]
                errors.append(round(((got - want).norm() / want.norm()).item(), 6))
            line[dtype] = errors
        print(json.dumps(line), flush=True)
