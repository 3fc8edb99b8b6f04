#include "convert/plan.h"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "base/error.h"
#include "models/weight_binding.h"
#include "tensor/scale_blocks.h"

namespace minimo {
namespace {

using nlohmann::ordered_json;

// Which matrices a target changes; all others are copied as they are.
ConvertedTensor::Kind KindOf(const TensorSpec& t, WeightFormat have, TargetFormat target) {
  using Kind = ConvertedTensor::Kind;
  if (!t.IsMatrix() || !t.quantizable) return Kind::kCopy;
  const bool quantised = have == WeightFormat::kFp8Block || have == WeightFormat::kInt4Group;
  switch (target) {
    case TargetFormat::kBf16: return quantised || have != WeightFormat::kBf16 ? Kind::kBf16 : Kind::kCopy;
    case TargetFormat::kFp8: return have != WeightFormat::kFp8Block && t.released_fp8 ? Kind::kFp8 : Kind::kCopy;
    case TargetFormat::kW4:
      return t.expert >= 0 && have != WeightFormat::kInt4Group && t.shape[1] % kW4Group == 0 ? Kind::kInt4 : Kind::kCopy;
  }
  return Kind::kCopy;
}

std::vector<TensorDeclaration> Outputs(const TensorSpec& t, ConvertedTensor::Kind kind) {
  const int64_t rows = t.shape[0], cols = t.shape.size() > 1 ? t.shape[1] : 1;
  switch (kind) {
    case ConvertedTensor::Kind::kCopy: return {};
    case ConvertedTensor::Kind::kBf16: return {{t.name, DType::kBf16, t.shape}};
    case ConvertedTensor::Kind::kFp8:
      return {{t.name, DType::kF8E4M3, t.shape}, {ScaleName(t.name), DType::kF32, {ScaleBlocks(rows), ScaleBlocks(cols)}}};
    case ConvertedTensor::Kind::kInt4: {
      const PackedNames names = PackedNamesOf(t.name);
      return {{names.packed, DType::kI32, {rows, cols / 8}},
              {names.scale, DType::kBf16, {rows, cols / kW4Group}},
              {names.shape, DType::kI64, {2}}};
    }
  }
  return {};
}

// The checkpoint's tensors that hold one weight.
std::vector<std::string> SourceNames(const Checkpoint& checkpoint, const std::string& weight) {
  const PackedNames packed = PackedNamesOf(weight);
  std::vector<std::string> names;
  for (const std::string& name : {weight, ScaleName(weight), packed.packed, packed.scale, packed.shape}) {
    if (checkpoint.Find(name)) names.push_back(name);
  }
  return names;
}

ordered_json Int4Config(const ordered_json& source) {
  ordered_json config = {
      {"quant_method", "compressed-tensors"},
      {"format", "mixed-precision"},
      {"config_groups",
       {{"experts",
         {{"format", "pack-quantized"},
          {"targets", {"re:.*experts\\..*"}},
          {"weights",
           {{"num_bits", 4}, {"type", "int"}, {"symmetric", true}, {"strategy", "group"}, {"group_size", kW4Group}}}}}}}};
  if (source.is_object() && source.value("quant_method", "") == "fp8") config["minimo_rest"] = source;
  return config;
}

Result<std::string> NewConfig(const std::string& folder, TargetFormat target, const std::vector<std::string>& kept_bf16) {
  MINIMO_ASSIGN(const std::string text, ReadConfigText(folder));
  ordered_json config = ordered_json::parse(text, nullptr, false);
  const ordered_json source = config.value("quantization_config", ordered_json());
  switch (target) {
    case TargetFormat::kBf16: config.erase("quantization_config"); break;
    case TargetFormat::kFp8:
      config["quantization_config"] = {{"activation_scheme", "dynamic"}, {"fmt", "e4m3"}, {"quant_method", "fp8"},
                                       {"weight_block_size", {128, 128}}, {"ignored_layers", kept_bf16}};
      break;
    case TargetFormat::kW4: config["quantization_config"] = Int4Config(source); break;
  }
  config.erase("torch_dtype");
  config["dtype"] = "bfloat16";
  return config.dump(2) + "\n";
}

}  // namespace

Result<ConvertPlan> PlanConversion(const LoadedModel& model, TargetFormat target, int64_t shard_bytes) {
  const Checkpoint& checkpoint = *model.checkpoint;
  const Manifest manifest = model.family->manifest(model.spec);
  BindingFaults faults;
  WeightBinder binder(checkpoint, &faults);
  ConvertPlan plan;
  std::vector<std::string> kept_bf16;
  std::map<std::string, Weight> fused;  // V of a layer whose K has been bound, by name
  size_t changed = 0;
  for (size_t i = 0; i < manifest.size(); ++i) {
    const TensorSpec& t = manifest[i];
    ConvertedTensor out;
    out.layer = t.mtp ? -1 : t.layer;
    out.sources = SourceNames(checkpoint, t.name);
    if (t.quantizable) {
      if (t.part == TensorPart::kK && !t.mtp) {
        binder.KeyValue(t, manifest[i + 1], model.spec.layers[t.layer].attention, &out.weight, &fused[manifest[i + 1].name]);
      } else if (const auto value = fused.find(t.name); value != fused.end()) {
        out.weight = value->second;
      } else {
        out.weight = binder.Matrix(t);
      }
    }
    out.kind = KindOf(t, out.weight.view.format, target);
    for (const std::string& name : out.sources) plan.input_bytes += checkpoint.Find(name)->bytes();
    if (out.kind != ConvertedTensor::Kind::kCopy) {
      out.outputs = Outputs(t, out.kind);
      ++changed;
      plan.tensors.push_back(std::move(out));
      continue;
    }
    if (target == TargetFormat::kFp8 && t.IsMatrix() && t.quantizable && !t.released_fp8) {
      kept_bf16.push_back(t.name.substr(0, t.name.rfind(".weight")));
    }
    for (const std::string& name : out.sources) {  // a weight and its scales, as they are
      ConvertedTensor copy;
      copy.layer = out.layer;
      copy.source = *checkpoint.Find(name);
      copy.outputs = {{name, copy.source.dtype, copy.source.shape}};
      copy.sources = {name};
      plan.tensors.push_back(std::move(copy));
    }
  }
  if (!faults.empty()) return Errorf("{}: {}", checkpoint.folder(), faults.missing.empty() ? faults.wrong[0] : faults.missing[0]);
  if (changed == 0) return Errorf("{}: holds nothing to convert, it has this format already", checkpoint.folder());

  kept_bf16.push_back("lm_head");
  MINIMO_ASSIGN(plan.config, NewConfig(checkpoint.folder(), target, kept_bf16));
  size_t first = 0;
  int64_t in_shard = 0;
  for (size_t i = 0; i < plan.tensors.size(); ++i) {
    int64_t bytes = 0;
    for (const TensorDeclaration& d : plan.tensors[i].outputs) bytes += d.bytes();
    if (in_shard > 0 && in_shard + bytes > shard_bytes) {
      plan.shards.emplace_back(first, i);
      first = i;
      in_shard = 0;
    }
    in_shard += bytes;
    plan.output_bytes += bytes;
  }
  plan.shards.emplace_back(first, plan.tensors.size());
  return plan;
}

}  // namespace minimo
