// Router scores of many tokens, in float32's precision on the tensor cores (tf32_pairs.cuh).
//
// A block has 64 tokens x 128 experts and one of kRouterSplits runs of columns, a warp 32 x 64. Rows of 32 columns in
// shared memory are 36 floats apart: 8 rows x 4 columns hit distinct banks. Three stages of 28 KB.
#include "cuda/kernels/common.cuh"
#include "cuda/kernels/router.cuh"
#include "cuda/kernels/tf32_pairs.cuh"

namespace minimo::cuda {
namespace {

constexpr int kTokens = 64, kExperts = 128, kColumns = 32, kPitch = 36;
constexpr int kThreads = 128;
constexpr int kStageFloats = (kTokens + kExperts) * kPitch;
constexpr int kStages = 3;
constexpr int kShared = kStages * kStageFloats * 4;

__global__ void __launch_bounds__(kThreads) router_logits(const RouterParams p) {
  extern __shared__ __align__(16) float smem[];
  allow_next_kernel();
  wait_previous_kernel();
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const int first_expert = blockIdx.x * kExperts, first_token = blockIdx.y * kTokens;
  const int steps = (p.hidden + kColumns - 1) / kColumns;
  const int begin = steps * blockIdx.z / kRouterSplits, end = steps * (blockIdx.z + 1) / kRouterSplits;
  const auto request = [&](int s) {
    float* to = smem + s % kStages * kStageFloats;
    for (int i = threadIdx.x; i < (kTokens + kExperts) * kColumns / 4; i += kThreads) {
      const int row = i / (kColumns / 4), piece = i % (kColumns / 4) * 4, c = s * kColumns + piece;
      const bool token = row < kTokens;
      const int at = token ? first_token + row : first_expert + row - kTokens;
      const bool inside = at < (token ? p.tokens : p.experts) && c < p.hidden;
      const float* from = (token ? p.residual : p.weights) + (inside ? int64_t{at} * p.hidden + c : 0);
      copy_async16_or_zero(to + row * kPitch + piece, from, inside);
    }
  };
  const int my_token = warp / 2 * 32, my_expert = warp % 2 * 64;
  float sums[2][8][4] = {};
#pragma unroll
  for (int i = 0; i + 1 < kStages; ++i) {
    if (begin + i < end) request(begin + i);
    copy_commit();
  }
  for (int s = begin; s < end; ++s) {
    copy_wait<kStages - 2>();
    __syncthreads();
    if (s + kStages - 1 < end) request(s + kStages - 1);
    copy_commit();
    const float* x = smem + s % kStages * kStageFloats + my_token * kPitch;
    const float* w = smem + s % kStages * kStageFloats + (kTokens + my_expert) * kPitch;
#pragma unroll
    for (int k = 0; k < kColumns; k += 8) {
      uint32_t a[2][2][4];  // [16 tokens][high, low]
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int column = s * kColumns + k + t + i / 2 * 4;
        const float norm = column < p.hidden ? __ldg(p.norm_weight + column) : 0.0f;
#pragma unroll
        for (int m = 0; m < 2; ++m) {
          const Tf32Pair v = split_tf32(x[(16 * m + g + i % 2 * 8) * kPitch + k + t + i / 2 * 4] * norm);
          a[m][0][i] = v.high, a[m][1][i] = v.low;
        }
      }
#pragma unroll
      for (int n = 0; n < 8; ++n) {
        const float* row = w + (8 * n + g) * kPitch + k + t;
        const Tf32Pair b0 = split_tf32(row[0]), b1 = split_tf32(row[4]);
#pragma unroll
        for (int m = 0; m < 2; ++m) {
          mma_tf32(sums[m][n], a[m][1], b0.high, b1.high);
          mma_tf32(sums[m][n], a[m][0], b0.low, b1.low);
          mma_tf32(sums[m][n], a[m][0], b0.high, b1.high);
        }
      }
    }
  }
#pragma unroll
  for (int m = 0; m < 2; ++m) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int token = first_token + my_token + 16 * m + g + i / 2 * 8;
      if (token >= p.tokens) continue;
      float* to = p.logits + (int64_t{blockIdx.z} * p.tokens + token) * p.experts;
#pragma unroll
      for (int n = 0; n < 8; ++n) {
        const int expert = first_expert + my_expert + 8 * n + 2 * t + i % 2;
        if (expert < p.experts) to[expert] = sums[m][n][i];
      }
    }
  }
}

}  // namespace

cudaError_t LaunchRouterLogits(const RouterParams& p, cudaStream_t stream) {
  static const cudaError_t configured =
      cudaFuncSetAttribute(router_logits, cudaFuncAttributeMaxDynamicSharedMemorySize, kShared);
  if (configured != cudaSuccess) return configured;
  const dim3 grid((p.experts + kExperts - 1) / kExperts, (p.tokens + kTokens - 1) / kTokens, kRouterSplits);
  return Launch(router_logits, grid, dim3(kThreads), kShared, stream, p);
}

}  // namespace minimo::cuda
