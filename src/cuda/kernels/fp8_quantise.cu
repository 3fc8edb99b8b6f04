// A warp takes 128 columns of a row, a lane four neighbours. In a unit's 128 bytes the columns stand as fp8_linear's
// lanes hold the weights: word 4 j + t of a half (16 words of 4) is column word 8 (t % 2) + 4 (t / 2) + j, its bytes
// the columns 0, 2, 1, 3.
#include <cuda_fp16.h>

#include "cuda/kernels/common.cuh"
#include "cuda/kernels/fp8_quantise.cuh"

namespace minimo::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr float kMostE4m3 = 448.0f;

struct Quantised {
  uint32_t word;
  float scale;  // of the unit
  float sum;    // of the half's e4m3 values
};

__device__ __forceinline__ uint32_t to_e4m3x2(float low, float high) {
  uint16_t d;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(d) : "f"(high), "f"(low));
  return d;
}
__device__ __forceinline__ float sum_e4m3x2(uint32_t pair) {
  uint32_t d;
  asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(d) : "h"(static_cast<uint16_t>(pair)));
  const float2 v = __half22float2(*reinterpret_cast<const __half2*>(&d));
  return v.x + v.y;
}

__device__ __forceinline__ Quantised quantise(float4 v, bool with_sum) {
  const float mine = fmaxf(fmaxf(fabsf(v.x), fabsf(v.y)), fmaxf(fabsf(v.z), fabsf(v.w)));
  const float most = __uint_as_float(__reduce_max_sync(0xffffffffu, __float_as_uint(mine)));
  const float inverse = most > 0 ? kMostE4m3 / most : 0.0f;
  const uint32_t low = to_e4m3x2(v.x * inverse, v.z * inverse), high = to_e4m3x2(v.y * inverse, v.w * inverse);
  float sum = 0;
  if (with_sum) {
    sum = sum_e4m3x2(low) + sum_e4m3x2(high);
#pragma unroll
    for (int offset = 1; offset < 16; offset <<= 1) sum += __shfl_xor_sync(0xffffffffu, sum, offset);
  }
  return {low | high << 16, most * (1.0f / kMostE4m3), sum};
}

__device__ __forceinline__ void put_values(const Fp8Activations& out, int unit, int row, const Quantised& q) {
  const int lane = threadIdx.x % 32, half = lane / 16, word = lane % 16;
  const int piece = 4 * half + word % 4, t = word / 4 % 2 * 2 + word / 8;
  uint8_t* to = out.values + (int64_t{unit} * out.rows + row) * 128;
  *reinterpret_cast<uint32_t*>(to + (piece ^ (row % 8)) * 16 + t * 4) = q.word;
}
// `factor` multiplies what the row stands for.
__device__ __forceinline__ void put_scales(const Fp8Activations& out, int unit, int row, const Quantised& q,
                                           float factor) {
  const int lane = threadIdx.x % 32;
  const float scale = q.scale * factor;
  const int64_t at = int64_t{unit} * out.rows + row;
  if (lane == 0) out.scales[at] = scale;
  if (out.offsets == nullptr) return;
  const float mine = -8.0f * scale * q.sum, other = __shfl_sync(0xffffffffu, mine, 16);
  const float first[2] = {__bfloat162float(__float2bfloat16(mine)), __bfloat162float(__float2bfloat16(other))};
  if (lane == 0) out.offsets[at] = {pack_bf16(first[0], first[1]), pack_bf16(mine - first[0], other - first[1])};
}

__device__ __forceinline__ float4 from_bf16(uint2 v) {
  return {__uint_as_float(v.x << 16), __uint_as_float(v.x & 0xffff0000), __uint_as_float(v.y << 16),
          __uint_as_float(v.y & 0xffff0000)};
}


__device__ void list_tiles(const QuantiseParams& p) {
  __shared__ int counts[kThreads];
  const int a = threadIdx.x, active = load_l2(p.num_active);
  int begin = 0, end = 0, first = 0, parts = 0;
  if (a < active) {
    begin = load_l2(p.offsets + a), end = load_l2(p.offsets + a + 1);
    first = begin & ~7;
    parts = (end - first + p.tile_tokens - 1) / p.tile_tokens;
  }
  counts[a] = parts;
  __syncthreads();
#pragma unroll
  for (int offset = 1; offset < kThreads; offset <<= 1) {
    const int before = a >= offset ? counts[a - offset] : 0;
    __syncthreads();
    counts[a] += before;
    __syncthreads();
  }
  if (a == kThreads - 1) *p.num_tiles = counts[a];
  if (parts == 0) return;
  const int expert = load_l2(p.active + a), width = ((end - first + parts - 1) / parts + 7) / 8 * 8;
  for (int i = 0; i < parts; ++i) {
    const int from = first + i * width;
    p.tiles[counts[a] - parts + i] = {expert, from, max(from, begin), min(from + width, end)};
  }
}

constexpr int kHeld = 4;  // tokens a warp has in flight

