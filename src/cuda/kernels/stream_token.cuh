// y = W x for one token, bound by memory. See stream_token.cu.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/kernels/router.cuh"
#include "cuda/weight_tiles.h"

namespace minimo::cuda {

enum class OneMode : int {
  kDense,    // one matrix; the columns in `splits` runs
  kGateUp,   // the chosen experts' gate/up matrices, one x
  kDown,     // the chosen experts' down matrices, an x each; the experts in `splits` runs
};

enum class OneEpilogue : int {
  kStore,    // out[row] = y; squares[tile] = sum of the squares of its 16 rows, if wanted
  kPartial,  // out[split * out_stride + row] = y: the next kernel adds the splits
  kSwiGlu,   // gate/up tile: out[choice * out_stride + row] = silu(gate) * up
};

inline constexpr int kMaxPartials = 4;

struct OneParams {
  OneMode mode = OneMode::kDense;
  OneEpilogue epilogue = OneEpilogue::kStore;
  TileShape shape;  // of one matrix (of one expert)
  const uint8_t* weights = nullptr;
  const uint8_t* scales = nullptr;
  int64_t expert_weight_bytes = 0, expert_scale_bytes = 0;
  int splits = 1;

  // x[column] = (input[column] + sum of partial[i * partial_stride + column]) * norm_weight[column]; with norm_weight y
  // is multiplied by rsqrt(mean of the squares of the sum + norm_eps). kDown: input [choices, input_stride], times the
  // choice's weight.
  int cols = 0;
  const void* input = nullptr;
  bool input_bf16 = false;
  int input_stride = 0;
  const float* partial = nullptr;
  int partials = 0;  // at most kMaxPartials
  int partial_stride = 0;
  const float* norm_weight = nullptr;
  float norm_eps = 0;
  // [cols] input + partials, for the kernels after; not the input's own memory. null: not wanted.
  float* sum_out = nullptr;
  // kGateUp: x as LaunchRouterOne leaves it, instead of all of these but norm_eps and whether there is a norm.
  const uint8_t* operands = nullptr;
  const float* square_sum = nullptr;

  ChoiceParams choice;  // kGateUp, kDown

  float* out = nullptr;
  int out_stride = 0;
  int out_rows = 0;  // rows beyond are padding and are not written
  float* squares = nullptr;
};

bool CanStreamToken(const OneParams& params);
// Places of 128 columns that x takes in shared memory, at most kMostOperandBytes each.
int StreamTokenPlaces(const OneParams& params);
inline constexpr int kMostOperandBytes = 768;
// Into how many runs to cut a product, so that its items fill the device's multiprocessors evenly.
int StreamTokenSplits(OneMode mode, const TileShape& shape, int top_k);
cudaError_t LaunchStreamToken(const OneParams& params, cudaStream_t stream);

}  // namespace minimo::cuda
