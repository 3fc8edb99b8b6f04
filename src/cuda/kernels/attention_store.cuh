// What becomes of a row of attention once its keys are summed: sinks, and where it goes.
#pragma once

#include "cuda/kernels/attention.cuh"
#include "cuda/kernels/common.cuh"
#include "cuda/kernels/e4m3_pairs.cuh"

namespace minimo::cuda {

// A row in the registers of four lanes (t = lane % 4), columns 8 i + 2 t and the next, in the layout of Fp8Activations
// (fp8_quantise.cu says how columns stand): one unit, `head`.
__device__ __forceinline__ void store_e4m3(const AttentionParams& p, int token, int head, bool live,
                                           const float2 (&v)[16]) {
  const int t = threadIdx.x % 4;
  float most = 0;
#pragma unroll
  for (int i = 0; i < 16; ++i) most = fmaxf(most, fmaxf(fabsf(v[i].x), fabsf(v[i].y)));
  most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 1));
  most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 2));
  const float inverse = most > 0 ? kMostE4m3 / most : 0.0f;
  uint32_t part[2][4];  // of piece 4 h + k (16 columns) the pairs t and t + 4
#pragma unroll
  for (int h = 0; h < 2; ++h) {
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const float2 low = v[8 * h + 2 * k], high = v[8 * h + 2 * k + 1];
      part[h][k] = to_e4m3x2(low.x * inverse, low.y * inverse) | to_e4m3x2(high.x * inverse, high.y * inverse) << 16;
    }
    transpose_lanes(part[h]);  // then those of lane k of piece 4 h + t
  }
  if (!live) return;
  const int64_t row = int64_t{head} * p.product_rows + token;
  const int piece = t % 2 * 2 + t / 2;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    *reinterpret_cast<uint4*>(p.product_values + row * 128 + ((4 * h + piece) ^ (token % 8)) * 16) = {
        __byte_perm(part[h][0], part[h][1], 0x5410), __byte_perm(part[h][2], part[h][3], 0x5410),
        __byte_perm(part[h][0], part[h][1], 0x7632), __byte_perm(part[h][2], part[h][3], 0x7632)};
  }
  if (t == 0) p.product_scales[row] = most * (1.0f / kMostE4m3);
}

// The same in bf16, as fp8_linear takes it with bf16 weights: step j of wgmma (16 columns) has the columns
// 32 u + 4 j + i of u = 0..3, first those of i = 0, 1, then 2, 3.
__device__ __forceinline__ void store_arranged(const AttentionParams& p, int token, int head, bool live,
                                               const float2 (&v)[16]) {
  if (!live) return;
  const int t = threadIdx.x % 4;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int step = 2 * i + t / 2, piece = step % 4 * 2 + t % 2;
    uint8_t* to = p.product_values + ((int64_t{head} * 2 + step / 4) * p.product_rows + token) * 128;
    *reinterpret_cast<uint4*>(to + (piece ^ (token % 8)) * 16) = {
        pack_bf16(v[i].x, v[i].y), pack_bf16(v[4 + i].x, v[4 + i].y), pack_bf16(v[8 + i].x, v[8 + i].y),
        pack_bf16(v[12 + i].x, v[12 + i].y)};
  }
}

// `most` and `sum` of the softmax (in powers of two, the sum of this row's lanes), v: its sums of values. All lanes
// call it; `live`: the row exists.
__device__ __forceinline__ void store_attended(const AttentionParams& p, int token, int head, bool live, float most,
                                               float sum, float2 (&v)[16]) {
  float keep = 1;
  if (p.sinks != nullptr && live) {
    const float sink = p.sinks[head] * kLog2E, all = fmaxf(most, sink);
    keep = exp2f(most - all);
    sum = sum * keep + exp2f(sink - all);
  }
  const float factor = live ? keep / sum : 0.0f;
#pragma unroll
  for (int i = 0; i < 16; ++i) v[i] = {v[i].x * factor, v[i].y * factor};
  if (p.product_scales != nullptr) return store_e4m3(p, token, head, live, v);
  if (p.product_values != nullptr) return store_arranged(p, token, head, live, v);
  if (!live) return;
  bf16* row = static_cast<bf16*>(p.out) + int64_t{token} * p.out_stride + head * 128;
  uint32_t* to = reinterpret_cast<uint32_t*>(row) + threadIdx.x % 4;
#pragma unroll
  for (int i = 0; i < 16; ++i) to[4 * i] = pack_bf16(v[i].x, v[i].y);
}

}  // namespace minimo::cuda
