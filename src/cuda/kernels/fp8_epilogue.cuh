// What becomes of fp8_linear's sums: results as wgmma leaves them, v[4 j + i] of a lane (4 g + t) being row
// g + 8 (i / 2) of its warp's tile and token 8 j + 2 t + i % 2. All warps of a block come here at once and no product
// runs meanwhile, so nothing here branches: loads come before the first store, stores are predicated.
#pragma once

#include "cuda/kernels/fp8_stages.cuh"

namespace minimo::cuda {

// This lane's row g of tokens 2 t and 2 t + 1 becomes rows g, g + 1 of one token: 2 t for even g, 2 t + 1 for odd.
__device__ __forceinline__ uint32_t pair_rows(float first_token, float second_token) {
  const bool odd = threadIdx.x % 32 / 4 % 2 != 0;
  const float other = __shfl_xor_sync(0xffffffffu, odd ? first_token : second_token, 4);
  return odd ? pack_bf16(other, second_token) : pack_bf16(first_token, other);
}

__device__ __forceinline__ float silu(float x) { return __fdividef(x, 1.0f + __expf(-x)); }

// For each token the sum of squares over the tile's rows, to next_square_sums. Eight sums at a time: of each pair of
// lanes that differ in a bit of g one keeps half of them, so that lane g ends with the g-th.
template <int kN>
__device__ __forceinline__ void put_squares(const Fp8LinearParams& p, const Fp8Where& where, int tile,
                                            const float (&v)[kN / 2]) {
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const int token = where.first + g / 2 * 8 + 2 * t + g % 2;
  const int end = tile < p.shape.tiles ? where.end : 0;
  float* to = p.next_square_sums + int64_t{token} * p.shape.tiles + tile;
#pragma unroll
  for (int j = 0; j < kN / 8; j += 4) {
    float s[8];
#pragma unroll
    for (int k = 0; k < 8; ++k) {
      const int at = 4 * (j + k / 2) + k % 2;
      s[k] = j + k / 2 < kN / 8 ? v[at] * v[at] + v[at + 2] * v[at + 2] : 0.0f;
    }
#pragma unroll
    for (int half = 4; half > 0; half /= 2) {
      const bool upper = (g & half) != 0;
#pragma unroll
      for (int k = 0; k < half; ++k) {
        const float mine = upper ? s[k + half] : s[k];
        s[k] = mine + __shfl_xor_sync(0xffffffffu, upper ? s[k] : s[k + half], 4 * half);
      }
    }
    if (token + 8 * j < end) to[int64_t{8 * j} * p.shape.tiles] = s[0];
  }
}

// bf16 outputs: SwiGLU's, or both halves of the tile's rows.
template <Epilogue kE, int kN>
__device__ __forceinline__ void put_bf16(const Fp8LinearParams& p, const Fp8Where& where, int tile,
                                         const float (&v)[kN / 2]) {
  constexpr bool kGlu = kE == Epilogue::kSwiGlu;
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const int token = where.first + 2 * t + g % 2, row = tile * (kGlu ? 8 : kTileRows) + g / 2 * 2;
  const int begin = where.begin - token, end = row < p.out_rows ? where.end - token : 0;
  const int second_end = row + 8 < p.out_rows ? end : 0;
  bf16* to = static_cast<bf16*>(p.out_x) + int64_t{token} * p.out_x_stride + row;
#pragma unroll
  for (int j = 0; j < kN / 8; ++j) {
    const float* w = v + 4 * j;
    const auto put = [&](uint32_t pair, int column, int limit) {
      if (8 * j >= begin && 8 * j < limit) {
        *reinterpret_cast<uint32_t*>(to + int64_t{8 * j} * p.out_x_stride + column) = pair;
      }
    };
    if constexpr (kGlu) {
      put(pair_rows(silu(w[0]) * w[2], silu(w[1]) * w[3]), 0, end);
    } else {
      put(pair_rows(w[0], w[1]), 0, end);
      put(pair_rows(w[2], w[3]), 8, second_end);
    }
  }
}

// float32 outputs; of the residual v is added to what is there.
template <Epilogue kE, int kN>
__device__ __forceinline__ void put_float(const Fp8LinearParams& p, const Fp8Where& where, int tile,
                                          float (&v)[kN / 2]) {
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const int token = where.first + 2 * t, row = tile * kTileRows + g;
  const int stride = kE == Epilogue::kResidual ? p.out_rows : p.out_stride;
  float* to = (kE == Epilogue::kResidual ? p.residual : p.out) + int64_t{token} * stride + row;
  const int end[2] = {row < p.out_rows ? where.end - token : 0, row + 8 < p.out_rows ? where.end - token : 0};
  const auto at = [&](int i) { return to + int64_t{i / 4 * 8 + i % 2} * stride + i % 4 / 2 * 8; };
  const auto inside = [&](int i) { return i / 4 * 8 + i % 2 < end[i % 4 / 2]; };
  if constexpr (kE == Epilogue::kResidual) {
#pragma unroll
    for (int i = 0; i < kN / 2; ++i) v[i] += inside(i) ? load_l2(at(i)) : 0.0f;
  }
#pragma unroll
  for (int i = 0; i < kN / 2; ++i) {
    if (inside(i)) *at(i) = v[i];
  }
  if (kE != Epilogue::kResidual || p.next_norm == nullptr) return;
  bf16* next = static_cast<bf16*>(p.next_x) + int64_t{token} * p.next_x_stride + row;
  const float norm[2] = {end[0] > 0 ? __ldg(p.next_norm + row) : 0, end[1] > 0 ? __ldg(p.next_norm + row + 8) : 0};
#pragma unroll
  for (int i = 0; i < kN / 2; ++i) {
    bf16* there = next + int64_t{i / 4 * 8 + i % 2} * p.next_x_stride + i % 4 / 2 * 8;
    if (inside(i)) store(there, v[i] * norm[i % 4 / 2]);
  }
}

// The rows of one tile (16) of one warp.
template <Epilogue kE, int kN>
__device__ __forceinline__ void emit(const Fp8LinearParams& p, const Fp8Where& where, int tile, float (&v)[kN / 2]) {
  if constexpr (kE == Epilogue::kSlot) {
    const int t = threadIdx.x % 4, last = (where.end - 1) & ~1;
#pragma unroll
    for (int j = 0; j < kN / 8; ++j) {
      const int token = min(where.first + 8 * j + 2 * t, last);
      const float2 weight = __ldcg(reinterpret_cast<const float2*>(p.slot_weight + token));
      v[4 * j] *= weight.x, v[4 * j + 1] *= weight.y, v[4 * j + 2] *= weight.x, v[4 * j + 3] *= weight.y;
    }
  }
  if constexpr (kE == Epilogue::kStore || kE == Epilogue::kResidual) {
    put_float<kE, kN>(p, where, tile, v);
  } else {
    put_bf16<kE, kN>(p, where, tile, v);
  }
  if constexpr (kE != Epilogue::kSwiGlu && kE != Epilogue::kSlot) {
    if (p.next_square_sums != nullptr) put_squares<kN>(p, where, tile, v);
  }
}

}  // namespace minimo::cuda
