// The inner loop that decode and prefill share: 16 query rows of one warp against 8 kT keys in shared memory.
// A lane holds rows g and g + 8 (lane = 4 g + t). Key rows are padded by 16 bytes: 8 rows then fall into distinct
// banks.
#pragma once

#include "cuda/kernels/common.cuh"

namespace minimo::cuda {

template <int kKeyDim, int kValueDim>
struct AttentionTile {
  static constexpr int kKeyRow = kKeyDim * 2 + 16;      // bytes
  static constexpr int kValueRow = kValueDim * 2 + 16;

  uint4 q[kKeyDim / 32][2];        // [piece of 32 columns][row g, row g + 8]: columns 32 * piece + 8 t ..
  float out[kValueDim / 8][4];     // [8 columns]: row g columns 2t, 2t + 1; row g + 8 the same
  float most[2], sum[2];           // of rows g, g + 8; sum over this lane's keys only until finish()

  __device__ __forceinline__ void clear() {
    most[0] = most[1] = -INFINITY;
    sum[0] = sum[1] = 0;
#pragma unroll
    for (int i = 0; i < kValueDim / 8; ++i) out[i][0] = out[i][1] = out[i][2] = out[i][3] = 0;
  }

  // row_g, row_g8: the query rows (global, bf16), null for padding.
  __device__ __forceinline__ void load_query(const bf16* row_g, const bf16* row_g8) {
    const int t = threadIdx.x % 4;
#pragma unroll
    for (int i = 0; i < kKeyDim / 32; ++i) {
      const uint4 zero = {0, 0, 0, 0};
      q[i][0] = row_g != nullptr ? load_l2(reinterpret_cast<const uint4*>(row_g + 32 * i + 8 * t)) : zero;
      q[i][1] = row_g8 != nullptr ? load_l2(reinterpret_cast<const uint4*>(row_g8 + 32 * i + 8 * t)) : zero;
    }
  }

  // The same from shared memory: 16 rows of row_bytes.
  __device__ __forceinline__ void load_query_shared(const uint8_t* rows, int row_bytes) {
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
#pragma unroll
    for (int i = 0; i < kKeyDim / 32; ++i) {
      q[i][0] = *reinterpret_cast<const uint4*>(rows + g * row_bytes + 64 * i + 16 * t);
      q[i][1] = *reinterpret_cast<const uint4*>(rows + (g + 8) * row_bytes + 64 * i + 16 * t);
    }
  }

  // scores[n]: keys 8n + 2t, 8n + 2t + 1 of rows g (0, 1) and g + 8 (2, 3).
  template <int kT>
  __device__ __forceinline__ void score(const uint8_t* keys, float (&scores)[kT][4]) const {
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
#pragma unroll
    for (int n = 0; n < kT; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) scores[n][i] = 0;
    }
#pragma unroll
    for (int i = 0; i < kKeyDim / 32; ++i) {
      const uint32_t a0[4] = {q[i][0].x, q[i][1].x, q[i][0].y, q[i][1].y};
      const uint32_t a1[4] = {q[i][0].z, q[i][1].z, q[i][0].w, q[i][1].w};
#pragma unroll
      for (int n = 0; n < kT; ++n) {
        const uint4 k = *reinterpret_cast<const uint4*>(keys + (8 * n + g) * kKeyRow + 64 * i + 16 * t);
        mma_bf16(scores[n], a0, k.x, k.y);
        mma_bf16(scores[n], a1, k.z, k.w);
      }
    }
  }

  // Adds 8 kT keys whose scores are already scaled (in powers of two: score * log2 e) and masked with -infinity.
  template <int kT>
  __device__ __forceinline__ void add(float (&scores)[kT][4], const uint8_t* values) {
    const int lane = threadIdx.x % 32;
    float keep[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float m = -INFINITY;
#pragma unroll
      for (int n = 0; n < kT; ++n) m = fmaxf(m, fmaxf(scores[n][2 * r], scores[n][2 * r + 1]));
      m = fmaxf(m, __shfl_xor_sync(0xffffffffu, m, 1));
      m = fmaxf(m, __shfl_xor_sync(0xffffffffu, m, 2));
      m = fmaxf(m, most[r]);
      const float base = m == -INFINITY ? 0.0f : m;
      keep[r] = exp2f(most[r] - base);
      most[r] = m;
      sum[r] *= keep[r];
#pragma unroll
      for (int n = 0; n < kT; ++n) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          scores[n][2 * r + i] = exp2f(scores[n][2 * r + i] - base);
          sum[r] += scores[n][2 * r + i];
        }
      }
    }
#pragma unroll
    for (int i = 0; i < kValueDim / 8; ++i) {
      out[i][0] *= keep[0], out[i][1] *= keep[0], out[i][2] *= keep[1], out[i][3] *= keep[1];
    }
    const uint32_t address = smem_address(values + (lane / 8 % 2 * 8 + lane % 8) * kValueRow + lane / 16 * 16);
#pragma unroll
    for (int n = 0; n < kT; n += 2) {  // 16 keys
      const uint32_t a[4] = {pack_bf16(scores[n][0], scores[n][1]), pack_bf16(scores[n][2], scores[n][3]),
                             pack_bf16(scores[n + 1][0], scores[n + 1][1]),
                             pack_bf16(scores[n + 1][2], scores[n + 1][3])};
#pragma unroll
      for (int i = 0; i < kValueDim / 16; ++i) {
        uint32_t b[4];
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                     : "=r"(b[0]), "=r"(b[1]), "=r"(b[2]), "=r"(b[3])
                     : "r"(address + 8 * n * kValueRow + 32 * i)
                     : "memory");
        mma_bf16(out[2 * i], a, b[0], b[1]);
        mma_bf16(out[2 * i + 1], a, b[2], b[3]);
      }
    }
  }

  // The lanes of a row share its keys: after this every one has the row's sum.
  __device__ __forceinline__ void finish() {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      sum[r] += __shfl_xor_sync(0xffffffffu, sum[r], 1);
      sum[r] += __shfl_xor_sync(0xffffffffu, sum[r], 2);
    }
  }
};

}  // namespace minimo::cuda
