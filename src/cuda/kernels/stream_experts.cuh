// The chosen experts' products for 2 to 256 tokens, each expert's weights streamed once. See stream_experts.cu.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/weight_tiles.h"

namespace minimo::cuda {

struct ExpertsParams {
  bool gate_up = true;  // out[slot][row] = silu(gate) * up; else (down) out[slot][row] = slot_weight[slot] * y
  TileShape shape;      // of one expert's matrix
  const uint8_t* weights = nullptr;
  const uint8_t* scales = nullptr;
  int64_t expert_weight_bytes = 0, expert_scale_bytes = 0;
  int experts = 0;
  int tokens = 0;

  // Entry a of the active list is expert active[a] with slots [offsets[a], offsets[a + 1]).
  const int* num_active = nullptr;
  const int* active = nullptr;
  const int* offsets = nullptr;
  const int* slot_token = nullptr;     // gate/up: [slots] row of the input
  const float* slot_weight = nullptr;  // down: [slots]

  // Gate/up: input [tokens, input_stride] times norm_weight[column] times rsqrt(token_squares / cols + norm_eps).
  // Down: input [slots, input_stride].
  int cols = 0;
  const float* input = nullptr;
  int input_stride = 0;
  const float* norm_weight = nullptr;
  const float* token_squares = nullptr;
  float norm_eps = 0;

  float* out = nullptr;
  int out_stride = 0;
  int out_rows = 0;  // rows beyond are padding and are not written
};

bool CanStreamExperts(const ExpertsParams& params);
cudaError_t LaunchStreamExperts(const ExpertsParams& params, cudaStream_t stream);

}  // namespace minimo::cuda
