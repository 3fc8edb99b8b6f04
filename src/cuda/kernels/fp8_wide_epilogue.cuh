// What becomes of fp8_wide's sums: v[4 j + i] of a lane (4 g + t) is token g + 8 (i / 2) of its warp's 16 and row
// 8 j + 2 t + i % 2 of its warpgroup's. Tiles of weight_tiles.h are 16 rows: j even and odd; of SwiGLU gate and up.
// Lanes of a token exchange what they hold so that each reads and writes 16 bytes.
#pragma once

#include "cuda/kernels/fp8_epilogue.cuh"

namespace minimo::cuda {

// Where a lane's sums go: its two tokens, its warpgroup's first row of W.
struct WideLane {
  int token, row;
  bool live[2];
};

// For each token the sum of squares over a tile's rows. Four tiles at a time: lane t ends with the t-th's.
template <int kPart>
__device__ __forceinline__ void put_wide_squares(const Fp8LinearParams& p, const WideLane& l,
                                                 const float (&v)[kPart / 2]) {
  const int t = threadIdx.x % 4;
#pragma unroll
  for (int first = 0; first < kPart / 16; first += 4) {
    const int tile = l.row / kTileRows + first + t;
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      float s[4];
#pragma unroll
      for (int n = 0; n < 4; ++n) {
        const float* w = v + 8 * (first + n) + 2 * k;
        s[n] = first + n < kPart / 16 ? w[0] * w[0] + w[1] * w[1] + w[4] * w[4] + w[5] * w[5] : 0.0f;
      }
      const bool upper = (t & 2) != 0, odd = (t & 1) != 0;
      const float low = __shfl_xor_sync(0xffffffffu, upper ? s[0] : s[2], 2) + (upper ? s[2] : s[0]);
      const float high = __shfl_xor_sync(0xffffffffu, upper ? s[1] : s[3], 2) + (upper ? s[3] : s[1]);
      const float sum = __shfl_xor_sync(0xffffffffu, odd ? low : high, 1) + (odd ? high : low);
      if (l.live[k] && first + t < kPart / 16 && tile < p.shape.tiles) {
        p.next_square_sums[int64_t{l.token + 8 * k} * p.shape.tiles + tile] = sum;
      }
    }
  }
}

// Eight rows of a token from `row` on.
__device__ __forceinline__ void put_eight(const Fp8LinearParams& p, int64_t token, int row, bool live,
                                          const uint32_t (&pairs)[4]) {
  bf16* to = static_cast<bf16*>(p.out_x) + token * p.out_x_stride + row;
  if (row + 8 <= p.out_rows && p.out_x_stride % 8 == 0) {
    if (live) *reinterpret_cast<uint4*>(to) = {pairs[0], pairs[1], pairs[2], pairs[3]};
    return;
  }
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    if (!live || row + i >= p.out_rows) break;
    reinterpret_cast<uint16_t*>(to)[i] = static_cast<uint16_t>(pairs[i / 2] >> (i % 2 * 16));
  }
}

// bf16 outputs, four tiles of SwiGLU's or two of others at a time: lane t ends with the t-th eight of 32 rows.
template <Epilogue kE, int kPart>
__device__ __forceinline__ void put_wide_bf16(const Fp8LinearParams& p, const WideLane& l,
                                              const float (&v)[kPart / 2]) {
  constexpr bool kGlu = kE == Epilogue::kSwiGlu;
  constexpr int kEights = kGlu ? kPart / 16 : kPart / 8;
  const int t = threadIdx.x % 4, first_row = kGlu ? l.row / 2 : l.row;
#pragma unroll
  for (int k = 0; k < 2; ++k) {
    const int64_t token = l.token + 8 * k;
    float weight = 1;
    if constexpr (kE == Epilogue::kSlot) weight = l.live[k] ? load_l2(p.slot_weight + token) : 0.0f;
#pragma unroll
    for (int first = 0; first < kEights; first += 4) {
      uint32_t pairs[4] = {};
#pragma unroll
      for (int n = 0; n < 4; ++n) {
        if (first + n >= kEights) break;
        const float* w = v + (kGlu ? 8 : 4) * (first + n) + 2 * k;
        pairs[n] = kGlu ? pack_bf16(silu(w[0]) * w[4], silu(w[1]) * w[5]) : pack_bf16(w[0] * weight, w[1] * weight);
      }
      transpose_lanes(pairs);
      put_eight(p, token, first_row + 8 * (first + t), l.live[k] && first + t < kEights, pairs);
    }
  }
}

