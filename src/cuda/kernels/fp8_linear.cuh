// y = W x for many tokens on FP8 tensor cores, activations quantised to e4m3 with one scale for 128 columns (FP8
// weights) or 1,024 (4 bits); and with both in bf16.
// See fp8_linear.cu, fp8_wide.cu, fp8_int4.cu.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/kernels/stream_linear.cuh"
#include "cuda/weight_tiles.h"

namespace minimo::cuda {

constexpr int kChunkUnits = 8;  // units of a chunk: offsets of 4-bit weights' activations come so many at a time

// Quantised activations, written by LaunchQuantise, unit (128 columns) by unit, `rows` rows each. Values are ready to
// be an operand of wgmma: 16-byte piece p of row r lies at p ^ (r % 8), the columns of a unit are in the order of the
// weight tiles, for 4-bit weights (quantise_chunks.cu) another than for FP8 (fp8_quantise.cu). Products read up to 32
// rows beyond the last.
struct Fp8Activations {
  uint8_t* values = nullptr;  // [units][rows][128] e4m3; or [units][2][rows][64] bf16 (attention_store.cuh)
  // [units][rows]; with offsets [chunks][rows], over the next chunk's scale, of the last chunk times kInt4Scale.
  float* scales = nullptr;
  // For 4-bit weights: kOffset * (sum of the e4m3 values) of the two groups of 64 columns of each unit, each as the sum
  // of two bf16: (first of both groups, rest of both). [chunks][rows][4][2], unit 4 j + i of the chunk at [i][j], zeros
  // beyond the last unit. Null: not wanted.
  uint2* offsets = nullptr;
  int rows = 0;  // multiple of 8

  static constexpr int kSlack = 32;
  static constexpr float kInt4Scale = 512;  // 4-bit codes as e4m3 bytes are 1 / 512 of themselves
  static constexpr float kOffset = -8 / kInt4Scale;
};

// Tokens of one block: rows [first, end) of the activations, of which those before `begin` belong to another expert.
struct Fp8Tile {
  int expert;
  int first;  // multiple of 8
  int begin;
  int end;
};

struct Fp8LinearParams {
  Epilogue epilogue = Epilogue::kStore;
  TileShape shape;  // FP8, 4 bits in groups of 64 or 128, or (kStore and kResidual) bf16
  const uint8_t* weights = nullptr;
  const uint8_t* scales = nullptr;
  int64_t expert_weight_bytes = 0;
  int64_t expert_scale_bytes = 0;
  Fp8Activations x;

  int tokens = 0;                    // dense
  int tile_tokens = 0;               // experts: the most of a tile
  const Fp8Tile* tiles = nullptr;    // experts, device; null: dense
  const int* num_tiles = nullptr;
  const float* slot_weight = nullptr;

  float* out = nullptr;  // kStore
  int out_stride = 0;
  int out_rows = 0;      // rows beyond are padding and are not written
  void* out_x = nullptr;  // kSwiGlu: bf16 [rows, out_x_stride]; kSlot: times slot_weight; kStoreBf16
  int out_x_stride = 0;
  float* residual = nullptr;          // kResidual
  const float* next_norm = nullptr;   // with kResidual: null, no next_x
  void* next_x = nullptr;             // bf16
  int next_x_stride = 0;
  float* next_square_sums = nullptr;  // [tokens, shape.tiles]; null: not wanted
};

constexpr int kMostInt4Units = 64;  // a block quantises a row
inline bool HasFp8Linear(const TileShape& s) {
  return s.format == TileFormat::kFp8 ||
         (s.format == TileFormat::kInt4 && s.group_cols >= 64 && s.units <= kMostInt4Units);
}
// The most tokens of an expert a tile should have, as LaunchQuantise and LaunchFp8Linear are told.
int Fp8TileTokens(TileFormat format, int64_t slots, int experts);
cudaError_t LaunchFp8Linear(const Fp8LinearParams& params, cudaStream_t stream);
// Its parts for FP8 weights and many tokens (fp8_wide.cu), and for 4 bits (fp8_int4.cu).
cudaError_t LaunchFp8Wide(const Fp8LinearParams& params, cudaStream_t stream);
cudaError_t LaunchFp8Int4(const Fp8LinearParams& params, cudaStream_t stream);
constexpr int kInt4TileTokens = 80;

}  // namespace minimo::cuda
