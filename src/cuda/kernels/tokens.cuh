// The small operators along a token's row: embedding, the sum of its experts, QK norm, RoPE, the KV cache.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/kernels/split_rows.cuh"

namespace minimo::cuda {

// Where a token stands; device arrays, one entry a token of the step.
struct TokenMeta {
  const int* position = nullptr;
  const int* block_table = nullptr;  // index of its sequence's first entry in block_tables
  const int* ring = nullptr;
  const int* block_tables = nullptr;  // physical blocks
  const int* past = nullptr;          // tokens of its sequence that were in the cache before the step
  const int* last = nullptr;          // position of its sequence's last new token
};

// K or V of one layer: paged [blocks, kv_heads, block_size, dim] or rings [rings, kv_heads, ring_tokens, dim].
struct KvView {
  void* data = nullptr;
  int dim = 0;
  int kv_heads = 0;
  int rows = 0;       // block_size, or ring_tokens
  bool ring = false;
  int element_bytes = 2;  // bf16 2; e4m3 1; float32 4 (kernels/kv_element.cuh)
  bool half = false;      // with 2: halves in place of bf16
};

// Sums of squares of a row of the residual: a part for each kRowColumns columns.
inline constexpr int kRowColumns = 1024;
constexpr int RowParts(int hidden) { return (hidden + kRowColumns - 1) / kRowColumns; }

// Starts a row: residual = embedding, or residual += sum over its experts of expert_out[slot_of]. Then
// next_x = residual * next_norm and the row's sums of squares, for the RMSNorm folded into the next product.
struct RowParams {
  int tokens = 0;
  int hidden = 0;                      // in fours
  const int* token_ids = nullptr;      // with embedding: the row's token
  const void* embedding = nullptr;     // [vocab, hidden] bf16 or float32; null: add experts
  bool embedding_f32 = false;
  const float* expert_out = nullptr;   // [slots, hidden], already weighted
  const int* slot_of = nullptr;        // [tokens, top_k]
  int top_k = 0;                       // at most 32
  float* residual = nullptr;           // [tokens, hidden]
  const float* next_norm = nullptr;    // [hidden]
  void* next_x = nullptr;              // [tokens, next_x_stride]
  int next_x_stride = 0;
  SplitRows split;                     // next_x in two parts, unless null; bf16 activations
  float* square_sums = nullptr;        // [tokens, RowParts(hidden)]
};
cudaError_t LaunchRow(const RowParams& params, bool f32_activations, cudaStream_t stream);

// From the QKV product to queries and cache rows: flat RMSNorm of all of q and of all of k (M2), RoPE on the first
// rotary_dim of each head (halves rotated), v * value_scale.
struct RopeParams {
  int tokens = 0;
  int heads = 0, kv_heads = 0, head_dim = 0, v_head_dim = 0, rotary_dim = 0;
  const float* qkv = nullptr;  // [tokens, qkv_stride]: q at 0, k at k_offset, v at v_offset
  const void* qkv_bf16 = nullptr;  // instead of qkv, in LaunchRope where HasRopeRows
  int qkv_stride = 0, k_offset = 0, v_offset = 0;
  const float* q_norm = nullptr;  // [heads * head_dim]; null: no norm
  const float* k_norm = nullptr;  // [kv_heads * head_dim]
  float norm_eps = 0;
  const float* square_sums = nullptr;  // with q_norm: [tokens, square_sum_count], one for each 16 columns of qkv
  int square_sum_count = 0;
  const float* norm_sums = nullptr;  // of several ranks: [tokens, 2], the squares of the whole query and key
  int whole_q = 0, whole_k = 0;      // with norm_sums: columns of the whole
  const float* inverse_frequency = nullptr;  // [rotary_dim / 2]
  float value_scale = 1;
  void* q = nullptr;  // out [tokens, heads, head_dim], activation type
  // Where k and v go: the cache; or, in ring layers when a step's new tokens may overrun the ring, fresh_k and fresh_v
  // [tokens, kv_heads, dim], elements as the cache's, which attention reads and LaunchRingWrite then moves into the
  // rings.
  KvView k, v;
  void* fresh_k = nullptr;
  void* fresh_v = nullptr;
  // Of an FP8 cache, where HasRopeRows: what k and v hold then, besides, as bf16 [tokens, kv_heads, dim]; null: not.
  void* wide_k = nullptr;
  void* wide_v = nullptr;
  TokenMeta meta;
};
cudaError_t LaunchRope(const RopeParams& params, bool f32_activations, cudaStream_t stream);
// The same for bf16 queries, at least kRopeRowsTokens tokens and heads of whole eights of columns, no halves
// (rope_rows.cu).
inline constexpr int kRopeRowsTokens = 64;  // fewer leave its blocks alone on the device
bool HasRopeRows(const RopeParams& params);
cudaError_t LaunchRopeRows(const RopeParams& params, cudaStream_t stream);

// fresh [tokens, kv_heads, dim] -> rings, for the last `rows` positions of each sequence.
cudaError_t LaunchRingWrite(const KvView& view, const void* fresh, int tokens, const TokenMeta& meta,
                            cudaStream_t stream);

// Copies whole blocks or rings of one K or V pool: to[i] = from[i].
cudaError_t LaunchCacheCopy(const KvView& view, const int* from, const int* to, int count, cudaStream_t stream);

}  // namespace minimo::cuda
