// quantization_config of checkpoints with 4-bit weights: compressed-tensors' "pack-quantized" int4 (docs/convert.md).
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

namespace minimo {

inline constexpr int64_t kW4Group = 64;  // columns that share a bf16 scale: 4.25 bits a weight

// `targets`: compressed-tensors' name of the matrices in 4 bits, "Linear" or "re:" and a regular expression. The rest
// stays as it was.
nlohmann::ordered_json W4QuantizationConfig(const std::string& targets);

// Why a quantization_config of compressed-tensors cannot be read, as faults that name the key; empty if it can. Which
// tensors are packed, and in what groups, the files themselves say.
std::vector<std::string> FaultsOfCompressedTensors(const std::string& config_text);

}  // namespace minimo
