#include "models/w4_config.h"

#include <nlohmann/json.hpp>

namespace minimo {

nlohmann::ordered_json W4QuantizationConfig(const std::string& targets) {
  const nlohmann::ordered_json weights = {
      {"num_bits", 4}, {"type", "int"}, {"symmetric", true}, {"strategy", "group"}, {"group_size", kW4Group}};
  const nlohmann::ordered_json group = {{"format", "pack-quantized"}, {"targets", {targets}}, {"weights", weights}};
  return {{"quant_method", "compressed-tensors"}, {"format", "mixed-precision"}, {"config_groups", {{"experts", group}}}};
}

}  // namespace minimo
