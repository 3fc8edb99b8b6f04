// Activations to e4m3 with a scale for each 128 columns of a row (for 4-bit weights 1,024), laid out for fp8_linear.
#pragma once

#include "cuda/kernels/fp8_linear.cuh"

namespace minimo::cuda {

// Rows of bf16, or of the residual times a norm's weight; then times the RMSNorm's factor, if square_sums are given.
struct QuantiseParams {
  int tokens = 0;
  int cols = 0;  // multiple of 4; units are padded with zeros
  const void* x = nullptr;  // bf16 [tokens, x_stride], x_stride >= units * 128; null: residual * norm_weight
  int x_stride = 0;
  const float* residual = nullptr;     // [tokens, cols]
  const float* norm_weight = nullptr;  // [cols]
  const float* square_sums = nullptr;  // [tokens, square_sum_count]; null: no norm
  int square_sum_count = 0;
  int norm_cols = 0;
  float norm_eps = 0;
  const int* slot_of = nullptr;  // [tokens, top_k]: the rows a token goes to, below 0 none; null: row `token`
  int top_k = 1;
  Fp8Activations out;
  int units = 0;

  // With tiles: makes of the router's lists those that fp8_linear walks.
  const int* num_active = nullptr;
  const int* active = nullptr;
  const int* offsets = nullptr;
  int tile_tokens = 0;  // the most a tile may have, Fp8TileTokens; at least 64
  Fp8Tile* tiles = nullptr;  // [MostFp8Tiles]
  int* num_tiles = nullptr;
};
cudaError_t LaunchQuantise(const QuantiseParams& params, cudaStream_t stream);
// Its part for 4-bit weights (quantise_chunks.cu).
cudaError_t LaunchQuantiseChunks(const QuantiseParams& params, cudaStream_t stream);

// An expert's slots begin anywhere, its tiles at a multiple of 8.
constexpr int64_t MostFp8Tiles(int64_t slots, int64_t experts) { return (slots + 7 * experts) / 64 + experts; }

// The first rows of bf16 activations in the layout that fp8_linear takes with bf16 weights (attention_store.cuh).
struct ArrangeParams {
  int tokens = 0;
  const void* x = nullptr;  // bf16 [tokens, units * 128]
  int units = 0;
  Fp8Activations out;       // values alone
};
cudaError_t LaunchArrange(const ArrangeParams& params, cudaStream_t stream);

// residual += the sum of a row's experts; RMSNorm; quantised for the next layer or, with next_x, as bf16 before the
// norm's factor (times next_norm), with the row's sum of squares.
struct CombineParams {
  int tokens = 0;
  int hidden = 0;  // multiple of 4, at most 8192
  const void* expert_out = nullptr;  // bf16 [slots, hidden], already weighted
  const int* slot_of = nullptr;      // [tokens, top_k]
  int top_k = 0;
  float* residual = nullptr;         // [tokens, hidden]
  const float* next_norm = nullptr;  // [hidden]
  float norm_eps = 0;
  Fp8Activations out;
  void* next_x = nullptr;
  int next_x_stride = 0;
  float* square_sums = nullptr;  // [tokens, square_sum_count], with next_x: the first is all, zeros behind it
  int square_sum_count = 1;
};
cudaError_t LaunchCombine(const CombineParams& params, cudaStream_t stream);

}  // namespace minimo::cuda
