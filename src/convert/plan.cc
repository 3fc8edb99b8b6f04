#include "convert/plan.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "convert/rank_copy.h"
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
  ordered_json config = W4QuantizationConfig("re:.*experts\\..*");
  if (source.is_object() && source.value("quant_method", "") == "fp8") config["minimo_rest"] = source;
  return config;
}

// Names under which transformers keeps what differs from layer to layer; it reads none of the released ones. Since some
// version after 5.17 it takes sliding_window_size for a window that leaves the token itself out, 129 keys instead of 128,
// so that key goes; `sliding_window` stays. vLLM and mlx-lm want it, as released: ConvertRequest::released_keys.
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
  if (ranks == 1) return Errorf("--tensor-parallel-size is 1: one rank loads the checkpoint as it is, expected 2 or more");
  if (experts > 0 && ranks % experts != 0) {
    return Errorf("--expert-parallel-size {} does not divide the {} ranks; each share of the experts needs as many ranks",
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

// Encoding half a block would give it a scale of its own.
bool CutsBlocks(const TensorSpec& part, const TensorSpec& whole) {
  const auto cut = [](int64_t first, int64_t count, int64_t size) {
    return first % kScaleBlock != 0 || ((first + count) % kScaleBlock != 0 && first + count != size);
  };
  return cut(part.first_row, part.shape[0], whole.shape[0]) || cut(part.first_col, part.shape[1], whole.shape[1]);
}

Status AddPart(const Checkpoint& checkpoint, const Source& source, const TensorSpec& part, int rank, ConvertPlan* plan) {
  std::vector<ConvertedTensor> made;
  if (source.kind != ConvertedTensor::Kind::kCopy) {
    if (source.kind == ConvertedTensor::Kind::kFp8 && CutsBlocks(part, *source.spec)) {
      return Errorf("{}: {} ranks cut its 128x128 blocks; convert to fp8 first, then share the result among the ranks",
                    part.name, plan->ranks());
    }
    ConvertedTensor out;
    out.kind = source.kind;
    out.weight = source.weight;
    out.weight.view = source.weight.view.SliceRows(part.first_row, part.shape[0]).SliceCols(part.first_col, part.shape[1]);
    out.outputs = Outputs(part, source.kind);
    made.push_back(std::move(out));
  } else if (plan->layout) {
    made = CopyPart(checkpoint, part, source.weight);
  } else {
    for (const std::string& name : SourceNames(checkpoint, part.name)) made.push_back(CopyWhole(name, *checkpoint.Find(name)));
  }
  for (ConvertedTensor& tensor : made) {
    tensor.layer = part.mtp ? -1 : part.layer;
    tensor.rank = rank;
    plan->tensors.push_back(std::move(tensor));
  }
  return {};
}

void CutIntoGroups(int64_t group_bytes, ConvertPlan* plan) {
  size_t first = 0;
  int64_t in_group = 0;
  for (size_t i = 0; i < plan->tensors.size(); ++i) {
    int64_t bytes = 0;
    for (const TensorDeclaration& d : plan->tensors[i].outputs) bytes += d.bytes();
    if (in_group > 0 && in_group + bytes > group_bytes) {
      plan->groups.emplace_back(first, i);
      first = i;
      in_group = 0;
    }
    in_group += bytes;
    plan->output_bytes += bytes;
  }
  plan->groups.emplace_back(first, plan->tensors.size());
}

}  // namespace

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
    if (t.IsMatrix() && t.quantizable && !t.released_fp8) kept_bf16.push_back(t.name.substr(0, t.name.rfind(".weight")));
    for (const std::string& name : SourceNames(checkpoint, t.name)) plan.input_bytes += checkpoint.Find(name)->bytes();
    for (int rank = 0; rank < plan.ranks(); ++rank) {
      const Manifest part = plan.layout ? RankManifest({t}, model.spec, plan.ranks(), plan.layout->experts, rank,
                                                       plan.layout->row_grain)
                                        : Manifest{t};
      if (!part.empty()) MINIMO_TRY(AddPart(checkpoint, source, part.front(), rank, &plan));
    }
  }
  if (changed == 0 && request.target != TargetFormat::kAsIs) {
    return Errorf("{}: holds nothing to convert, it has this format already", checkpoint.folder());
  }
  MINIMO_ASSIGN(plan.config, NewConfig(model, request, kept_bf16));
  CutIntoGroups(group_bytes, &plan);
  return plan;
}

}  // namespace minimo
