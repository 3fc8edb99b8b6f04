// Attention of a step's tokens over their sequences' caches: paged or ring, full or windowed, with or without sinks.
#pragma once

#include <cuda_runtime.h>

#include "cuda/kernels/tokens.cuh"

namespace minimo::cuda {

// kPrefillTileRows (128) rows of one sequence: row r of it is token r / group, head r % group of the KV head
// (group = heads / kv_heads).
struct PrefillTile {
  int first_token;  // of the sequence, in the step
  int num_tokens;   // of the sequence in the step
  int first_row;
  int past;
};

struct AttentionParams {
  int tokens = 0;
  int heads = 0, kv_heads = 0, head_dim = 0, v_head_dim = 0;
  int window = 0;               // 0: full; else keys j with i - window < j <= i
  float scale = 1;
  const float* sinks = nullptr;  // [heads] logits that take part in the softmax and carry no value; null: none
  const void* q = nullptr;      // [tokens, heads, head_dim], activation type, as is out
  KvView k, v;
  // [tokens, kv_heads, dim] of positions >= past, elements as the cache's; null: they are in it.
  const void* fresh_k = nullptr;
  const void* fresh_v = nullptr;
  // Prompts of an FP8 cache: the same of those that are in it, widened to bf16; null: not at hand.
  const void* wide_k = nullptr;
  const void* wide_v = nullptr;
  void* out = nullptr;          // [tokens, out_stride]: heads x v_head_dim
  bool out_f32 = false;         // decode on the tensor cores: out is float32
  int out_stride = 0;
  // Prompts, value heads of 128: instead of out, the operand of the product after it, as Fp8Activations has it, a
  // unit a head: e4m3 with scales, or bf16 without.
  uint8_t* product_values = nullptr;
  float* product_scales = nullptr;
  int product_rows = 0;
  TokenMeta meta;

  int splits = 1;                   // decode: runs of the context, each a block of a cluster
  const PrefillTile* tiles = nullptr;  // prefill, device
  int num_tiles = 0;
  int* work = nullptr;              // prefill: two counters, zero before and after
  SplitRows split;  // LaunchAttentionDecode: the heads' outputs in two parts, in place of `out`; null: none
};

inline constexpr float kLog2E = 1.4426950408889634f;
inline constexpr int kMaxSplits = 16;  // the largest cluster

// True if the tensor-core kernels have this shape (bf16, 128/128 or 192/128, at most 16 query heads a KV head).
bool HasFastAttention(int heads, int kv_heads, int head_dim, int v_head_dim);

// One token a sequence, QK norm, RoPE and the cache write included (RopeParams: q and fresh_* are not used; rotary_dim
// at most 256).
cudaError_t LaunchAttentionDecode(const AttentionParams& params, const RopeParams& rope, cudaStream_t stream);
// The same where few tokens leave the device idle: float32 out (out_f32).
cudaError_t LaunchAttentionOne(const AttentionParams& params, const RopeParams& rope, cudaStream_t stream);
// Any number of tokens a sequence, a bf16 or FP8 cache (attention_wgmma.cu).
cudaError_t LaunchAttentionPrefill(const AttentionParams& params, cudaStream_t stream);
// Any shape and any number of tokens, float32 arithmetic: small models and verification.
cudaError_t LaunchAttentionSimple(const AttentionParams& params, bool f32_activations, cudaStream_t stream);

}  // namespace minimo::cuda
