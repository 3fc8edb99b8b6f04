#include "bench/floor.h"

#include <algorithm>
#include <cmath>

namespace minimo::bench {
namespace {

constexpr double kFp8 = 8 + 32.0 / (128 * 128);  // a float32 scale to each 128x128 block
constexpr double kW4 = 4.25;

double QkvParameters(const ModelSpec& spec, const AttentionSpec& a) {
  return static_cast<double>(spec.hidden) * (a.q_size() + a.k_size() + a.v_size());
}
double OutputParameters(const ModelSpec& spec, const AttentionSpec& a) {
  return static_cast<double>(spec.hidden) * a.o_size();
}
double FfnParameters(const ModelSpec& spec, int intermediate) { return 3.0 * spec.hidden * intermediate; }
double RouterParameters(const ModelSpec& spec) { return static_cast<double>(spec.hidden) * spec.moe.experts; }
double HeadParameters(const ModelSpec& spec) { return static_cast<double>(spec.hidden) * spec.vocab; }

// `experts` of each MoE layer, no KV.
StepBytes WeightBytes(const ModelFacts& m, double experts) {
  StepBytes bytes;
  for (const LayerSpec& layer : m.spec.layers) {
    bytes.attention += QkvParameters(m.spec, layer.attention) * m.bits.qkv / 8 +
                       OutputParameters(m.spec, layer.attention) * m.bits.output / 8;
    if (layer.moe) {
      bytes.router += RouterParameters(m.spec) * m.bits.router / 8;
      bytes.experts += experts * FfnParameters(m.spec, m.spec.moe.intermediate) * m.bits.experts / 8;
    } else {
      bytes.dense += FfnParameters(m.spec, layer.intermediate) * m.bits.dense / 8;
    }
  }
  bytes.head = HeadParameters(m.spec) * m.bits.head / 8;
  return bytes;
}

double CountParameters(const ModelSpec& spec, double experts) {
  const ModelFacts one_byte{"", spec, {"", 8, 8, 8, 8, 8, 8}};
  return WeightBytes(one_byte, experts).Total();
}

// Keys that the query at 0-based position p sees, summed over p < tokens.
double VisibleKeys(double tokens, int window) {
  if (window == 0 || tokens <= window) return tokens * (tokens + 1) / 2;
  const double w = window;
  return w * (w + 1) / 2 + (tokens - w) * w;
}

}  // namespace

WeightBits Fp8Bits(bool output_is_bf16) { return {"fp8", kFp8, output_is_bf16 ? 16 : kFp8, kFp8, kFp8, 32, 16}; }
WeightBits W4Bits() { return {"w4", kFp8, kFp8, kFp8, kW4, 16, kFp8}; }
WeightBits TiledBits(WeightBits bits) {
  constexpr double kTiled = 8 + 16.0 / 128;
  for (double* b : {&bits.qkv, &bits.output, &bits.dense, &bits.experts, &bits.head}) {
    if (*b > 6) *b = kTiled;
  }
  bits.name += ", int8 activations";
  return bits;
}
WeightBits UniformBits(const std::string& name, double bits) { return {name, bits, bits, bits, bits, bits, bits}; }

double ExpertsTouched(const MoeSpec& moe, double tokens) {
  if (moe.experts == 0) return 0;
  return moe.experts * (1 - std::pow(1 - static_cast<double>(moe.top_k) / moe.experts, tokens));
}

StepBytes DecodeBytes(const ModelFacts& model, double batch, double context, double kv_bits) {
  StepBytes bytes = WeightBytes(model, ExpertsTouched(model.spec.moe, batch));
  for (const LayerSpec& layer : model.spec.layers) {
    const AttentionSpec& a = layer.attention;
    const double keys = a.window > 0 ? std::min<double>(context, a.window) : context;
    bytes.kv += batch * keys * (a.k_size() + a.v_size()) * kv_bits / 8;
  }
  return bytes;
}

double AllWeightBytes(const ModelFacts& model) { return WeightBytes(model, model.spec.moe.experts).Total(); }

double TotalParameters(const ModelSpec& spec) {
  return CountParameters(spec, spec.moe.experts) + (spec.tied_embeddings ? 0 : HeadParameters(spec));
}

double ActiveParameters(const ModelSpec& spec) { return CountParameters(spec, spec.moe.top_k); }

double PrefillFlopPerToken(const ModelSpec& spec, int tokens) {
  double flop = 2 * (CountParameters(spec, spec.moe.top_k) - HeadParameters(spec)) * tokens;
  for (const LayerSpec& layer : spec.layers) {
    const AttentionSpec& a = layer.attention;
    flop += 2 * VisibleKeys(tokens, a.window) * a.heads * (a.head_dim + a.v_head_dim);
  }
  return flop / tokens;
}

double FloorMs(const StepBytes& bytes, double gbs) { return gbs > 0 ? bytes.Total() / (gbs * 1e6) : 0; }

}  // namespace minimo::bench
