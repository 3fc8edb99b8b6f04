// Where a lane finds its share of an FP8 unit (weight_tiles.h), and what its words are.
#pragma once

#include "cuda/kernels/common.cuh"
#include "cuda/weight_tiles.h"

namespace minimo::cuda {

// Of a 512-byte block (2 h + c): columns 32 t + 16 c .. + 15 of row g + 8 h.
__device__ __forceinline__ int fp8_piece(int g, int t) { return g * 64 + (t ^ (g / 2 % 4)) * 16; }

// Of each of a unit's 512-byte chunks: this lane's 16 bytes.
template <TileFormat kF>
__device__ __forceinline__ int lane_share() {
  const int lane = threadIdx.x % 32;
  return kF == TileFormat::kFp8 ? fp8_piece(lane / 4, lane % 4) : lane * 16;
}

// In shared memory, where the copies of blocks with c = 1 have turned their pieces by two, so that these reads hit all
// banks: columns 32 phase + 8 t .. + 7 of row g (row g + 8: 1024 bytes further).
__device__ __forceinline__ int fp8_run(int phase) {
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  return t / 2 * 512 + g * 64 + (phase ^ (g / 2 % 4) ^ (t / 2 * 2)) * 16 + t % 2 * 8;
}

// Four steps of rows g and g + 8; word j of each is step j.
struct Fp8Steps {
  uint4 top, bottom;
};

}  // namespace minimo::cuda
