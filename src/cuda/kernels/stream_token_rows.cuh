// How a block of stream_token.cu builds x from its parts (not in kGateUp).
#pragma once

#include "cuda/kernels/choose.cuh"
#include "cuda/kernels/stream_token_walk.cuh"

namespace minimo::cuda::token {

__device__ __forceinline__ float4 load4(const float* from) { return load_l2(reinterpret_cast<const float4*>(from)); }
__device__ __forceinline__ float4 load4(const bf16* from) {
  const uint2 v = __ldcg(reinterpret_cast<const uint2*>(from));
  return {__uint_as_float(v.x << 16), __uint_as_float(v.x & 0xffff0000), __uint_as_float(v.y << 16),
          __uint_as_float(v.y & 0xffff0000)};
}
__device__ __forceinline__ void add4(float4& x, float4 y) { x.x += y.x, x.y += y.y, x.z += y.z, x.w += y.w; }

// x of units [first, first + x_units) of all (kDown: of the choices' one after the other): rounds of kHeld units a
// warp, whose loads are all on their way before the first is used.
template <TileFormat kF, OneMode kMode>
struct XRows {
  static constexpr int kHeld = kMode == OneMode::kDense ? 2 : 3, kRound = kHeld * kWarps;
  static constexpr int kHeldParts = kMode == OneMode::kDown ? 1 : 2;  // partial sums that are requested at once
  const OneParams& p;
  const Shape& shape;
  int first;
  float my_weight;  // kDown: lane k has that of choice k
  float4 norm[kHeld], input[kHeld], part[kHeld][kHeldParts];

  __device__ __forceinline__ int first_unit() const { return static_cast<int>(threadIdx.x) / 32; }
  __device__ __forceinline__ int choice_of(int u) const {
    return kMode == OneMode::kDown ? shape.units.quotient(first + u) : 0;
  }
  __device__ __forceinline__ int column_of(int u) const {
    return (first + u - choice_of(u) * p.shape.units) * kUnitCols + threadIdx.x % 32 * 4;
  }
  // Where unit u lies in shared memory: a matrix begins with a piece.
  __device__ __forceinline__ int place_of(int u) const {
    if constexpr (kMode != OneMode::kDown || TeamWarps(kF) == 1) return u;
    const int units = shape.units.value, choice = choice_of(u) - choice_of(0);
    return u + choice * (shape.tile_pieces * TeamWarps(kF) - units);
  }
  __device__ __forceinline__ bool live(int u) const { return u < shape.x_units && column_of(u) < p.cols; }

  __device__ __forceinline__ void load_norm(int from) {  // known ahead
    if constexpr (kMode != OneMode::kDown) {
#pragma unroll
      for (int i = 0; i < kHeld; ++i) {
        norm[i] = {1, 1, 1, 1};
        const int u = from + i * kWarps;
        if (p.norm_weight != nullptr && live(u)) {
          norm[i] = __ldg(reinterpret_cast<const float4*>(p.norm_weight + column_of(u)));
        }
      }
    }
  }
  // In few instructions: every warp of every block runs them, four warps a scheduler.
  __device__ __forceinline__ void load(int from) {
    if (p.input_bf16) return load_input(static_cast<const bf16*>(p.input), from);
    load_input(static_cast<const float*>(p.input), from);
    if constexpr (kMode != OneMode::kDown) {
      const float* part_from = p.partial + column_of(from);
#pragma unroll
      for (int k = 0; k < kHeldParts; ++k, part_from += p.partial_stride) {
#pragma unroll
        for (int i = 0; i < kHeld; ++i) {
          part[i][k] = {0, 0, 0, 0};
          if (k < p.partials && live(from + i * kWarps)) part[i][k] = load4(part_from + i * kWarps * kUnitCols);
        }
      }
    }
  }
  template <typename T>
  __device__ __forceinline__ void load_input(const T* from_input, int from) {
#pragma unroll
    for (int i = 0; i < kHeld; ++i) {
      const int u = from + i * kWarps;
      input[i] = {0, 0, 0, 0};
      if (!live(u)) continue;
      if constexpr (kMode == OneMode::kDown) {
        input[i] = load4(from_input + choice_of(u) * p.input_stride + column_of(u));
      } else {
        input[i] = load4(from_input + column_of(from) + i * kWarps * kUnitCols);
      }
    }
  }
  // Returns this thread's sum of squares.
  __device__ __forceinline__ float stage(uint8_t* x, int from) const {
    float squares = 0;
    float4 held[kHeld];
    int places[kHeld];  // none: negative
#pragma unroll
    for (int i = 0; i < kHeld; ++i) {
      const int u = from + i * kWarps;
      float4 v = input[i], w = norm[i];
      if constexpr (kMode == OneMode::kDown) {
        w.x = w.y = w.z = w.w = __shfl_sync(0xffffffffu, my_weight, choice_of(u));
      } else {
#pragma unroll
        for (int k = 0; k < kHeldParts; ++k) {
          if (k < p.partials) add4(v, part[i][k]);
        }
        if (p.partials > kHeldParts && live(u)) {
#pragma unroll 1
          for (int k = kHeldParts; k < p.partials; ++k) {
            add4(v, load_l2(reinterpret_cast<const float4*>(p.partial + int64_t{k} * p.partial_stride + column_of(u))));
          }
        }
        if (p.sum_out != nullptr && live(u) && ((first + u) & 127) == static_cast<int>(blockIdx.x)) {
          *reinterpret_cast<float4*>(p.sum_out + column_of(u)) = v;
        }
        squares += v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w;
      }
      held[i] = {v.x * w.x, v.y * w.y, v.z * w.z, v.w * w.w};
      places[i] = u < shape.x_units ? place_of(u) : -1;
    }
    stage_units<kF>(x, places, shape.x_places, held, p.shape.group_cols);
    return squares;
  }
  // Places without a unit: what stands there counts nothing.
  __device__ __forceinline__ void no_scales(uint8_t* x) const {
    const int units = shape.units.value, places = shape.tile_pieces * TeamWarps(kF);
    if (units == places) return;
    for (int i = threadIdx.x; i < shape.x_places; i += kThreads) {
      if (i % places >= units) reinterpret_cast<float*>(x + shape.x_places * 512)[i] = 0;
    }
  }
  // All of x, the first round of loads on its way. Returns this thread's sum of squares.
  __device__ __forceinline__ float stage_all(uint8_t* x) {
    float squares = 0;
    if constexpr (TeamWarps(kF) > 1) no_scales(x);
#pragma unroll 1
    for (int from = first_unit();;) {
      squares += stage(x, from);
      from += kRound;
      if (from >= shape.x_units) break;
      load_norm(from);
      load(from);
    }
    if constexpr (kF == TileFormat::kFp8) fence_async_reads();
    return squares;
  }
};

}  // namespace minimo::cuda::token
