// Which experts each token goes to, and the lists the expert kernels walk.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/weight_tiles.h"

namespace minimo::cuda {

inline constexpr int kRouterSplits = 8;
inline constexpr int kBatchSplits = 16;  // of a step of at most 256 tokens
inline constexpr int kRouterExperts = 256;

struct RouterParams {
  int tokens = 0;
  int experts = 0;  // at most kRouterExperts
  int top_k = 0;    // at most 32
  int hidden = 0;   // multiple of 4
  int groups = 1;   // of equal size, at most 32; only the best top_groups (by the sum of their two best) take part
  int top_groups = 1;
  const float* residual = nullptr;     // [tokens, hidden]
  const float* norm_weight = nullptr;  // [hidden]
  const float* square_sums = nullptr;  // [tokens, square_sum_count] of the residual
  int square_sum_count = 0;
  float norm_eps = 0;
  const float* weights = nullptr;  // [experts, hidden]
  const uint8_t* split_weights = nullptr;  // of LaunchSplitRouter: for more than 256 tokens; null: none
  const float* bias = nullptr;     // [experts] for the choice only; null: none
  int bias_stride = 0;             // from one token's biases to the next; 0: all tokens have the same
  bool renormalise = true;
  float renormalise_epsilon = 0;
  float scale = 1;

  float* logits = nullptr;       // workspace [kRouterSplits, or kBatchSplits, tokens, experts]
  int* counter = nullptr;        // [2] the first zero between launches, the second router_batch's own
  int* counts = nullptr;         // workspace of RouterCounts(tokens), with split_weights
  float* token_squares = nullptr;  // out [tokens]: sums of square_sums
  int* chosen = nullptr;         // out [tokens, top_k] experts, best first
  float* chosen_weight = nullptr;  // out [tokens, top_k]
  // The lists (LinearParams): active experts in ascending order (one token: best first), slots sorted by expert.
  int* num_active = nullptr;     // [1]
  int* active = nullptr;         // [min(experts, tokens * top_k)]
  int* offsets = nullptr;        // [active + 1]
  int* slot_token = nullptr;     // [tokens * top_k]
  float* slot_weight = nullptr;  // [tokens * top_k]
  int* slot_of = nullptr;        // [tokens, top_k]: where each choice lies
  long long* expert_load = nullptr;  // [experts] tokens routed since start, += ; null: not counted

  // With LaunchRouterBatch: no lists but the choices, of which the experts' kernels make them.
  bool choices_only = false;
  // The residual, normed, as the batch's experts take it (ExpertRow): out [tokens] rows; null: not wanted.
  uint8_t* rows = nullptr;
  int row_units = 0;
  bool rows_int4 = false;
};

cudaError_t LaunchRouter(const RouterParams& params, cudaStream_t stream);

// Up to 256 tokens (router_batch.cu); the only one that makes rows.
bool CanRouteBatch(const RouterParams& params);
// apart: scores and choices as two launches, as where too few of its blocks run at once.
cudaError_t LaunchRouterBatch(const RouterParams& params, cudaStream_t stream, bool apart = false);

// More than 256 tokens, weights as two bf16 each: the product within 1e-5 of float32's (router_many.cu).
cudaError_t LaunchRouterMany(const RouterParams& params, cudaStream_t stream);
inline constexpr int kRouterTokens = 128;  // of a block
inline constexpr int kMostExtraBlocks = 132;  // beyond one for each kRouterTokens
constexpr int64_t RouterCounts(int64_t tokens) {
  return ((tokens + kRouterTokens - 1) / kRouterTokens + kMostExtraBlocks) * kRouterExperts;
}
constexpr int64_t SplitRouterBytes(int64_t hidden) { return (hidden + 63) / 64 * 64 * kRouterExperts * 4; }
// weights [experts, hidden] times norm_weight [hidden] -> split_weights.
cudaError_t LaunchSplitRouter(const float* weights, const float* norm_weight, int experts, int hidden, uint8_t* to,
                              cudaStream_t stream);

// logits only, of many tokens (router_logits.cu).
cudaError_t LaunchRouterLogits(const RouterParams& params, cudaStream_t stream);

// One token: the product alone. Whoever needs the choice makes it from the logits (choose.cuh): that costs less than a
// kernel or a barrier in between. Blocks of their own leave x as the experts' gate/up kernel takes it, once for all.
struct RouterOneParams {
  int experts = 0;
  int hidden = 0;  // multiple of 4
  const float* residual = nullptr;     // [hidden], to which partial is added
  const float* partial = nullptr;      // [partials, hidden]
  int partials = 0;
  const float* norm_weight = nullptr;  // [hidden]
  float norm_eps = 0;
  const float* weights = nullptr;      // [experts, hidden]
  const float* bias = nullptr;         // [experts] for the choice only; null: none
  // out [3][experts]: logits, scaled by the norm; their sigmoids; sigmoid + bias as unsigned numbers in the same order,
  // 0 where that is no number.
  float* logits = nullptr;
  TileFormat format = TileFormat::kBf16;  // of the experts, as in their TileShape
  int units = 0, group_cols = 0;
  int places = 0;                      // StreamTokenPlaces(of their gate/up product)
  uint8_t* operands = nullptr;         // out: x in that kernel's shared memory
  float* square_sum = nullptr;         // out: of x before norm_weight
  float* sum_out = nullptr;            // out [hidden] residual + partial, other memory; null: not wanted
};
cudaError_t LaunchRouterOne(const RouterOneParams& params, cudaStream_t stream);

struct ChoiceParams {
  int experts = 0;  // at most kRouterExperts
  int top_k = 0;    // at most 32
  int groups = 1;   // as in RouterParams
  int top_groups = 1;
  const float* logits = nullptr;  // [experts]; in the kernels of one token [3][experts] of RouterOneParams
  const float* bias = nullptr;
  bool renormalise = true;
  float renormalise_epsilon = 0;
  float scale = 1;
  long long* expert_load = nullptr;  // [experts] tokens routed since start, += ; null: not counted
};

}  // namespace minimo::cuda
