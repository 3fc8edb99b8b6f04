// The router's product for one token: a block for two experts, whose rows are read before the wait. Every block adds up
// the whole row's squares itself, so that logits leave already scaled by the norm. The blocks behind those stage x for
// the experts, a unit a warp.
#include "cuda/kernels/choose.cuh"
#include "cuda/kernels/common.cuh"
#include "cuda/kernels/router.cuh"
#include "cuda/kernels/stream_token_unit.cuh"

namespace minimo::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kExperts = 2;  // a block
constexpr int kHeld = 4;     // float4 a thread and row, read before the wait: 4096 columns

__device__ __forceinline__ float dot(float4 a, float4 b) { return a.x * b.x + a.y * b.y + a.z * b.z + a.w * b.w; }

__device__ __forceinline__ float4 plus(float4 a, float4 b) { return {a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w}; }

__host__ __device__ __forceinline__ int expert_blocks(int experts) { return (experts + kExperts - 1) / kExperts; }

// `unit` of x, by a warp.
template <TileFormat kF>
__device__ __forceinline__ void stage_operands(const RouterOneParams& p, int unit) {
  const int lane = threadIdx.x % 32, c = unit * (kUnitCols / 4) + lane, columns = p.hidden / 4;
  const bool here = c < columns;
  const float4 zero = {0, 0, 0, 0};
  const float4 norm = here ? __ldg(reinterpret_cast<const float4*>(p.norm_weight) + c) : zero;
  allow_next_kernel();
  wait_previous_kernel();
  const float4* partial = reinterpret_cast<const float4*>(p.partial) + c;
  float4 x = here ? load_l2(reinterpret_cast<const float4*>(p.residual) + c) : zero;
  const float4 first = here && p.partials > 0 ? load_l2(partial) : zero;
  const float4 second = here && p.partials > 1 ? load_l2(partial + columns) : zero;
  x = plus(plus(x, first), second);
  for (int k = 2; here && k < p.partials; ++k) x = plus(x, load_l2(partial + k * columns));
  if (here && p.sum_out != nullptr) reinterpret_cast<float4*>(p.sum_out)[c] = x;
  const float4 values[1] = {{x.x * norm.x, x.y * norm.y, x.z * norm.z, x.w * norm.w}};
  stage_units<kF>(p.operands, {unit}, p.places, values, p.group_cols);
  // A place without a unit: what stands there counts nothing.
  if (kF == TileFormat::kFp8 && unit >= p.units && lane == 0) {
    reinterpret_cast<float*>(p.operands + p.places * 512)[unit] = 0;
  }
}

template <TileFormat kF>
__global__ void __launch_bounds__(kThreads) router_one(const RouterOneParams p) {
  __shared__ float part[kThreads / 32][kExperts + 1];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  if (static_cast<int>(blockIdx.x) >= expert_blocks(p.experts)) {
    const int unit = (blockIdx.x - expert_blocks(p.experts)) * (kThreads / 32) + warp;
    if (unit < p.places) stage_operands<kF>(p, unit);
    return;
  }
  const int first_expert = blockIdx.x * kExperts, columns = p.hidden / 4;
  const int last_expert = min(first_expert + 1, p.experts - 1);
  const float4* weights[kExperts] = {reinterpret_cast<const float4*>(p.weights) + int64_t{first_expert} * columns,
                                     reinterpret_cast<const float4*>(p.weights) + int64_t{last_expert} * columns};
  const float4* norm = reinterpret_cast<const float4*>(p.norm_weight);
  const float4 zero = {0, 0, 0, 0};
  const int expert = first_expert + threadIdx.x;
  const bool mine = threadIdx.x < kExperts && expert < p.experts;
  const float bias = mine && p.bias != nullptr ? __ldg(p.bias + expert) : 0.0f;
  float4 held[kExperts][kHeld], held_norm[kHeld];
#pragma unroll
  for (int i = 0; i < kHeld; ++i) {
    const int c = threadIdx.x + i * kThreads;
    held_norm[i] = c < columns ? __ldg(norm + c) : zero;
#pragma unroll
    for (int e = 0; e < kExperts; ++e) held[e][i] = c < columns ? __ldcs(weights[e] + c) : zero;
  }
  allow_next_kernel();
  wait_previous_kernel();
  float sums[kExperts + 1] = {};
  const auto load = [&](const float* from, int c) { return load_l2(reinterpret_cast<const float4*>(from) + c); };
  const auto add = [&](float4 x, float4 n, float4 w0, float4 w1) {
    sums[kExperts] += dot(x, x);
    x = {x.x * n.x, x.y * n.y, x.z * n.z, x.w * n.w};
    sums[0] += dot(x, w0), sums[1] += dot(x, w1);
  };
  float4 x[kHeld], first[kHeld], second[kHeld];  // all requested before the first is used
#pragma unroll
  for (int i = 0; i < kHeld; ++i) {
    const int c = threadIdx.x + i * kThreads;
    x[i] = c < columns ? load(p.residual, c) : zero;
    first[i] = c < columns && p.partials > 0 ? load(p.partial, c) : zero;
    second[i] = c < columns && p.partials > 1 ? load(p.partial, c + columns) : zero;
  }
#pragma unroll
  for (int i = 0; i < kHeld; ++i) {
    const int c = threadIdx.x + i * kThreads;
    x[i] = plus(plus(x[i], first[i]), second[i]);
    if (c < columns) {
      for (int k = 2; k < p.partials; ++k) x[i] = plus(x[i], load(p.partial, c + k * columns));
    }
    add(x[i], held_norm[i], held[0][i], held[1][i]);
  }
#pragma unroll 1
  for (int c = threadIdx.x + kHeld * kThreads; c < columns; c += kThreads) {
    float4 sum = load(p.residual, c);
    for (int k = 0; k < p.partials; ++k) sum = plus(sum, load(p.partial, c + k * columns));
    add(sum, __ldg(norm + c), __ldcs(weights[0] + c), __ldcs(weights[1] + c));
  }
#pragma unroll
  for (int e = 0; e <= kExperts; ++e) {
    sums[e] = warp_sum(sums[e]);
    if (lane == 0) part[warp][e] = sums[e];
  }
  __syncthreads();
  if (!mine) return;
  float sum = 0, squares = 0;
#pragma unroll
  for (int w = 0; w < kThreads / 32; ++w) sum += part[w][threadIdx.x], squares += part[w][kExperts];
  const float logit = sum * rsqrtf(squares / static_cast<float>(p.hidden) + p.norm_eps);
  const float score = 1.0f / (1.0f + expf(-logit)), biased = score + bias;
  p.logits[expert] = logit;
  p.logits[p.experts + expert] = score;
  if (expert == 0) *p.square_sum = squares;
  p.logits[2 * p.experts + expert] = __uint_as_float(biased > -INFINITY ? ordered(biased) : 0u);
}

}  // namespace

cudaError_t LaunchRouterOne(const RouterOneParams& p, cudaStream_t stream) {
  const auto kernel = p.format == TileFormat::kInt4  ? router_one<TileFormat::kInt4>
                      : p.format == TileFormat::kFp8 ? router_one<TileFormat::kFp8>
                                                     : router_one<TileFormat::kBf16>;
  constexpr int kUnits = kThreads / 32;  // a block
  const int blocks = expert_blocks(p.experts) + (p.places + kUnits - 1) / kUnits;
  return Launch(kernel, dim3(blocks), dim3(kThreads), 0, stream, p);
}

}  // namespace minimo::cuda
