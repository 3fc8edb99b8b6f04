#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "bench/floor.h"
#include "checkpoint/checkpoint.h"
#include "models/loader.h"
#include "models/model.h"

namespace minimo::bench {
namespace {

namespace fs = std::filesystem;

// What config.json alone says.
WeightBits BitsOfConfig(const std::string& config_text) {
  const auto config = nlohmann::json::parse(config_text, nullptr, false);
  const auto quant = config.find("quantization_config");
  if (quant == config.end() || !quant->is_object()) return UniformBits("bf16", 16);
  bool output_is_bf16 = false;
  const auto ignored = quant->find("ignored_layers");
  if (ignored != quant->end() && ignored->is_array()) {
    for (const auto& name : *ignored) {
      output_is_bf16 = output_is_bf16 || (name.is_string() && name.get<std::string>().find("o_proj") != std::string::npos);
    }
  }
  return Fp8Bits(output_is_bf16);
}

// What the files hold, averaged over the tensors of each kind.
WeightBits BitsOfFiles(const Manifest& manifest, const Checkpoint& checkpoint, WeightBits bits) {
  struct Sum {
    double bytes = 0;
    double elements = 0;
  } qkv, output, dense, experts, router, head;
  for (const TensorSpec& t : manifest) {
    Sum* sum = nullptr;
    switch (t.part) {
      case TensorPart::kQ:
      case TensorPart::kK:
      case TensorPart::kV: sum = &qkv; break;
      case TensorPart::kO: sum = &output; break;
      case TensorPart::kGate:
      case TensorPart::kUp:
      case TensorPart::kDown: sum = &dense; break;
      case TensorPart::kExpertGate:
      case TensorPart::kExpertUp:
      case TensorPart::kExpertDown: sum = &experts; break;
      case TensorPart::kRouter: sum = &router; break;
      case TensorPart::kLmHead: sum = &head; break;
      default: break;
    }
    const TensorView* view = checkpoint.Find(t.name);
    if (sum == nullptr || view == nullptr || t.mtp) continue;
    const TensorView* scale = t.quantizable ? checkpoint.Find(ScaleName(t.name)) : nullptr;
    sum->bytes += static_cast<double>(view->bytes() + (scale != nullptr ? scale->bytes() : 0));
    sum->elements += static_cast<double>(NumElements(view->shape));
  }
  const auto set = [](const Sum& sum, double* out) {
    if (sum.elements > 0) *out = 8 * sum.bytes / sum.elements;
  };
  set(qkv, &bits.qkv);
  set(output, &bits.output);
  set(dense, &bits.dense);
  set(experts, &bits.experts);
  set(router, &bits.router);
  set(head, &bits.head);
  if (experts.elements > 0) bits.name = bits.experts < 12 ? "fp8" : bits.experts < 20 ? "bf16" : "f32";
  return bits;
}

bool HasWeights(const std::string& folder) {
  std::error_code ignored;
  return fs::exists(fs::path(folder) / "model.safetensors.index.json", ignored) ||
         fs::exists(fs::path(folder) / "model.safetensors", ignored);
}

}  // namespace

Result<ModelFacts> ReadModelFacts(const std::string& model, const std::string& quantization, int num_layers) {
  MINIMO_ASSIGN(const std::string folder, ResolveModelFolder(model));
  MINIMO_ASSIGN(const std::string text, ReadConfigText(folder));
  MINIMO_ASSIGN(const ModelConfig config, ParseModelConfig(text, (fs::path(folder) / "config.json").string()));
  ModelFacts facts{fs::path(folder).filename().string(), config.spec, BitsOfConfig(text)};
  if (HasWeights(folder)) {
    MINIMO_ASSIGN(const Checkpoint checkpoint, Checkpoint::Open(folder));
    facts.bits = BitsOfFiles(config.family->manifest(config.spec), checkpoint, facts.bits);
  }
  if (quantization == "fp8") {
    facts.bits = Fp8Bits(facts.bits.output > 12);
  } else if (quantization == "w4") {
    facts.bits = W4Bits();
  } else if (quantization == "bf16") {
    facts.bits = UniformBits("bf16", 16);
  } else if (quantization == "f32") {
    facts.bits = UniformBits("f32", 32);
  } else if (!quantization.empty() && quantization != "none" && quantization != "auto") {
    return Errorf("number format {}: expected none, fp8, w4, bf16 or f32", quantization);
  }
  if (num_layers > 0 && num_layers < facts.spec.num_layers()) {
    facts.spec.layers.resize(static_cast<size_t>(num_layers));
  }
  return facts;
}

nlohmann::json ToJson(const ModelFacts& facts) {
  const ModelSpec& s = facts.spec;
  int sliding = 0, dense = 0;
  for (const LayerSpec& layer : s.layers) {
    sliding += layer.attention.window > 0 ? 1 : 0;
    dense += layer.moe ? 0 : 1;
  }
  nlohmann::json json = {{"name", facts.name},       {"type", s.model_type},      {"hidden", s.hidden},
                         {"layers", s.num_layers()}, {"sliding_layers", sliding}, {"dense_layers", dense},
                         {"vocab", s.vocab},         {"experts", s.moe.experts},  {"top_k", s.moe.top_k},
                         {"expert_width", s.moe.intermediate}};
  if (!s.layers.empty()) {
    const AttentionSpec& a = s.layers[0].attention;
    json["heads"] = a.heads;
    json["kv_heads"] = a.kv_heads;
    json["head_dim"] = a.head_dim;
    json["v_head_dim"] = a.v_head_dim;
  }
  json["parameters"] = TotalParameters(s);
  json["active_parameters"] = ActiveParameters(s);
  json["weight_bytes"] = AllWeightBytes(facts);
  json["weight_bytes_per_token"] = DecodeBytes(facts, 1, 0, 16).Total();
  json["number_format"] = {{"name", facts.bits.name},     {"qkv_bits", facts.bits.qkv},
                           {"output_bits", facts.bits.output}, {"dense_bits", facts.bits.dense},
                           {"expert_bits", facts.bits.experts}, {"router_bits", facts.bits.router},
                           {"head_bits", facts.bits.head}};
  return json;
}

}  // namespace minimo::bench
