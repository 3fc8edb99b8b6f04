// From a checkpoint's row-major tensors to the tiles of weight_tiles.h, on the device; and random tiles for benches.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/weight_tiles.h"

namespace minimo::cuda {

// kInt4: int32 words of 8 nibbles (value + 8) along columns.
enum class SourceType : int { kF32, kF16, kBf16, kFp8, kInt4 };

struct RepackParams {
  SourceType source = SourceType::kBf16;
  TileShape shape;
  // Rows 0..7 of a tile come from top, rows 8..15 from bottom. Interleaved (gate/up): tile r takes rows 8r.. of both;
  // otherwise top == bottom and tile r takes rows 16r...
  const void* top = nullptr;
  const void* bottom = nullptr;
  bool interleaved = false;
  int rows = 0;  // of one source
  int cols = 0;
  // Scales: FP8 float [rows, ceil(cols / 128)], a row of the grid for every row (grids differ); 4 bits bf16
  // [rows, cols / group_cols].
  const void* top_scale = nullptr;
  const void* bottom_scale = nullptr;
  int scale_cols = 0;
  uint8_t* weights = nullptr;  // the tiles of this matrix
  uint8_t* scales = nullptr;
};

// Sources other than the tile's own format are converted: float32 to bf16 rounds, bf16 or FP8 (with its scales) to
// float32 is exact, FP8 with its scales to bf16 rounds once.
cudaError_t LaunchRepack(const RepackParams& params, cudaStream_t stream);

// Uniform random weights of standard deviation `deviation` in every tile; scales constant.
cudaError_t LaunchRandomTiles(const TileShape& shape, int64_t matrices, uint8_t* weights, uint8_t* scales,
                              float deviation, uint64_t seed, cudaStream_t stream);
cudaError_t LaunchRandomFloats(float* to, int64_t count, float mean, float deviation, uint64_t seed,
                               cudaStream_t stream);
cudaError_t LaunchRandomBf16(void* to, int64_t count, float deviation, uint64_t seed, cudaStream_t stream);

}  // namespace minimo::cuda
