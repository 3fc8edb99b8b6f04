// What products of a few tokens share at their ends: the RMSNorm of x's rows, and what becomes of an mma's sums.
#pragma once

#include "cuda/kernels/common.cuh"
#include "cuda/kernels/stream_linear.cuh"

namespace minimo::cuda {

// The RMSNorm's factor of row `row` of x, 1 without a norm. All lanes of a warp together.
__device__ __forceinline__ float norm_factor(const LinearParams& p, int row) {
  if (p.square_sums == nullptr) return 1;
  const float* squares = p.square_sums + int64_t{row} * p.square_sum_count;
  float sum = 0;
#pragma unroll 8
  for (int i = threadIdx.x % 32; i < p.square_sum_count; i += 32) sum += load_l2(squares + i);
  return rsqrtf(warp_sum(sum) / static_cast<float>(p.norm_cols) + p.norm_eps);
}

// Those of rows first .. first + count, kTokens of them: eight lanes a row, so that kWarps warps ask for all at once.
template <int kTokens, int kWarps>
__device__ __forceinline__ void norm_factors(const LinearParams& p, int first, int count, float* norm) {
  const int mine = threadIdx.x / 8;
  if (p.square_sums == nullptr) {
    for (int n = threadIdx.x; n < kTokens; n += kWarps * 32) norm[n] = 1;
    return;
  }
#pragma unroll
  for (int n = 0; n < kTokens; n += kWarps * 4) {
    const int token = first + min(n + mine, count - 1);
    const int row = p.slot_token == nullptr ? token : load_l2(p.slot_token + token);
    const float* squares = p.square_sums + int64_t{row} * p.square_sum_count;
    float sum = 0;
#pragma unroll 8
    for (int i = threadIdx.x % 8; i < p.square_sum_count; i += 8) sum += load_l2(squares + i);
#pragma unroll
    for (int offset = 1; offset < 8; offset <<= 1) sum += __shfl_xor_sync(0xffffffffu, sum, offset);
    if (threadIdx.x % 8 != 0 || n + mine >= kTokens) continue;
    norm[n + mine] = rsqrtf(sum / static_cast<float>(p.norm_cols) + p.norm_eps);
  }
}

// One lane's share of 16 rows x 8 tokens, v: rows g (x, y) and g + 8 (z, w), tokens 2t and 2t + 1, to the outputs.
__device__ __forceinline__ void write_fragment(const LinearParams& p, int tile, int first, int token0, int count,
                                               const float* norm, float4 v) {
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  float before[2][2] = {};  // loads come before the first store, or they would wait for one another
  if (p.epilogue == Epilogue::kResidual) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int token = token0 + 2 * t + i / 2, row = tile * kTileRows + g + i % 2 * 8;
      if (token >= count || row >= p.out_rows) continue;
      before[i / 2][i % 2] = __ldcg(p.residual + int64_t{first + token} * p.out_rows + row);
    }
  }
#pragma unroll
  for (int e = 0; e < 2; ++e) {
    const int token = token0 + 2 * t + e;
    const bool live = token < count;
    const float f = live ? norm[token] : 0.0f;
    const float y[2] = {(e == 0 ? v.x : v.y) * f, (e == 0 ? v.z : v.w) * f};
    const int64_t at = first + token;
    if (p.epilogue == Epilogue::kSwiGlu) {
      const int row = tile * 8 + g;
      if (live && row < p.out_rows) {
        store(static_cast<bf16*>(p.out_x) + at * p.out_x_stride + row, y[0] / (1.0f + __expf(-y[0])) * y[1]);
      }
      continue;
    }
    float square = 0;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int row = tile * kTileRows + g + 8 * h;
      if (!live || row >= p.out_rows) continue;
      float value = y[h];
      if (p.epilogue == Epilogue::kStore) {
        p.out[at * p.out_stride + row] = value;
      } else {
        value += before[e][h];
        p.residual[at * p.out_rows + row] = value;
        if (p.next_norm != nullptr) {
          store(static_cast<bf16*>(p.next_x) + at * p.next_x_stride + row, value * __ldg(p.next_norm + row));
        }
      }
      square += value * value;
    }
    if (p.next_square_sums != nullptr) {  // lanes of one t have the tile's rows
#pragma unroll
      for (int offset = 4; offset < 32; offset <<= 1) square += __shfl_xor_sync(0xffffffffu, square, offset);
      if (g == 0 && live) p.next_square_sums[at * p.shape.tiles + tile] = square;
    }
  }
}

}  // namespace minimo::cuda
