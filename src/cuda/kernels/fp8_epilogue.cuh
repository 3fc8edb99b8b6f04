// What becomes of fp8_linear's sums: results as wgmma leaves them, v[4 j + i] of a lane (4 g + t) being row
// g + 8 (i / 2) of its warp's tile and token 8 j + 2 t + i % 2.
#pragma once

#include "cuda/kernels/fp8_stages.cuh"

namespace minimo::cuda {

// This lane's row g of tokens 2 t and 2 t + 1 becomes rows g, g + 1 of one token: 2 t for even g, 2 t + 1 for odd.
__device__ __forceinline__ uint32_t pair_rows(float first_token, float second_token) {
  const bool odd = threadIdx.x % 32 / 4 % 2 != 0;
  const float other = __shfl_xor_sync(0xffffffffu, odd ? first_token : second_token, 4);
  return odd ? pack_bf16(other, second_token) : pack_bf16(first_token, other);
}

// What the results are added to or multiplied with, read before anything is written: otherwise every read would wait
// for the one before.
template <Epilogue kE, int kN>
__device__ __forceinline__ void prepare(const Fp8LinearParams& p, const Fp8Where& where, int tile,
                                        float (&sums)[kN / 2]) {
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
#pragma unroll
  for (int i = 0; i < kN / 2; ++i) {
    const int token = where.first + i / 4 * 8 + 2 * t + i % 2, row = tile * kTileRows + g + i % 4 / 2 * 8;
    if (kE == Epilogue::kSlot && i % 4 < 2) {
      const float weight = load_l2(p.slot_weight + min(token, where.end - 1));
      sums[i] *= weight;
      sums[i + 2] *= weight;
    }
    if (kE == Epilogue::kResidual && token < where.end && row < p.out_rows) {
      sums[i] += load_l2(p.residual + int64_t{token} * p.out_rows + row);
    }
  }
}

// Rows of one tile (16) of one warp, tokens 8 j + 2 t and the next: v[0..3] as wgmma leaves them.
template <Epilogue kE>
__device__ __forceinline__ void emit(const Fp8LinearParams& p, const Fp8Where& where, int tile, int j,
                                     const float (&v)[4]) {
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const int token = where.first + 8 * j + 2 * t;
  if constexpr (kE == Epilogue::kSwiGlu || kE == Epilogue::kSlot || kE == Epilogue::kStoreBf16) {
    const int mine = token + g % 2;
    const bool live = mine >= where.begin && mine < where.end;
    uint32_t* to = reinterpret_cast<uint32_t*>(static_cast<bf16*>(p.out_x) + int64_t{mine} * p.out_x_stride);
    if constexpr (kE == Epilogue::kSwiGlu) {
      const uint32_t pair = pair_rows(v[0] / (1.0f + __expf(-v[0])) * v[2], v[1] / (1.0f + __expf(-v[1])) * v[3]);
      const int row = tile * 8 + g / 2 * 2;
      if (live && row < p.out_rows) to[row / 2] = pair;
    } else {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const uint32_t pair = pair_rows(v[2 * half], v[2 * half + 1]);
        const int row = tile * kTileRows + 8 * half + g / 2 * 2;
        if (live && row < p.out_rows) to[row / 2] = pair;
      }
    }
  }
  if constexpr (kE == Epilogue::kStore || kE == Epilogue::kStoreBf16 || kE == Epilogue::kResidual) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const bool live = token + i < where.end;
      float squares = 0;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = tile * kTileRows + 8 * half + g;
        const float value = v[2 * half + i];
        if (!live || row >= p.out_rows) continue;
        if (kE == Epilogue::kResidual) {
          p.residual[int64_t{token + i} * p.out_rows + row] = value;
          if (p.next_norm != nullptr) {
            bf16* to = static_cast<bf16*>(p.next_x) + int64_t{token + i} * p.next_x_stride + row;
            store(to, value * __ldg(p.next_norm + row));
          }
        } else if (kE == Epilogue::kStore) {
          p.out[int64_t{token + i} * p.out_stride + row] = value;
        }
        squares += value * value;
      }
      if (p.next_square_sums != nullptr) {
#pragma unroll
        for (int offset = 4; offset < 32; offset <<= 1) squares += __shfl_xor_sync(0xffffffffu, squares, offset);
        if (g == 0 && live && tile < p.shape.tiles) {
          p.next_square_sums[int64_t{token + i} * p.shape.tiles + tile] = squares;
        }
      }
    }
  }
}

}  // namespace minimo::cuda
