// The arithmetic of the batch's experts kernel (stream_experts.cu): a unit of 128 columns of one or two tiles times
// 8 kN tokens.
// - Weights become halves exactly: FP8 as they are; 4 bits as 1024 + q (row g) and 1024 + 16 q (row g + 8) where
//   q = value + 8, one instruction a pair. What that adds, 1032 or 1152 times the sum of x over the group, is where the
//   sums start.
// - Tiles mix four groups of 32 columns in a step of mma (weight_tiles.h). Here a lane reads the shares of other lanes,
//   so that a phase of 4 steps has 64 neighbouring columns (FP8: a phase of 2 steps 32), hence one scale. The copies
//   place shares so that these reads hit all banks.
#pragma once

#include "cuda/kernels/experts_walk.cuh"
#include "cuda/kernels/fp8_unit.cuh"

namespace minimo::cuda::experts {

// 1024 + q of nibbles 0 and 4, 1024 + 16 q of nibbles 1 and 5.
__device__ __forceinline__ void halves_of_nibbles(uint32_t word, uint32_t& row_g, uint32_t& row_g8) {
  constexpr uint32_t k1024 = 0x64006400;
  asm("lop3.b32 %0, %1, 0x000f000f, %2, 0xea;" : "=r"(row_g) : "r"(word), "r"(k1024));
  asm("lop3.b32 %0, %1, 0x00f000f0, %2, 0xea;" : "=r"(row_g8) : "r"(word), "r"(k1024));
}

// Adds a unit to sums[tile][block of tokens]: rows g (0, 1) and g + 8 (2, 3; 4 bits: times 16), tokens 2t and 2t + 1.
// at: this lane's x of the unit for each block of tokens; start: where the sums of its two tokens start.
template <int kN>
__device__ __forceinline__ void multiply_int4(const uint8_t* stage, const uint32_t (&at)[kN],
                                              const uint32_t (&start)[kN][2], int second_group,
                                              float (&sums)[2][kN][4]) {
  using C = Config<TileFormat::kInt4>;
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const uint32_t weights = smem_address(stage), scales = weights + 2 * 1024 + g * 4;
#pragma unroll
  for (int phase = 0; phase < 2; ++phase) {
    const uint32_t share = weights + t % 2 * 512 + ((4 * g + 2 * phase + t / 2) ^ (t % 2 * 2)) * 16;
    uint4 w[2];
    float scale[2][2];
#pragma unroll
    for (int m = 0; m < 2; ++m) {
      w[m] = load_shared(share + m * 1024);
      uint32_t pair;
      asm volatile("ld.shared.u32 %0, [%1];" : "=r"(pair) : "r"(scales + m * C::kScaleBytes + phase * second_group));
      scale[m][0] = __uint_as_float(pair << 16), scale[m][1] = __uint_as_float(pair & 0xffff0000);
    }
    uint4 x[kN][2];
    float d[2][kN][4];
#pragma unroll
    for (int n = 0; n < kN; ++n) {
      x[n][0] = load_shared(at[n] + phase * 128), x[n][1] = load_shared(at[n] + phase * 128 + 16);
      const float2 even = load_shared_float2(start[n][0] + phase * 8);
      const float2 odd = load_shared_float2(start[n][1] + phase * 8);
#pragma unroll
      for (int m = 0; m < 2; ++m) d[m][n][0] = even.x, d[m][n][1] = odd.x, d[m][n][2] = even.y, d[m][n][3] = odd.y;
    }
#pragma unroll
    for (int step = 0; step < 4; ++step) {
#pragma unroll
      for (int m = 0; m < 2; ++m) {
        const uint32_t word = step == 0 ? w[m].x : step == 1 ? w[m].y : step == 2 ? w[m].z : w[m].w;
        uint32_t a[4];
        halves_of_nibbles(word, a[0], a[1]);
        halves_of_nibbles(word >> 8, a[2], a[3]);
#pragma unroll
        for (int n = 0; n < kN; ++n) {
          const uint4 v = x[n][step / 2];
          mma_half(d[m][n], a, step % 2 == 0 ? v.x : v.z, step % 2 == 0 ? v.y : v.w);
        }
      }
    }
#pragma unroll
    for (int m = 0; m < 2; ++m) {
#pragma unroll
      for (int n = 0; n < kN; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) sums[m][n][i] += scale[m][i / 2] * d[m][n][i];
      }
    }
  }
}

template <int kN>
__device__ __forceinline__ void multiply_fp8(const uint8_t* stage, const uint32_t (&at)[kN], float (&sums)[1][kN][4]) {
  const uint32_t weights = smem_address(stage);
  float d[kN][4] = {};
#pragma unroll
  for (int phase = 0; phase < 4; ++phase) {
    const uint32_t run = weights + fp8_run(phase);
    const uint2 top = load_shared_pair(run), bottom = load_shared_pair(run + 1024);
    uint32_t a[2][4];
    halves_of(top.x, a[0][0], a[0][2]);
    halves_of(bottom.x, a[0][1], a[0][3]);
    halves_of(top.y, a[1][0], a[1][2]);
    halves_of(bottom.y, a[1][1], a[1][3]);
#pragma unroll
    for (int n = 0; n < kN; ++n) {
      const uint4 x = load_shared(at[n] + phase * 64);
      mma_half(d[n], a[0], x.x, x.y);
      mma_half(d[n], a[1], x.z, x.w);
    }
  }
  const float2 scale = load_shared_float2(weights + 2048);
#pragma unroll
  for (int n = 0; n < kN; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) sums[0][n][i] += (i < 2 ? scale.x : scale.y) * d[n][i];
  }
}

}  // namespace minimo::cuda::experts
