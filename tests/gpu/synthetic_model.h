// Random models of real shapes and few experts, for host and device alike, without files.
#pragma once

#include <cstdint>
#include <memory>
#include <random>
#include <vector>

#include "base/float_types.h"
#include "layers/weight.h"
#include "models/loader.h"
#include "models/model.h"
#include "spec/model_spec.h"

namespace minimo::testing {

enum class ExpertFormat { kFp8, kInt4 };

// Fills weights that keep activations near unit size; routing close to uniform.
class SyntheticModel {
 public:
  SyntheticModel(const ModelSpec& spec, ExpertFormat experts, int group, uint64_t seed) : random_(seed) {
    model_.spec = spec;
    for (const ModelFamily* family : ModelFamilies()) {
      if (spec.model_type == family->model_type) model_.family = family;  // whose manifest tells ranks what to hold
    }
    DecoderWeights& w = model_.weights;
    w.embedding = Bf16Matrix(spec.vocab, spec.hidden, 1.0f);
    w.lm_head = Bf16Matrix(spec.vocab, spec.hidden, Deviation(spec.hidden));
    w.final_norm = Floats(spec.hidden, 1, 0.1f);
    for (const LayerSpec& l : spec.layers) {
      const AttentionSpec& a = l.attention;
      LayerWeights layer;
      layer.input_norm = Floats(spec.hidden, 1, 0.1f);
      layer.post_attention_norm = Floats(spec.hidden, 1, 0.1f);
      layer.q = Fp8Matrix(a.q_size(), spec.hidden);
      layer.k = Fp8Matrix(a.k_size(), spec.hidden);
      layer.v = Fp8Matrix(a.v_size(), spec.hidden);
      layer.o = a.head_dim == a.v_head_dim ? Fp8Matrix(spec.hidden, a.o_size())
                                           : Bf16Matrix(spec.hidden, a.o_size(), Deviation(a.o_size()));
      if (a.qk_norm) layer.q_norm = Floats(a.q_size(), 1, 0.1f), layer.k_norm = Floats(a.k_size(), 1, 0.1f);
      if (a.sink) layer.sinks = Floats(a.heads, 0, 1);
      const auto matrix = [&](int64_t rows, int64_t cols) {
        return experts == ExpertFormat::kInt4 && l.moe ? Int4Matrix(rows, cols, group) : Fp8Matrix(rows, cols);
      };
      if (l.moe) {
        layer.router = F32Matrix(spec.moe.experts, spec.hidden, Deviation(spec.hidden));
        layer.router_bias = Floats(spec.moe.experts, 0, 0.05f);
        for (int e = 0; e < spec.moe.experts; ++e) {
          layer.experts.push_back({matrix(spec.moe.intermediate, spec.hidden),
                                   matrix(spec.moe.intermediate, spec.hidden),
                                   matrix(spec.hidden, spec.moe.intermediate)});
        }
      } else {
        layer.dense = {matrix(l.intermediate, spec.hidden), matrix(l.intermediate, spec.hidden),
                       matrix(spec.hidden, l.intermediate)};
      }
      w.layers.push_back(std::move(layer));
    }
  }

  const LoadedModel& model() const { return model_; }