__global__ void __launch_bounds__(kThreads, 5) quantise_rows(const QuantiseParams p) {
  allow_next_kernel();
  wait_previous_kernel();
  if (p.tiles != nullptr && blockIdx.x == gridDim.x - 1) return list_tiles(p);
  const int lane = threadIdx.x % 32;
  const int at = blockIdx.x * kWarps + threadIdx.x / 32, unit = at % p.units, first = at / p.units * kHeld;
  const int col = unit * kUnitCols + lane * 4;
  float4 v[kHeld];
  float squares[kHeld] = {};
#pragma unroll
  for (int i = 0; i < kHeld; ++i) {
    const int token = min(first + i, p.tokens - 1);
    v[i] = {0, 0, 0, 0};
    if (col < p.cols) {
      v[i] = p.x != nullptr ? from_bf16(__ldcg(reinterpret_cast<const uint2*>(
                                  static_cast<const bf16*>(p.x) + int64_t{token} * p.x_stride + col)))
                            : load_l2(reinterpret_cast<const float4*>(p.residual + int64_t{token} * p.cols + col));
    }
    if (p.square_sums != nullptr) {
      for (int s = lane; s < p.square_sum_count; s += 32) {
        squares[i] += load_l2(p.square_sums + int64_t{token} * p.square_sum_count + s);
      }
    }
  }
  float4 w = {1, 1, 1, 1};
  if (p.x == nullptr && col < p.cols) w = __ldg(reinterpret_cast<const float4*>(p.norm_weight + col));
#pragma unroll
  for (int i = 0; i < kHeld; ++i) {
    const int token = first + i;
    if (token >= p.tokens) break;
    float factor = 1;
    if (p.square_sums != nullptr) {
      factor = rsqrtf(warp_sum(squares[i]) / static_cast<float>(p.norm_cols) + p.norm_eps);
    }
    const Quantised q = quantise({v[i].x * w.x, v[i].y * w.y, v[i].z * w.z, v[i].w * w.w}, p.out.offsets != nullptr);
    for (int k = 0; k < p.top_k; ++k) {
      const int row = p.slot_of != nullptr ? load_l2(p.slot_of + token * p.top_k + k) : token;
      if (row < 0) continue;
      put_values(p.out, unit, row, q);
      put_scales(p.out, unit, row, q, factor);
    }
  }
}

constexpr int kMostExperts = 32;
constexpr int kMostUnits = 8;  // a warp

__global__ void __launch_bounds__(kThreads) combine(const CombineParams p) {
  __shared__ float scratch[kWarps];
  __shared__ int slots[kMostExperts];
  allow_next_kernel();
  wait_previous_kernel();
  const int token = blockIdx.x, columns = p.hidden / 4, warp = threadIdx.x / 32;
  if (threadIdx.x < p.top_k) slots[threadIdx.x] = load_l2(p.slot_of + token * p.top_k + threadIdx.x);
  __syncthreads();
  float4* residual = reinterpret_cast<float4*>(p.residual + int64_t{token} * p.hidden);
  const int units = (columns + 31) / 32;
  Quantised held[kMostUnits];
  float squares = 0;
#pragma unroll
  for (int i = 0; i < kMostUnits; ++i) {
    const int unit = warp + i * kWarps, c = unit * 32 + threadIdx.x % 32;
    if (unit >= units) break;
    float4 x = {0, 0, 0, 0}, w = {0, 0, 0, 0};
    if (c < columns) {
      x = load_l2(residual + c);
      w = __ldg(reinterpret_cast<const float4*>(p.next_norm) + c);
#pragma unroll 8
      for (int k = 0; k < p.top_k; ++k) {
        const float4 y = from_bf16(
            __ldcg(reinterpret_cast<const uint2*>(static_cast<const bf16*>(p.expert_out) + int64_t{slots[k]} * p.hidden) + c));
        x.x += y.x, x.y += y.y, x.z += y.z, x.w += y.w;
      }
      residual[c] = x;
      squares += x.x * x.x + x.y * x.y + x.z * x.z + x.w * x.w;
    }
    x = {x.x * w.x, x.y * w.y, x.z * w.z, x.w * w.w};
    if (p.next_x != nullptr) {
      uint2* to = reinterpret_cast<uint2*>(static_cast<bf16*>(p.next_x) + int64_t{token} * p.next_x_stride);
      if (c < columns) to[c] = {pack_bf16(x.x, x.y), pack_bf16(x.z, x.w)};
    } else {
      held[i] = quantise(x, p.out.offsets != nullptr);
      put_values(p.out, unit, token, held[i]);
    }
  }
  const float sum = block_sum<kWarps>(squares, scratch);
  if (p.next_x != nullptr) {
    if (threadIdx.x == 0) p.square_sums[token] = sum;
    return;
  }
  const float factor = rsqrtf(sum / static_cast<float>(p.hidden) + p.norm_eps);
#pragma unroll
  for (int i = 0; i < kMostUnits; ++i) {
    const int unit = warp + i * kWarps;
    if (unit < units) put_scales(p.out, unit, token, held[i], factor);
  }
}

}  // namespace

cudaError_t LaunchQuantise(const QuantiseParams& p, cudaStream_t stream) {
  const int warps = (p.tokens + kHeld - 1) / kHeld * p.units;
  return Launch(quantise_rows, dim3((warps + kWarps - 1) / kWarps + (p.tiles != nullptr ? 1 : 0)), dim3(kThreads), 0,
                stream, p);
}

cudaError_t LaunchCombine(const CombineParams& p, cudaStream_t stream) {
  return Launch(combine, dim3(p.tokens), dim3(kThreads), 0, stream, p);
}

}  // namespace minimo::cuda
