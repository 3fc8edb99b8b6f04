// One warp for one token and head: a lane scores one key at a time, 32 keys a round of an online softmax.
#include "cuda/kernels/attention.cuh"
#include "cuda/kernels/common.cuh"
#include "cuda/kernels/kv_address.cuh"
#include "cuda/kernels/kv_element.cuh"

namespace minimo::cuda {
namespace {

constexpr int kMostValues = 8;  // v_head_dim up to 256

template <typename Act, typename Key, typename Value>
__global__ void __launch_bounds__(32) attention_simple(const AttentionParams p) {
  extern __shared__ float query[];
  allow_next_kernel();
  wait_previous_kernel();
  const int token = blockIdx.x, head = blockIdx.y, lane = threadIdx.x;
  const int kv_head = head / (p.heads / p.kv_heads);
  const int position = load_l2(p.meta.position + token), past = load_l2(p.meta.past + token);
  const int begin = p.window > 0 ? max(0, position - p.window + 1) : 0;
  const Act* q = static_cast<const Act*>(p.q) + (int64_t{token} * p.heads + head) * p.head_dim;
  for (int c = lane; c < p.head_dim; c += 32) query[c] = load_l2(q + c) * p.scale;
  __syncwarp();
  const auto row = [&](const KvView& view, const auto* cache, const auto* fresh, int at) {
    return fresh != nullptr && at >= past ? fresh + (int64_t{token - (position - at)} * p.kv_heads + kv_head) * view.dim
                                          : cache + cache_row(view, p.meta, token, at, kv_head);
  };
  const auto* keys = static_cast<const Key*>(p.k.data);
  const auto* fresh_keys = static_cast<const Key*>(p.fresh_k);
  const auto* values = static_cast<const Value*>(p.v.data);
  const auto* fresh_values = static_cast<const Value*>(p.fresh_v);
  float most = -INFINITY, sum = 0, out[kMostValues] = {};
  for (int from = begin; from <= position; from += 32) {
    const int at = from + lane;
    float score = -INFINITY;
    if (at <= position) {
      const Key* key = row(p.k, keys, fresh_keys, at);
      score = 0;
      for (int c = 0; c < p.head_dim; ++c) score += query[c] * load_l2(key + c);
    }
    const float new_most = fmaxf(most, warp_max(score));
    const float weight = at <= position ? expf(score - new_most) : 0.0f, keep = expf(most - new_most);
    sum = sum * keep + warp_sum(weight);
    most = new_most;
#pragma unroll
    for (int i = 0; i < kMostValues; ++i) out[i] *= keep;
    for (int j = 0; j < min(32, position + 1 - from); ++j) {
      const float w = __shfl_sync(0xffffffffu, weight, j);
      const Value* value = row(p.v, values, fresh_values, from + j);
#pragma unroll
      for (int i = 0; i < kMostValues; ++i) {
        if (lane + 32 * i < p.v_head_dim) out[i] += w * load_l2(value + lane + 32 * i);
      }
    }
  }
  if (p.sinks != nullptr) {
    const float new_most = fmaxf(most, p.sinks[head]), keep = expf(most - new_most);
    sum = sum * keep + expf(p.sinks[head] - new_most);
#pragma unroll
    for (int i = 0; i < kMostValues; ++i) out[i] *= keep;
  }
  Act* to = static_cast<Act*>(p.out) + int64_t{token} * p.out_stride + head * p.v_head_dim;
#pragma unroll
  for (int i = 0; i < kMostValues; ++i) {
    if (lane + 32 * i < p.v_head_dim) store(to + lane + 32 * i, out[i] / sum);
  }
}

}  // namespace

cudaError_t LaunchAttentionSimple(const AttentionParams& p, bool f32_activations, cudaStream_t stream) {
  if (p.v_head_dim > 32 * kMostValues) return cudaErrorInvalidValue;
  const bool fp8 = p.k.element_bytes == 1;
  const auto exact = fp8 ? attention_simple<float, e4m3, e4m3> : attention_simple<float, float, float>;
  const auto kernel = f32_activations ? exact
                      : fp8           ? attention_simple<bf16, e4m3, e4m3>
                      : p.k.half      ? attention_simple<bf16, __half, bf16>
                                      : attention_simple<bf16, bf16, bf16>;
  return Launch(kernel, dim3(p.tokens, p.heads), dim3(32), p.head_dim * 4, stream, p);
}

}  // namespace minimo::cuda
