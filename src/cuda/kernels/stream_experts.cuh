// The chosen experts' products for 2 to 256 tokens, each expert's weights streamed once. See stream_experts.cu.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/weight_tiles.h"

namespace minimo::cuda {

// A row of activations as the kernel takes it, in global and in shared memory:
//   halves [units x 128], the row scaled by a power of two so that its largest lies below 2^14, which keeps 11 bits of
//     whatever is above 2^-28 of that;
//   4 bits: for each 64 columns a pair of floats, -1032 and -1152 times the sum of their halves (experts_multiply.cuh);
//   one float, the factor for sums of the row's products.
// Rows are as long as makes two neighbouring ones fall into other banks where a quarter of a warp reads them.
struct ExpertRow {
  int units = 0;
  bool int4 = false;
  __host__ __device__ constexpr int starts() const { return units * 2 * kUnitCols; }
  __host__ __device__ constexpr int factor() const { return starts() + (int4 ? units * 16 : 0); }
  __host__ __device__ constexpr int bytes() const { return int4 ? ((units * 17 + 1) | 1) * 16 : starts() + 64; }
};

struct ExpertsParams {
  bool gate_up = true;  // out[slot][row] = silu(gate) * up; else (down) out[slot][row] = slot_weight[slot] * y
  TileShape shape;      // of one expert's matrix
  const uint8_t* weights = nullptr;
  const uint8_t* scales = nullptr;
  int64_t expert_weight_bytes = 0, expert_scale_bytes = 0;
  int experts = 0;
  int tokens = 0, top_k = 0;

  // Entry a of the active list is expert active[a] with slots [offsets[a], offsets[a + 1]).
  const int* num_active = nullptr;
  const int* active = nullptr;
  const int* offsets = nullptr;
  const int* slot_token = nullptr;     // gate/up: [slots] row of the input
  const float* slot_weight = nullptr;  // down: [slots]
  // In place of these lists the choices they are made of (CanListChoices), as the router leaves them; gate/up then
  // gives its slot_of and expert_load.
  const int* chosen = nullptr;          // [tokens, top_k]
  const float* chosen_weight = nullptr;
  int* slot_of = nullptr;
  long long* expert_load = nullptr;

  // Gate/up: [tokens] rows as in ExpertRow, made by the router. Down: [slots, input_stride], cols of them used.
  const uint8_t* rows = nullptr;
  const float* input = nullptr;
  int input_stride = 0;
  int cols = 0;

  float* out = nullptr;
  int out_stride = 0;
  int out_rows = 0;  // rows beyond are padding and are not written
};

bool CanStreamExperts(const ExpertsParams& params);
bool CanListChoices(const ExpertsParams& params);
cudaError_t LaunchStreamExperts(const ExpertsParams& params, cudaStream_t stream);

}  // namespace minimo::cuda
