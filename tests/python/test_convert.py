"""minimo convert: what others read in its output, and file sets of ranks over processes."""
import array
import json
import struct
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from test_cli import MINIMO, NANOS, ROOT, fails, minimo  # noqa: E402


def header(path):
    with open(path, "rb") as file:
        return json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))


def floats(path):
    data = path.read_bytes()
    return array.array("f", data[8 + struct.unpack("<Q", data[:8])[0]:])


def tensors(folder):
    found = {}
    for path in folder.glob("*.safetensors"):
        found |= {k: (v["dtype"], v["shape"]) for k, v in header(path).items() if k != "__metadata__"}
    return found


@pytest.mark.parametrize("nano", NANOS)
def test_bf16_is_a_plain_checkpoint(nano, tmp_path):
    source = ROOT / "models" / nano
    assert minimo("convert", source, tmp_path / "out", "--to", "bf16").returncode == 0
    was, now = tensors(source), tensors(tmp_path / "out")
    assert set(now) == {name for name in was if not name.endswith("_scale_inv")}
    for name, (dtype, shape) in now.items():
        assert shape == was[name][1]
        assert dtype == ("BF16" if was[name][0] == "F8_E4M3" else was[name][0])
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert "quantization_config" not in config and config["dtype"] == "bfloat16"
    if "hybrid_layer_pattern" in config:  # transformers reads these instead
        pattern = ["sliding_attention" if p else "full_attention" for p in config["hybrid_layer_pattern"]]
        assert config["layer_types"] == pattern
        assert config["rope_parameters"]["full_attention"]["rope_theta"] == config["rope_theta"]
        assert config["rope_parameters"]["sliding_attention"]["rope_theta"] == config["swa_rope_theta"]
        assert "rope_scaling" not in config  # null there would hide rope_parameters from transformers
        assert "sliding_window_size" not in config  # transformers reads it as the window less the token itself
        released = json.loads((source / "config.json").read_text())
        assert config["sliding_window"] == released["sliding_window"]
        assert minimo("convert", source, tmp_path / "released", "--to", "bf16", "--released-keys").returncode == 0
        kept = json.loads((tmp_path / "released" / "config.json").read_text())
        dropped = {"quantization_config", "torch_dtype"}
        assert kept == {k: v for k, v in released.items() if k not in dropped} | {"dtype": "bfloat16"}
    ids = ["--ids", "5,6,7,8,300,301,302", "--out"]
    assert minimo("logits", tmp_path / "out", *ids, tmp_path / "a.safetensors").stderr == ""


def test_eval_text_is_reported_and_kept(tmp_path):
    (tmp_path / "text.txt").write_text("The capital of France is Paris. " * 8)
    done = minimo("convert", ROOT / "models" / NANOS[0], tmp_path / "out", "--to", "w4", "--eval-text", tmp_path / "text.txt")
    assert done.returncode == 0, done.stderr
    assert "KL divergence" in done.stdout
    kept = json.loads((tmp_path / "out" / "minimo-convert.json").read_text())
    assert 0 < kept["text"]["kl_divergence"] < 1
    assert len(kept["relative_error"]) == 5


@pytest.mark.parametrize("nano", NANOS)
def test_file_sets_over_processes(nano, tmp_path):
    source, out = ROOT / "models" / nano, tmp_path / "out"
    assert minimo("convert", source, out, "--tensor-parallel-size", 3).returncode == 0
    ids = ["--ids", "5,6,7,8,300,301,302", "--out"]
    assert minimo("logits", source, "--tensor-parallel-size", 3, *ids, tmp_path / "sliced.safetensors").returncode == 0
    assert minimo("logits", out, *ids, tmp_path / "threads.safetensors").returncode == 0
    sliced = (tmp_path / "sliced.safetensors").read_bytes()
    assert (tmp_path / "threads.safetensors").read_bytes() == sliced
    launched = minimo("launch", "-n", 3, "--", "logits", out, *ids, tmp_path / "mpi.safetensors", timeout=120)
    if "mpirun cannot be run" in launched.stderr:
        pytest.skip("no mpirun here")
    assert launched.returncode == 0, launched.stderr
    over_mpi, over_threads = floats(tmp_path / "mpi.safetensors"), floats(tmp_path / "sliced.safetensors")
    assert len(over_mpi) == len(over_threads)
    assert max(abs(a - b) for a, b in zip(over_mpi, over_threads)) < 1e-4  # sums in another order
    fails("logits", out, "--tensor-parallel-size", 2, *ids, tmp_path / "x", says="holds the files of 3 ranks, asked for 2")
