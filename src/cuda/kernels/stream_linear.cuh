// y = W x for few tokens: streams each 16-row tile of W once. See stream_linear.cu.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/kernels/split_rows.cuh"
#include "cuda/weight_tiles.h"

namespace minimo::cuda {

// What becomes of a tile's outputs.
enum class Epilogue : int {
  kStore,     // out[token][row] = y (float32); sums of the squares of the tile's 16 rows, if wanted
  kResidual,  // residual[token][row] += y; next_x[token][row] = residual * next_norm; sum of squares of the 16 rows
  kSwiGlu,    // gate/up tile: out_x[slot][row] = silu(gate) * up
  kSlot,      // out[slot][row] = slot_weight[slot] * y (float32)
  kStoreBf16, // as kStore, but out_x[token][row] in bf16 (fp8_linear alone)
};

enum class LinearMode : int {
  kDense,     // all tokens through one matrix
  kExperts,   // blockIdx.y picks an active expert, its slots are the tokens
  kFusedDown  // one token: sum over its top_k experts of weight * (W_expert x_slot)
};

// Activations are bf16 or float32 (x, next_x and out_x alike), rows of x_stride elements, zero beyond the columns.
struct LinearParams {
  LinearMode mode = LinearMode::kDense;
  Epilogue epilogue = Epilogue::kStore;
  TileShape shape;              // of one matrix (of one expert)
  const uint8_t* weights = nullptr;
  const uint8_t* scales = nullptr;
  int64_t expert_weight_bytes = 0;  // from one expert to the next
  int64_t expert_scale_bytes = 0;

  const void* x = nullptr;      // [tokens or slots, x_stride]
  int x_stride = 0;
  int tokens = 0;               // kDense
  SplitRows split;              // x in two parts, or room for them: for batch_split
  bool split_made = false;      // by the kernel that made x
  // RMSNorm folded into the product: x holds x * weight, y is multiplied by rsqrt(sum(square_sums) / norm_cols + eps).
  const float* square_sums = nullptr;  // [tokens, square_sum_count]; null: no norm
  int square_sum_count = 0;
  int norm_cols = 0;
  float norm_eps = 0;

  // Experts: entry a of the active list is expert active[a] with slots [offsets[a], offsets[a + 1]).
  const int* num_active = nullptr;
  const int* active = nullptr;
  const int* offsets = nullptr;
  const int* slot_token = nullptr;     // [slots] row of x and of square_sums; null: the slot itself
  const float* slot_weight = nullptr;  // [slots]
  int max_active = 0;                  // grid.y
  int top_k = 0;                       // kFusedDown

  float* out = nullptr;
  int out_stride = 0;
  int out_rows = 0;             // rows beyond are padding and are not written
  void* out_x = nullptr;        // kSwiGlu: [slots, out_x_stride]
  int out_x_stride = 0;
  float* residual = nullptr;    // [tokens, out_rows]
  const float* next_norm = nullptr;   // [out_rows]; null: no next_x
  void* next_x = nullptr;
  int next_x_stride = 0;
  float* next_square_sums = nullptr;  // [tokens, shape.tiles]; null: not wanted
};

// One token, bf16 activations: the fastest. CanStreamOne: the shapes it takes.
bool CanStreamOne(const LinearParams& params);
cudaError_t LaunchStreamOne(const LinearParams& params, cudaStream_t stream);

cudaError_t LaunchStreamLinear(const LinearParams& params, bool f32_activations, cudaStream_t stream);

}  // namespace minimo::cuda