// One float32 output; of the residual v is added to what is there.
template <Epilogue kE>
__device__ __forceinline__ void put_wide_one(const Fp8LinearParams& p, int64_t token, int row, float& v) {
  constexpr bool kAdd = kE == Epilogue::kResidual;
  float* to = kAdd ? p.residual + token * p.out_rows + row : p.out + token * p.out_stride + row;
  if (kAdd) v += load_l2(to);
  *to = v;
  if (kAdd && p.next_norm != nullptr) {
    store(static_cast<bf16*>(p.next_x) + token * p.next_x_stride + row, v * __ldg(p.next_norm + row));
  }
}

// float32 outputs. Where rows come in fours, lanes t and t ^ 1 exchange halves of a tile: then
// v[8 tile + 2 k + {0, 1, 4, 5}] are four neighbouring rows. All loads come before the first store.
template <Epilogue kE, int kPart>
__device__ __forceinline__ void put_wide_float(const Fp8LinearParams& p, const WideLane& l, float (&v)[kPart / 2]) {
  constexpr bool kAdd = kE == Epilogue::kResidual;
  const int t = threadIdx.x % 4, stride = kAdd ? p.out_rows : p.out_stride;
  const bool has_next = kAdd && p.next_norm != nullptr;
  if (stride % 4 != 0 || p.out_rows % 4 != 0 || (has_next && p.next_x_stride % 4 != 0)) {
#pragma unroll
    for (int i = 0; i < kPart / 2; ++i) {
      const int row = l.row + i / 4 * 8 + 2 * t + i % 2, k = i / 2 % 2;
      if (l.live[k] && row < p.out_rows) put_wide_one<kE>(p, l.token + 8 * k, row, v[i]);
    }
    return;
  }
  const int row = l.row + t % 2 * 8 + t / 2 * 4;
  float* to = (kAdd ? p.residual : p.out) + int64_t{l.token} * stride + row;
  const auto at = [&](int tile, int k) { return reinterpret_cast<float4*>(to + int64_t{8 * k} * stride + 16 * tile); };
  const auto inside = [&](int tile, int k) { return l.live[k] && row + 16 * tile < p.out_rows; };
#pragma unroll
  for (int tile = 0; tile < kPart / 16; ++tile) {
#pragma unroll
    for (int i = 0; i < 4; ++i) exchange_lanes(v[8 * tile + i], v[8 * tile + 4 + i], 1);
  }
  if constexpr (kAdd) {
#pragma unroll
    for (int i = 0; i < kPart / 8; ++i) {
      const float4 was = inside(i / 2, i % 2) ? load_l2(at(i / 2, i % 2)) : float4{0, 0, 0, 0};
      float* w = v + i / 2 * 8 + i % 2 * 2;
      w[0] += was.x, w[1] += was.y, w[4] += was.z, w[5] += was.w;
    }
  }
#pragma unroll
  for (int i = 0; i < kPart / 8; ++i) {
    const float* w = v + i / 2 * 8 + i % 2 * 2;
    if (inside(i / 2, i % 2)) *at(i / 2, i % 2) = {w[0], w[1], w[4], w[5]};
  }
  if (!has_next) return;
  bf16* next = static_cast<bf16*>(p.next_x) + int64_t{l.token} * p.next_x_stride + row;
#pragma unroll
  for (int i = 0; i < kPart / 8; ++i) {
    if (!inside(i / 2, i % 2)) continue;
    const float4 norm = __ldg(reinterpret_cast<const float4*>(p.next_norm + row + i / 2 * 16));
    const float* w = v + i / 2 * 8 + i % 2 * 2;
    *reinterpret_cast<uint2*>(next + int64_t{i % 2 * 8} * p.next_x_stride + i / 2 * 16) = {
        pack_bf16(w[0] * norm.x, w[1] * norm.y), pack_bf16(w[4] * norm.z, w[5] * norm.w)};
  }
}

template <Epilogue kE, int kPart>
__device__ __forceinline__ void emit_wide(const Fp8LinearParams& p, const WideLane& l, float (&v)[kPart / 2]) {
  if constexpr (kE == Epilogue::kStore || kE == Epilogue::kResidual) {
    put_wide_float<kE, kPart>(p, l, v);
  } else {
    put_wide_bf16<kE, kPart>(p, l, v);
  }
  if constexpr (kE != Epilogue::kSwiGlu && kE != Epilogue::kSlot) {
    if (p.next_square_sums != nullptr) put_wide_squares<kPart>(p, l, v);
  }
}

}  // namespace minimo::cuda
