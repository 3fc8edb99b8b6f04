"""minimo reads 4-bit and FP8 block checkpoints as the compressed-tensors package writes them.

    python tests/python/check_compressed_tensors.py FOLDER [--data tests/data/compressed_tensors_int4.json]

Packs the experts of both nano models with the real package (`pip install compressed-tensors`, which brings torch: several
GB, hence no part of ./test), in symmetric groups, and compares what `minimo convert --to bf16` makes of
them with what the package unpacks, bit for bit; checkpoints with zero points, 8 bits or groups of other sizes must be
refused. So for attention and experts in FP8: blocks of 128x128 with scales in bf16 and float32 are read bit for bit,
scales of rows, whole tensors or other blocks are refused. `--data` writes the small case that src/models/loader_test.cc keeps.
"""
import argparse
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import compressed_tensors
import torch
from compressed_tensors.compressors.naive_quantized import FloatQuantizationCompressor
from compressed_tensors.compressors.pack_quantized import PackedQuantizationCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from safetensors.torch import load_file, save_file

ROOT = Path(__file__).resolve().parents[2]
EXPERT = re.compile(r"\.experts\.\d+\.(w[123]|(gate|up|down)_proj)\.weight$")
PROJECTION = re.compile(r"model\.layers\.\d+\.(self_attn\.[qkv]_proj|.*\.experts\.\d+\.[^.]+)\.weight$")
MINIMO = Path(os.environ.get("MINIMO_BUILD", ROOT / "build")) / "apps" / "minimo"


def scheme_of(bits, group, symmetric):
    weights = QuantizationArgs(num_bits=bits, type="int", symmetric=symmetric, strategy="group", group_size=group)
    return QuantizationScheme(targets=["re:.*experts.*"], weights=weights)


def pack(weight, bits, group, symmetric):
    """The tensors that take the place of `weight` [rows, cols] bf16, and what the package unpacks from them."""
    scheme = scheme_of(bits, group, symmetric)
    grouped = weight.float().unflatten(-1, (-1, group))
    low, high = grouped.amin(-1).clamp(max=0), grouped.amax(-1).clamp(min=0)
    top = 2 ** (bits - 1)
    if symmetric:
        scale, zero = torch.maximum(-low, high) / (top - 0.5), None
    else:
        scale = (high - low) / (2 * top - 1)
        zero = (-top - low / scale.clamp(min=1e-9)).round().clamp(-top, top - 1).to(torch.int8)
    state = {"weight": weight, "weight_scale": scale.clamp(min=1e-9).to(torch.bfloat16)}
    if zero is not None:
        state["weight_zero_point"] = zero
    packed = PackedQuantizationCompressor.compress(state, scheme)
    return packed, PackedQuantizationCompressor.decompress(packed, scheme)["weight"]


def float_scheme(strategy, block):
    weights = QuantizationArgs(num_bits=8, type="float", symmetric=True, strategy=strategy, block_structure=block)
    return QuantizationScheme(targets=["Linear"], weights=weights)


