#include "convert/plan.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "convert/copy_parts.h"
#include "models/shard.h"
#include "models/tensor_share.h"
#include "models/w4_config.h"
#include "models/weight_binding.h"
#include "tensor/scale_blocks.h"

namespace minimo {
namespace {

using nlohmann::ordered_json;

// Which matrices a target changes; all others are copied as they are.
ConvertedTensor::Kind KindOf(const TensorSpec& t, WeightFormat have, TargetFormat target) {
  using Kind = ConvertedTensor::Kind;
  if (!t.IsMatrix() || !t.quantizable) return Kind::kCopy;
  switch (target) {
    case TargetFormat::kAsIs: return Kind::kCopy;
    case TargetFormat::kBf16: return have != WeightFormat::kBf16 ? Kind::kBf16 : Kind::kCopy;
    case TargetFormat::kFp8: return have != WeightFormat::kFp8Block && t.released_fp8 ? Kind::kFp8 : Kind::kCopy;
    case TargetFormat::kW4:
      return t.expert >= 0 && have != WeightFormat::kInt4Group && t.shape[1] % kW4Group == 0 ? Kind::kInt4
                                                                                             : Kind::kCopy;
  }
  return Kind::kCopy;
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
  ordered_json config = W4QuantizationConfig("re:.*experts\\..*");
  if (source.is_object() && source.value("quant_method", "") == "fp8") config["minimo_rest"] = source;
  return config;
}

// Names under which transformers keeps what differs from layer to layer; it reads none of the released ones. Since some
// version after 5.17 it takes sliding_window_size for a window that leaves the token itself out, 129 keys instead of
// 128, so that key goes; `sliding_window` stays. vLLM and mlx-lm want it, as released: ConvertRequest::released_keys.
void AddLayerTypes(const ModelSpec& spec, ordered_json* config) {
  ordered_json layers = ordered_json::array(), mlps = ordered_json::array();
  ordered_json rope = ordered_json::object();
  bool slides = false;
  for (const LayerSpec& layer : spec.layers) {
    const bool sliding = layer.attention.window > 0;
    const char* type = sliding ? "sliding_attention" : "full_attention";
    slides |= sliding;
    layers.push_back(type);
    mlps.push_back(layer.moe ? "sparse" : "dense");
    rope[type] = {{"rope_type", "default"}, {"rope_theta", layer.attention.rope_theta},
                  {"partial_rotary_factor", config->value("partial_rotary_factor", 1.0)}};
  }
  if (!slides) return;
  (*config)["layer_types"] = layers;
  (*config)["mlp_layer_types"] = mlps;
  (*config)["rope_parameters"] = rope;
  (*config)["rms_norm_eps"] = spec.norm_eps;
  config->erase("sliding_window_size");
  if (config->contains("rope_scaling") && (*config)["rope_scaling"].is_null()) {
    config->erase("rope_scaling");  // transformers takes it for rope_parameters
  }
}

Result<std::string> NewConfig(const LoadedModel& model, const ConvertRequest& request,
                              const std::vector<std::string>& kept_bf16) {
  const TargetFormat target = request.target;
  MINIMO_ASSIGN(const std::string text, ReadConfigText(model.folder));
  if (target == TargetFormat::kAsIs) return text;
  ordered_json config = ordered_json::parse(text, nullptr, false);
  const ordered_json source = config.value("quantization_config", ordered_json());
  switch (target) {
    case TargetFormat::kAsIs: break;
    case TargetFormat::kBf16:
      config.erase("quantization_config");
      if (!request.released_keys) AddLayerTypes(model.spec, &config);
      break;
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

// A tensor of the manifest as the checkpoint holds it, and what becomes of it.
struct Source {
  const TensorSpec* spec;
  Weight weight;  // if quantizable
  ConvertedTensor::Kind kind = ConvertedTensor::Kind::kCopy;
};

Result<std::vector<Source>> BindSources(const LoadedModel& model, const Manifest& manifest, TargetFormat target) {
  BindingFaults faults;
  WeightBinder binder(*model.checkpoint, &faults);
  std::vector<Source> sources;
  Weight value;  // V of the layer whose K has just been bound
  for (size_t i = 0; i < manifest.size(); ++i) {
    const TensorSpec& t = manifest[i];
    Source source{&t, {}};
    if (t.part == TensorPart::kK && !t.mtp) {
      binder.KeyValue(t, manifest[i + 1], model.spec.layers[t.layer].attention, &source.weight, &value);
    } else if (t.part == TensorPart::kV && !t.mtp) {
      source.weight = std::move(value);
    } else if (t.quantizable) {
      source.weight = binder.Matrix(t);
    }
    source.kind = KindOf(t, source.weight.view.format, target);
    sources.push_back(std::move(source));
  }
  MINIMO_TRY(faults.AsStatus(model.checkpoint->folder()));
  return sources;
}

int64_t RowGrainOf(const std::vector<Source>& sources) {
  int64_t grain = 1;
  for (const Source& s : sources) {
    if (s.spec->part != TensorPart::kExpertDown) continue;
    const bool packed = s.kind == ConvertedTensor::Kind::kInt4;
    grain = std::max(grain, packed ? kW4Group : int64_t{s.weight.view.group_size});
  }
  return grain;
}

Result<ShardLayout> PlanLayout(const LoadedModel& model, const ConvertRequest& request, int64_t row_grain) {
  const int ranks = request.tensor_parallel_size, experts = request.expert_parallel_size;
  if (ranks == 1) {
    return Errorf("--tensor-parallel-size is 1: one rank loads the checkpoint as it is, expected 2 or more");
  }
  if (experts > 0 && ranks % experts != 0) {
    return Errorf(
        "--expert-parallel-size {} does not divide the {} ranks; each share of the experts needs as many ranks",
        experts, ranks);
  }
  if (experts > model.spec.moe.experts) {
    return Errorf("--expert-parallel-size is {}, there are only {} experts to share", experts, model.spec.moe.experts);
  }
  ParallelFlags flags;
  flags.tensor_parallel_size = ranks;
  if (experts > 0) flags.moe_decode = fmt::format("{}x{}", ranks / experts, experts);
  MINIMO_ASSIGN(const ParallelPlan plan, PlanRanks(model.spec, flags, 1));
  return ShardLayout{ranks, plan.decode, row_grain, model.spec.mtp_layers, fmt::format("{:016x}", Fingerprint(model))};
}

using Part = ConvertedTensor::Part;

// What each rank has of a tensor; all of it where there are none.
std::vector<Part> PartsOf(const TensorSpec& t, const ModelSpec& spec, const std::optional<ShardLayout>& layout) {
  if (!layout) return {{0, {0, t.shape[0]}, {0, t.IsMatrix() ? t.shape[1] : 1}}};
  std::vector<Part> parts;
  for (int rank = 0; rank < layout->ranks; ++rank) {
    const TensorShare share = ShareTensor(t, spec, layout->ranks, layout->experts, rank, layout->row_grain);
    if (!share.empty()) parts.push_back({rank, share.rows, share.cols});
  }
  return parts;
}

// Encoding half a block would give it a scale of its own.
bool CutsBlocks(const Part& part, const TensorSpec& whole) {
  const auto cut = [](const Range& range, int64_t size) {
    return range.begin % kScaleBlock != 0 || (range.end() % kScaleBlock != 0 && range.end() != size);
  };
  return cut(part.rows, whole.shape[0]) || cut(part.cols, whole.shape[1]);
}

Status AddTensor(const LoadedModel& model, const Source& source, ConvertPlan* plan) {
  const Checkpoint& checkpoint = *model.checkpoint;
  const TensorSpec& t = *source.spec;
  std::vector<Part> parts = PartsOf(t, model.spec, plan->layout);
  std::vector<ConvertedTensor> made;
  if (source.kind != ConvertedTensor::Kind::kCopy) {
    const auto cuts = [&](const Part& part) { return CutsBlocks(part, t); };
    if (source.kind == ConvertedTensor::Kind::kFp8 && std::any_of(parts.begin(), parts.end(), cuts)) {
      return Errorf("{}: {} ranks cut its 128x128 blocks; convert to fp8 first, then share the result among the ranks",
                    t.name, plan->ranks());
    }
    ConvertedTensor out;
    out.kind = source.kind;
    out.source = {t.name, DType::kF32, t.shape};
    out.weight = source.weight;
    out.parts = std::move(parts);
    made.push_back(std::move(out));
  } else if (plan->layout) {
    made = CopyParts(checkpoint, t, source.weight, std::move(parts));
  } else {
    for (const std::string& name : SourceNames(checkpoint, t.name)) {
      made.push_back(CopyWhole(name, *checkpoint.Find(name)));
    }
  }
  for (ConvertedTensor& tensor : made) {
    tensor.layer = t.mtp ? -1 : t.layer;
    plan->tensors.push_back(std::move(tensor));
  }
  return {};
}

int64_t OutputBytes(const ConvertedTensor& tensor) {
  int64_t bytes = 0;
  for (const Part& part : tensor.parts) {
    for (const TensorDeclaration& d : tensor.Outputs(part)) bytes += d.bytes();
  }
  return bytes;
}

void CutIntoGroups(int64_t group_bytes, ConvertPlan* plan) {
  std::vector<bool> has(static_cast<size_t>(plan->ranks()));
  size_t first = 0;
  int64_t in_group = 0;
  const auto cut = [&](size_t last) {
    plan->groups.push_back({first, last, {}, in_group});
    for (size_t rank = 0; rank < has.size(); ++rank) {
      if (has[rank]) plan->groups.back().ranks.push_back(static_cast<int>(rank));
    }
    has.assign(has.size(), false);
    plan->output_bytes += in_group;
    first = last;
    in_group = 0;
  };
  for (size_t i = 0; i < plan->tensors.size(); ++i) {
    const int64_t bytes = OutputBytes(plan->tensors[i]);
    if (in_group > 0 && in_group + bytes > group_bytes) cut(i);
    in_group += bytes;
    for (const Part& part : plan->tensors[i].parts) has[static_cast<size_t>(part.rank)] = true;
  }
  cut(plan->tensors.size());
}

}  // namespace

std::vector<TensorDeclaration> ConvertedTensor::Outputs(const Part& part) const {
  const std::string& name = source.name;
  const int64_t rows = part.rows.count, cols = part.cols.count;
  switch (kind) {
    case Kind::kCopy: break;
    case Kind::kBf16: return {{name, DType::kBf16, {rows, cols}}};
    case Kind::kFp8:
      return {{name, DType::kF8E4M3, {rows, cols}},
              {ScaleName(name), DType::kF32, {ScaleBlocks(rows), ScaleBlocks(cols)}}};
    case Kind::kInt4: {
      const PackedNames names = PackedNamesOf(name);
      return {{names.packed, DType::kI32, {rows, cols / 8}},
              {names.scale, DType::kBf16, {rows, cols / kW4Group}},
              {names.shape, DType::kI64, {2}}};
    }
  }
  TensorDeclaration copy = source;
  if (!copy.shape.empty()) copy.shape[0] = rows;
  if (copy.shape.size() == 2) copy.shape[1] = cols;
  return {std::move(copy)};
}

Result<ConvertPlan> PlanConversion(const LoadedModel& model, const ConvertRequest& request, int64_t group_bytes) {
  const Checkpoint& checkpoint = *model.checkpoint;
  const Manifest manifest = model.family->manifest(model.spec);
  MINIMO_ASSIGN(const std::vector<Source> sources, BindSources(model, manifest, request.target));
  ConvertPlan plan;
  if (request.tensor_parallel_size > 0) {
    MINIMO_ASSIGN(plan.layout, PlanLayout(model, request, RowGrainOf(sources)));
  }
  size_t changed = 0;
  std::vector<std::string> kept_bf16;
  for (const Source& source : sources) {
    const TensorSpec& t = *source.spec;
    changed += source.kind != ConvertedTensor::Kind::kCopy;
    if (t.IsMatrix() && t.quantizable && !t.released_fp8) {
      kept_bf16.push_back(t.name.substr(0, t.name.rfind(".weight")));
    }
    for (const std::string& name : SourceNames(checkpoint, t.name)) plan.input_bytes += checkpoint.Find(name)->bytes();
    MINIMO_TRY(AddTensor(model, source, &plan));
  }
  if (changed == 0 && request.target != TargetFormat::kAsIs) {
    return Errorf("{}: holds nothing to convert, it has this format already", checkpoint.folder());
  }
  MINIMO_ASSIGN(plan.config, NewConfig(model, request, kept_bf16));
  CutIntoGroups(group_bytes, &plan);
  return plan;
}

}  // namespace minimo
