// The activations of a step on the device.
#pragma once

#include <cstdint>

#include "cuda/device_cuda.h"
#include "minimo/result.h"
#include "spec/model_spec.h"

namespace minimo::cuda {

inline constexpr int kMultiprocessors = 132;  // of an H100 and an H200
inline constexpr int kMostDecodeTokens = 256;  // of a step that brings one token a sequence

// Activations of a step of up to max_tokens tokens. Rows of products are padded to 128 columns of zeros.
class Workspace {
 public:
  // Offsets only; Allocate makes the memory.
  Workspace(const ModelSpec& spec, bool f32, bool fp8_prefill, int max_tokens, int max_logit_rows);
  int64_t bytes() const { return bytes_; }
  Status Allocate() { return memory_.AllocateZeroed(bytes_); }

  template <typename T = void>
  T* At(int64_t offset) const {
    return reinterpret_cast<T*>(memory_.As<uint8_t>(offset));
  }

  int64_t residual, x, qkv, q, attended, hidden, expert_out, fresh_k, fresh_v;
  int64_t row_squares, tile_squares[2], token_squares, qkv_squares, attention_work;
  int64_t router_logits, router_counter, router_counts, chosen, chosen_weight, num_active, active, offsets, slot_token,
      slot_weight, slot_of, expert_load;
  int64_t logits;
  int64_t fp8_values, fp8_scales, fp8_offsets, fp8_tiles, fp8_num_tiles;  // Fp8Activations of one product's input
  int64_t split;          // of at most 256 tokens, not float32: a product's input in two e4m3 parts (split_rows.cuh)
  int64_t expert_rows;    // of a decode step's tokens: ExpertRow
  int64_t decode_hidden;  // float32, of a decode step's slots
  // Of a step of one token, all float32: two residual streams in turn, what the split products leave to be added.
  int64_t one_residual, one_operands, one_squares, one_attended, one_hidden, one_attention_partial, one_expert_partial;
  int x_stride, hidden_stride_moe, hidden_stride_dense;

 private:
  int64_t Take(int64_t bytes) {
    const int64_t at = bytes_;
    bytes_ += (bytes + 255) / 256 * 256;
    return at;
  }
  int64_t bytes_ = 0;
  DeviceMemory memory_;
};

}  // namespace minimo::cuda