 private:
  static float Deviation(int64_t cols) { return 1.0f / std::sqrt(static_cast<float>(cols)); }
  uint64_t Bits() {
    state_ += 0x9e3779b97f4a7c15u;
    uint64_t x = state_ ^ random_;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
  }
  float Uniform() { return (static_cast<float>(Bits() >> 40) * 0x1p-24f - 0.5f) * 3.4641016f; }
  Vector Floats(int64_t size, float mean, float deviation) {
    Vector v(static_cast<size_t>(size));
    for (float& x : v) x = mean + Uniform() * deviation;
    return v;
  }
  template <typename T>
  Weight Own(WeightFormat format, int64_t rows, int64_t cols, std::shared_ptr<std::vector<T>> data, int64_t row_bytes) {
    Weight w;
    w.view.format = format;
    w.view.rows = rows;
    w.view.cols = cols;
    w.view.data = reinterpret_cast<const std::byte*>(data->data());
    w.view.row_bytes = row_bytes;
    w.owners.push_back(data);
    return w;
  }
  Weight F32Matrix(int64_t rows, int64_t cols, float deviation) {
    auto data = std::make_shared<std::vector<float>>(static_cast<size_t>(rows * cols));
    for (float& x : *data) x = Uniform() * deviation;
    return Own(WeightFormat::kF32, rows, cols, data, cols * 4);
  }
  Weight Bf16Matrix(int64_t rows, int64_t cols, float deviation) {
    auto data = std::make_shared<std::vector<uint16_t>>(static_cast<size_t>(rows * cols));
    for (uint16_t& x : *data) x = ToBf16(Uniform() * deviation).bits;
    return Own(WeightFormat::kBf16, rows, cols, data, cols * 2);
  }
  Weight Fp8Matrix(int64_t rows, int64_t cols) {
    auto data = std::make_shared<std::vector<uint8_t>>(static_cast<size_t>(rows * cols));
    for (size_t i = 0; i < data->size(); ++i) {  // every code but NaN, subnormals among them
      const uint8_t code = static_cast<uint8_t>(Bits() >> 11);
      (*data)[i] = (code & 0x7f) == 0x7f ? 0 : code;
    }
    const int64_t stride = (cols + 127) / 128, scale_rows = (rows + 127) / 128;
    auto scales = std::make_shared<std::vector<float>>(static_cast<size_t>(scale_rows * stride));
    for (float& s : *scales) s = Deviation(cols) / 100.0f * (1.0f + 0.3f * Uniform());
    Weight w = Own(WeightFormat::kFp8Block, rows, cols, data, cols);
    w.view.scales = scales->data();
    w.view.scale_stride = stride;
    w.owners.push_back(scales);
    return w;
  }
  Weight Int4Matrix(int64_t rows, int64_t cols, int group) {
    auto data = std::make_shared<std::vector<uint8_t>>(static_cast<size_t>(rows * cols / 2));
    for (uint8_t& x : *data) x = static_cast<uint8_t>(Bits() >> 13);
    const int64_t stride = (cols + group - 1) / group;
    auto scales = std::make_shared<std::vector<Bf16>>(static_cast<size_t>(rows * stride));
    for (Bf16& s : *scales) s = ToBf16(Deviation(cols) / 4.6f * (1.0f + 0.3f * Uniform()));
    Weight w = Own(WeightFormat::kInt4Group, rows, cols, data, cols / 2);
    w.view.group_scales = scales->data();
    w.view.group_size = group;
    w.view.scale_stride = stride;
    w.owners.push_back(scales);
    return w;
  }

  uint64_t random_, state_ = 0;
  LoadedModel model_;
};

inline AttentionSpec M2Attention() { return {48, 8, 128, 128, 0, 64, 5e6, false, true, 1.0f}; }
inline AttentionSpec MiMoAttention(bool full) {
  return {64, full ? 4 : 8, 192, 128, full ? 0 : 128, 64, full ? 5e6 : 1e4, !full, false, 0.707f};
}

inline ModelSpec M2Spec(int layers, int experts, int vocab) {
  ModelSpec s;
  s.model_type = "minimax_m2";
  s.hidden = 3072;
  s.vocab = vocab;
  s.norm_eps = 1e-6;
  s.max_positions = 196608;
  s.moe = {experts, 8, 1536};
  s.layers.assign(static_cast<size_t>(layers), LayerSpec{M2Attention(), true, 0});
  return s;
}

// The first layers of the released pattern: dense full attention, then four sliding, one full, ...
inline ModelSpec MiMoSpec(int layers, int experts, int vocab) {
  ModelSpec s;
  s.model_type = "mimo_v2_flash";
  s.hidden = 4096;
  s.vocab = vocab;
  s.norm_eps = 1e-5;
  s.max_positions = 262144;
  s.moe = {experts, 8, 2048, 1, 1, true, 1e-20};
  for (int i = 0; i < layers; ++i) {
    const bool full = i == 0 || (i % 6 == 5) || i == 47;
    s.layers.push_back({MiMoAttention(full), i > 0, 16384});
  }
  return s;
}

}  // namespace minimo::testing
