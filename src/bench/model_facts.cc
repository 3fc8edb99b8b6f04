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
  if (quant->value("quant_method", "") == "compressed-tensors") return W4Bits();
  bool output_is_bf16 = false;
  const auto ignored = quant->find("ignored_layers");
  if (ignored != quant->end() && ignored->is_array()) {
    for (const auto& name : *ignored) {
      output_is_bf16 =
          output_is_bf16 || (name.is_string() && name.get<std::string>().find("o_proj") != std::string::npos);
    }
  }
  return Fp8Bits(output_is_bf16);
}

// What a bound model holds, averaged over the matrices of each kind.
class BitSum {
 public:
  void Add(const Weight& weight) {
    const WeightView& v = weight.view;
    const auto elements = static_cast<double>(v.rows * v.cols);
    double bits = static_cast<double>(v.ElementBits());
    if (v.format == WeightFormat::kFp8Block && v.scales != nullptr) bits += 32.0 / (kScaleBlock * kScaleBlock);
    if (v.format == WeightFormat::kInt4Group && v.group_size > 0) bits += 16.0 / v.group_size;
    bits_ += bits * elements;
    elements_ += elements;
  }
  void AddFfn(const FfnWeights& ffn) {
    for (const Weight* weight : {&ffn.gate, &ffn.up, &ffn.down}) Add(*weight);
  }
  void Set(double* out) const {
    if (elements_ > 0) *out = bits_ / elements_;
  }

 private:
  double bits_ = 0;
  double elements_ = 0;
};

WeightBits BitsOfWeights(const DecoderWeights& weights) {
  BitSum qkv, output, dense, experts, router, head;
  for (const LayerWeights& layer : weights.layers) {
    for (const Weight* weight : {&layer.q, &layer.k, &layer.v}) qkv.Add(*weight);
    output.Add(layer.o);
    router.Add(layer.router);
    dense.AddFfn(layer.dense);
    for (const FfnWeights& expert : layer.experts) experts.AddFfn(expert);
  }
  head.Add(weights.lm_head);
  WeightBits bits;
  qkv.Set(&bits.qkv);
  output.Set(&bits.output);
  dense.Set(&bits.dense);
  experts.Set(&bits.experts);
  router.Set(&bits.router);
  head.Set(&bits.head);
  bits.name = bits.experts < 6 ? "w4" : bits.experts < 12 ? "fp8" : bits.experts < 20 ? "bf16" : "f32";
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
    LoadOptions load;
    load.num_layers = num_layers;
    MINIMO_ASSIGN(const LoadedModel loaded, LoadModel(folder, load));
    facts.bits = BitsOfWeights(loaded.weights);
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
    facts.name += fmt::format(" ({} of {} layers)", num_layers, facts.spec.num_layers());  // goes with every figure
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
