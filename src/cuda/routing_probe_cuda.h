// For checks (CudaOptions::probe_routing): each layer keeps the experts that it chose for each token, and each token
// has router biases of its own. A rounded run then need not go other ways than an exact one where two experts all but
// tie.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "cuda/device_cuda.h"
#include "cuda/kernels/router.cuh"
#include "layers/weight.h"
#include "spec/model_spec.h"

namespace minimo::cuda {

class RoutingProbe {
 public:
  Status Create(const ModelSpec& spec, const DecoderWeights& weights, int max_tokens);

  // choices [layers, tokens, top_k] (of dense layers anything): for the next steps of so many tokens these experts have
  // `by` on top of their bias. Empty: none has.
  Status Favour(std::span<const int32_t> choices, float by);
  // Of the step of `tokens` tokens that ended last, as Favour takes them. A step of one bf16 token leaves none.
  Result<std::vector<int32_t>> Choices(int tokens) const;

  const float* biases(int layer) const { return biases_.As<float>(int64_t{layer} * max_tokens_ * experts_ * 4); }
  void Join(int layer, RouterParams* p) const {
    p->bias = biases(layer), p->bias_stride = experts_;
    p->chosen = choices_.As<int>(layer * choice_stride_ * 4);
  }

 private:
  int layers_ = 0, experts_ = 0, top_k_ = 0, max_tokens_ = 0;
  int64_t choice_stride_ = 0;        // from one layer to the next: 16 bytes are read at a time
  std::vector<float> model_biases_;  // [layers, experts]
  DeviceMemory biases_;              // [layers, max_tokens, experts]
  DeviceMemory choices_;             // [layers, choice_stride_] int32
};

}  // namespace minimo::cuda
