// Causal attention over a paged or ringed KV cache, with grouped query heads, an optional sliding window and optional
// sinks. For query i of a sequence at position p, over keys j in (p - window, p] (all j <= p if window is 0):
//   out = sum_j softmax_j(q . k_j * head_dim^-1/2 [, sink]) v_j      (the sink's column is dropped after the softmax)
//
// Scores and sums are float32. The order of additions depends on absolute positions alone (tiles of kAttentionTile keys
// from position 0), so chunked, batched and one-by-one runs agree bit for bit.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "tensor/dtype.h"

namespace minimo {

class ThreadTeam;

inline constexpr int kAttentionTile = 256;

// Keys and values of consecutive positions of one sequence: key of head h, position first + i at
// k + h * k_head_stride + i * head_dim (elements), likewise v.
struct KvSegment {
  const std::byte* k = nullptr;
  const std::byte* v = nullptr;
  int64_t k_head_stride = 0;
  int64_t v_head_stride = 0;
  int32_t first = 0;
  int32_t count = 0;
};

struct AttentionSequence {
  int64_t first_token = 0;  // row of its first query
  int32_t num_tokens = 0;
  int32_t past = 0;         // position of its first query
  std::vector<KvSegment> segments;  // cover every key that its queries see, in order of position
};

struct AttentionArgs {
  const float* q = nullptr;  // [tokens, heads, head_dim], row stride q_stride
  int64_t q_stride = 0;
  float* out = nullptr;      // [tokens, heads, v_head_dim], row stride out_stride
  int64_t out_stride = 0;
  int heads = 0;
  int kv_heads = 0;
  int head_dim = 0;
  int v_head_dim = 0;
  int window = 0;                // 0: none
  const float* sinks = nullptr;  // [heads], or null
  DType kv_dtype = DType::kF32;  // F32, BF16 or F8_E4M3
  std::span<const AttentionSequence> sequences;
};

void AttentionRef(const AttentionArgs& args);
void AttentionCpu(const AttentionArgs& args, ThreadTeam& team);

}  // namespace minimo