def pack_float(weight, scheme, dtype):
    """FP8 codes and their scales, and what the package makes of them."""
    rows, cols = weight.shape
    height, width = {"tensor": (rows, cols), "channel": (1, cols)}.get(scheme.weights.strategy,
                                                                      scheme.weights.block_structure)
    down, across = -(-rows // height), -(-cols // width)
    padded = torch.zeros(down * height, across * width)
    padded[:rows, :cols] = weight.float()
    scale = padded.view(down, height, across, width).abs().amax((1, 3)).clamp(min=1e-6) / 448
    scale = scale.to(dtype).view(1) if scheme.weights.strategy == "tensor" else scale.to(dtype)
    packed = FloatQuantizationCompressor.compress({"weight": weight, "weight_scale": scale}, scheme)
    return packed, FloatQuantizationCompressor.decompress(packed, scheme)["weight"].to(torch.bfloat16)


def make(source, folder, scheme, name_format, names, pack_one):
    """A checkpoint with packed matrices; the unpacked weights by name."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(source, folder)
    tensors = {}
    for path in sorted(folder.glob("*.safetensors")):
        tensors |= load_file(path)
        path.unlink()
    unpacked = {}
    for name in [n for n in tensors if names.search(n)]:
        packed, unpacked[name] = pack_one(tensors.pop(name))
        tensors |= {name.removesuffix("weight") + key: value.contiguous() for key, value in packed.items()}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    (folder / "model.safetensors.index.json").unlink(missing_ok=True)
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {
        "quant_method": "compressed-tensors", "format": name_format, "quantization_status": "compressed",
        "config_groups": {"group_0": scheme.model_dump(mode="json")},
        "ignore": ["lm_head"], "kv_cache_scheme": None}
    (folder / "config.json").write_text(json.dumps(config))
    return unpacked


def make_int4(source, folder, bits, group, symmetric):
    return make(source, folder, scheme_of(bits, group, symmetric), "pack-quantized", EXPERT,
                lambda weight: pack(weight, bits, group, symmetric))


def make_fp8(source, folder, strategy, block, dtype):
    scheme = float_scheme(strategy, block)
    return make(source, folder, scheme, "float-quantized", PROJECTION, lambda weight: pack_float(weight, scheme, dtype))


def run(*arguments):
    return subprocess.run([MINIMO, *map(str, arguments)], capture_output=True, text=True)


def check(nano, folder):
    plain = folder / f"{nano}-bf16"
    shutil.rmtree(plain, ignore_errors=True)
    assert run("convert", ROOT / "models" / nano, plain, "--to", "bf16", "--released-keys").returncode == 0
    (plain / "minimo-convert.json").unlink()
    packed, out = folder / "packed", folder / "unpacked"

    def is_read(what, wanted):
        shutil.rmtree(out, ignore_errors=True)
        done = run("convert", packed, out, "--to", "bf16")
        assert done.returncode == 0, done.stderr
        found = {}
        for path in out.glob("*.safetensors"):
            found |= load_file(path)
        different = sum(not torch.equal(found[name], value) for name, value in wanted.items())
        print(f"{nano}, {what}: {len(wanted)} matrices of compressed-tensors {compressed_tensors.__version__}, "
              f"{different} differ")
        assert wanted and different == 0

    def is_refused(says):
        done = run("inspect", packed)
        assert done.returncode == 1 and says in done.stderr and done.stderr.count("\n") == 1, done.stderr
        print(f"{nano}: {done.stderr.strip().split(': ', 2)[-1][:200]}")

    for group in (32, 64):  # the nano models' experts have 128 and 192 columns; --data has groups of 128
        is_read(f"int4, group {group}", make_int4(plain, packed, 4, group, True))
    for bits, group, symmetric, says in [(4, 32, False, "symmetric"), (8, 32, True, "num_bits is 8"),
                                         (4, 16, True, "group_size is 16")]:
        make_int4(plain, packed, bits, group, symmetric)
        is_refused(says)
    for dtype in (torch.bfloat16, torch.float32):
        is_read(f"fp8 blocks, {dtype} scales", make_fp8(plain, packed, "block", [128, 128], dtype))
    for strategy, block, says in [("channel", None, 'strategy is "channel"'), ("tensor", None, 'strategy is "tensor"'),
                                  ("block", [64, 128], "block_structure is [64,128]")]:
        make_fp8(plain, packed, strategy, block, torch.float32)
        is_refused(says)


def bits_of(tensor):
    return tensor.contiguous().view(torch.int16).flatten().tolist()


def data(path):
    torch.manual_seed(3)
    cases = []
    for group in (32, 128):
        weight = torch.randn(3, 256).to(torch.bfloat16)
        packed, unpacked = pack(weight, 4, group, True)
        cases.append({"group": group, "rows": 3, "cols": 256, "packed": packed["weight_packed"].flatten().tolist(),
                      "scale_bits": bits_of(packed["weight_scale"]), "unpacked_bits": bits_of(unpacked)})
    path.write_text(json.dumps({"compressed_tensors": compressed_tensors.__version__, "cases": cases}) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", type=Path)
    flags = parser.parse_args()
    flags.folder.mkdir(parents=True, exist_ok=True)
    if flags.data:
        data(flags.data)
    for model in ("nano-minimax-m2", "nano-mimo-v2-flash"):
        check(model, flags.folder)
