// Random models of real shapes and few experts, for host and device alike, without files.
#pragma once

#include <cstdint>
#include <memory>
#include <random>
#include <vector>

#include "base/float_types.h"
#include "base/thread_team.h"
#include "layers/weight.h"
#include "models/loader.h"
#include "models/model.h"
#include "spec/model_spec.h"

namespace minimo::testing {

enum class ExpertFormat { kFp8, kInt4 };

// Fills weights that keep activations near unit size; routing close to uniform. A value is a function of its place in
// the order of all, so they are made on all cores.
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
  static float Uniform(uint64_t bits) {  // deviation 1
    return (static_cast<float>(bits >> 40) * 0x1p-24f - 0.5f) * 3.4641016f;
  }
  // to[i] = make(the next random bits).
  template <typename T, typename Make>
  void Fill(T* to, int64_t size, Make make) {
    constexpr uint64_t kStep = 0x9e3779b97f4a7c15u;
    constexpr int64_t kGrain = 1 << 15;
    team_.ParallelFor(size, kGrain, [&, random = random_, before = state_](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        uint64_t x = (before + static_cast<uint64_t>(i + 1) * kStep) ^ random;
        x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
        x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
        to[i] = make(x ^ (x >> 31));
      }
    });
    state_ += static_cast<uint64_t>(size) * kStep;
  }
  template <typename T, typename Make>
  std::shared_ptr<T[]> Filled(int64_t size, Make make) {
    auto data = std::make_shared_for_overwrite<T[]>(static_cast<size_t>(size));
    Fill(data.get(), size, make);
    return data;
  }
  Vector Floats(int64_t size, float mean, float deviation) {
    Vector v(static_cast<size_t>(size));
    Fill(v.data(), size, [=](uint64_t bits) { return mean + Uniform(bits) * deviation; });
    return v;
  }
  template <typename T>
  Weight Own(WeightFormat format, int64_t rows, int64_t cols, std::shared_ptr<T[]> data, int64_t row_bytes) {
    Weight w;
    w.view.format = format;
    w.view.rows = rows;
    w.view.cols = cols;
    w.view.data = reinterpret_cast<const std::byte*>(data.get());
    w.view.row_bytes = row_bytes;
    w.owners.push_back(std::move(data));
    return w;
  }
  Weight F32Matrix(int64_t rows, int64_t cols, float deviation) {
    auto data = Filled<float>(rows * cols, [=](uint64_t bits) { return Uniform(bits) * deviation; });
    return Own(WeightFormat::kF32, rows, cols, std::move(data), cols * 4);
  }
  Weight Bf16Matrix(int64_t rows, int64_t cols, float deviation) {
    auto data = Filled<Bf16>(rows * cols, [=](uint64_t bits) { return ToBf16(Uniform(bits) * deviation); });
    return Own(WeightFormat::kBf16, rows, cols, std::move(data), cols * 2);
  }
  Weight Fp8Matrix(int64_t rows, int64_t cols) {
    auto data = Filled<uint8_t>(rows * cols, [](uint64_t bits) {  // every code but NaN, subnormals among them
      const uint8_t code = static_cast<uint8_t>(bits >> 11);
      return (code & 0x7f) == 0x7f ? uint8_t{0} : code;
    });
    const int64_t stride = (cols + 127) / 128, scale_rows = (rows + 127) / 128;
    auto scales = Filled<float>(scale_rows * stride, [=](uint64_t bits) {
      return Deviation(cols) / 100.0f * (1.0f + 0.3f * Uniform(bits));
    });
    Weight w = Own(WeightFormat::kFp8Block, rows, cols, std::move(data), cols);
    w.view.scales = scales.get();
    w.view.scale_stride = stride;
    w.owners.push_back(std::move(scales));
    return w;
  }
  Weight Int4Matrix(int64_t rows, int64_t cols, int group) {
    auto data = Filled<uint8_t>(rows * cols / 2, [](uint64_t bits) { return static_cast<uint8_t>(bits >> 13); });
    const int64_t stride = (cols + group - 1) / group;
    auto scales = Filled<Bf16>(rows * stride, [=](uint64_t bits) {
      return ToBf16(Deviation(cols) / 4.6f * (1.0f + 0.3f * Uniform(bits)));
    });
    Weight w = Own(WeightFormat::kInt4Group, rows, cols, std::move(data), cols / 2);
    w.view.group_scales = scales.get();
    w.view.group_size = group;
    w.view.scale_stride = stride;
    w.owners.push_back(std::move(scales));
    return w;
  }

  uint64_t random_, state_ = 0;
  ThreadTeam team_{0};
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
