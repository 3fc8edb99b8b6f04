#include "cuda/routing_probe_cuda.h"

#include <algorithm>

namespace minimo::cuda {

Status RoutingProbe::Create(const ModelSpec& spec, const DecoderWeights& weights, int max_tokens) {
  layers_ = spec.num_layers(), experts_ = spec.moe.experts, top_k_ = spec.moe.top_k, max_tokens_ = max_tokens;
  model_biases_.assign(static_cast<size_t>(layers_ * experts_), 0.0f);
  for (int i = 0; i < layers_; ++i) {
    const Vector& bias = weights.layers[static_cast<size_t>(i)].router_bias;
    std::copy(bias.begin(), bias.end(), model_biases_.begin() + int64_t{i} * experts_);
  }
  MINIMO_TRY(biases_.Allocate(int64_t{layers_} * max_tokens * experts_ * 4));
  choice_stride_ = (int64_t{max_tokens} * top_k_ + 3) / 4 * 4;
  MINIMO_TRY(choices_.AllocateZeroed(layers_ * choice_stride_ * 4));
  return Favour({}, 0);
}

Status RoutingProbe::Favour(std::span<const int32_t> choices, float by) {
  const int tokens = static_cast<int>(choices.size()) / (layers_ * top_k_);
  if (tokens > max_tokens_) return Errorf("{} tokens to favour experts of, but a step takes {}", tokens, max_tokens_);
  std::vector<float> biases(static_cast<size_t>(layers_) * max_tokens_ * experts_);
  for (int layer = 0; layer < layers_; ++layer) {
    const auto base = model_biases_.begin() + int64_t{layer} * experts_;
    for (int t = 0; t < max_tokens_; ++t) {
      const auto row = biases.begin() + (int64_t{layer} * max_tokens_ + t) * experts_;
      std::copy_n(base, experts_, row);
      for (int k = 0; t < tokens && k < top_k_; ++k) {
        row[choices[(static_cast<size_t>(layer) * tokens + t) * top_k_ + k]] += by;
      }
    }
  }
  MINIMO_CUDA_TRY(cudaMemcpy(biases_.As(), biases.data(), biases.size() * 4, cudaMemcpyHostToDevice));
  return ToStatus(cudaDeviceSynchronize(), "router biases");  // a copy from pageable memory may end later
}

Result<std::vector<int32_t>> RoutingProbe::Choices(int tokens) const {
  std::vector<int32_t> choices(static_cast<size_t>(layers_) * tokens * top_k_);
  const size_t row = static_cast<size_t>(tokens) * top_k_ * 4, pitch = static_cast<size_t>(choice_stride_) * 4;
  MINIMO_CUDA_TRY(cudaMemcpy2D(choices.data(), row, choices_.As(), pitch, row, static_cast<size_t>(layers_),
                               cudaMemcpyDeviceToHost));
  return choices;
}

}  // namespace minimo::cuda
