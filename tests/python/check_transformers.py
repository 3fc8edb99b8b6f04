"""What `minimo convert --to bf16` writes loads in Hugging Face transformers and gives minimo's logits.

    .venv/bin/python tests/python/check_transformers.py prepare FOLDER     # convert the nano models, ask minimo
    python tests/python/check_transformers.py check FOLDER                 # ask transformers, compare

`check` needs `pip install torch transformers` (5.17 has both models; several GB, hence no part of ./test, whose
test_convert.py checks names, shapes and dtypes); it may run on another machine than `prepare`.
"""
import json
import os
import subprocess
import sys
from pathlib import Path

NANOS = ["nano-minimax-m2", "nano-mimo-v2-flash"]
BOUND = 5e-4  # largest absolute difference of float32 logits, as for the golden files
IDS = [(i * 37 + 11) % 2000 for i in range(96)]


def prepare(folder):
    root = Path(__file__).resolve().parents[2]
    minimo = Path(os.environ.get("MINIMO_BUILD", root / "build")) / "apps" / "minimo"
    (folder / "ids.json").write_text(json.dumps(IDS))
    for nano in NANOS:
        subprocess.run([minimo, "convert", root / "models" / nano, folder / nano, "--to", "bf16"], check=True)
        subprocess.run([minimo, "logits", folder / nano, "--ids-file", folder / "ids.json", "--dtype", "f32", "--out",
                        folder / f"{nano}.logits.safetensors"], check=True)


def check(folder):
    import torch
    import transformers
    from safetensors.torch import load_file

    worst = 0.0
    for nano in NANOS:
        model, info = transformers.AutoModelForCausalLM.from_pretrained(
            folder / nano, dtype=torch.float32, output_loading_info=True)
        missing = sorted(info["missing_keys"])
        unexpected = sorted(k for k in info["unexpected_keys"] if ".mtp." not in k)  # transformers has no MTP layers
        with torch.no_grad():
            theirs = model(torch.tensor([IDS])).logits[0]
        ours = load_file(folder / f"{nano}.logits.safetensors")["logits"]
        difference = (theirs - ours).abs().max().item()
        same = (theirs.argmax(-1) == ours.argmax(-1)).float().mean().item()
        print(f"{nano}: transformers {transformers.__version__}, {type(model).__name__}, missing {missing}, unexpected "
              f"{unexpected}, logits differ by {difference:.2e}, same choice at {same:.1%} of {len(IDS)} positions")
        assert not missing and not unexpected
        worst = max(worst, difference)
    assert worst <= BOUND, f"{worst} is more than {BOUND}"


if __name__ == "__main__":
    what, where = sys.argv[1], Path(sys.argv[2])
    where.mkdir(parents=True, exist_ok=True)
    {"prepare": prepare, "check": check}[what](where)
