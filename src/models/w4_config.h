// quantization_config of a checkpoint with 4-bit weights: compressed-tensors' "pack-quantized" int4 (docs/convert.md).
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>

namespace minimo {

inline constexpr int64_t kW4Group = 64;  // columns that share a bf16 scale: 4.25 bits a weight

// `targets`: compressed-tensors' name of the matrices in 4 bits, "Linear" or "re:" and a regular expression. The rest stays
// as it was.
nlohmann::ordered_json W4QuantizationConfig(const std::string& targets);

}  // namespace minimo
