#include "models/w4_config.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

namespace minimo {
namespace {

// The weights of one config group: integers as minimo reads them, or FP8 in the released blocks.
void CheckWeights(const nlohmann::json& w, const std::string& where, std::vector<std::string>* faults) {
  if (!w.is_object()) return;
  const auto expect = [&](const char* key, const nlohmann::json& fallback, const nlohmann::json& wanted,
                          const char* words) {
    const nlohmann::json found = w.contains(key) && !w[key].is_null() ? w[key] : fallback;
    if (found != wanted) {
      faults->push_back(fmt::format("{}.{} is {}, minimo reads {}", where, key, found.dump(), words));
    }
  };
  if (w.contains("type") && w["type"] == "float") {
    expect("num_bits", 8, 8, "8 (e4m3 in 128x128 blocks) or 4-bit integers");
    expect("strategy", "block", "block", "\"block\"");
    expect("block_structure", nullptr, nlohmann::json({128, 128}), "[128,128]");
    return;
  }
  expect("num_bits", 8, 4, "4");
  expect("symmetric", true, true, "symmetric weights alone: no zero points");
  expect("strategy", "group", "group", "\"group\"");
  const nlohmann::json group = w.value("group_size", nlohmann::json());
  if (group != 32 && group != 64 && group != 128) {
    faults->push_back(fmt::format("{}.group_size is {}, minimo reads 32, 64 or 128", where, group.dump()));
  }
  const nlohmann::json order = w.value("actorder", nlohmann::json());
  if (order == "group" || order == "dynamic" || order == true) {
    faults->push_back(
        fmt::format("{}.actorder is {}, minimo reads groups of neighbouring columns", where, order.dump()));
  }
}

}  // namespace

nlohmann::ordered_json W4QuantizationConfig(const std::string& targets) {
  const nlohmann::ordered_json weights = {
      {"num_bits", 4}, {"type", "int"}, {"symmetric", true}, {"strategy", "group"}, {"group_size", kW4Group}};
  const nlohmann::ordered_json group = {{"format", "pack-quantized"}, {"targets", {targets}}, {"weights", weights}};
  return {
      {"quant_method", "compressed-tensors"}, {"format", "mixed-precision"}, {"config_groups", {{"experts", group}}}};
}

std::vector<std::string> FaultsOfCompressedTensors(const std::string& config_text) {
  const nlohmann::json config = nlohmann::json::parse(config_text, nullptr, false);
  if (!config.is_object() || !config.contains("quantization_config")) return {};
  const nlohmann::json& quant = config["quantization_config"];
  std::vector<std::string> faults;
  const nlohmann::json format = quant.value("format", nlohmann::json());
  if (format != "pack-quantized" && format != "mixed-precision" && format != "float-quantized") {
    faults.push_back(
        fmt::format("quantization_config.format is {}, minimo reads \"pack-quantized\", \"float-quantized\" "
                    "and both mixed",
                    format.dump()));
  }
  const nlohmann::json groups = quant.value("config_groups", nlohmann::json::object());
  if (!groups.is_object()) return faults;
  for (const auto& [name, group] : groups.items()) {
    if (!group.is_object() || !group.contains("weights")) continue;
    CheckWeights(group["weights"], fmt::format("quantization_config.config_groups.{}.weights", name), &faults);
  }
  return faults;
}

}  // namespace minimo
