// Enqueues one step of the model: the kernels in order, and the memory they work in.
#pragma once

#include <cstdint>
#include <vector>

#include "cuda/device_cuda.h"
#include "cuda/device_weights_cuda.h"
#include "cuda/kernels/attention.cuh"
#include "cuda/kernels/stream_linear.cuh"
#include "cuda/kernels/tokens.cuh"
#include "cuda/step_plan.h"
#include "kv/kv_layout.h"
#include "minimo/result.h"
#include "spec/model_spec.h"

namespace minimo::cuda {

// Into how many runs decode attention cuts the contexts of a step: enough blocks to fill the device, runs of at least 64
// keys (four warps of 16). Few values, so that few graphs are made.
int DecodeSplits(const ModelSpec& spec, int tokens, int longest_context);

// K and V of every layer.
class DeviceKv {
 public:
  static int64_t Bytes(const KvLayout& layout, int element_bytes) {
    return layout.num_blocks * layout.BytesPerBlock() / layout.bytes_per_element * element_bytes +
           layout.num_rings * layout.BytesPerRing() / layout.bytes_per_element * element_bytes;
  }
  Status Allocate(const ModelSpec& spec, const KvLayout& layout, int element_bytes);
  const KvView& k(int layer) const { return k_[layer]; }
  const KvView& v(int layer) const { return v_[layer]; }
  int element_bytes() const { return element_bytes_; }

 private:
  std::vector<DeviceMemory> memory_;
  std::vector<KvView> k_, v_;
  int element_bytes_ = 2;
};

// Activations of a step of up to max_tokens tokens. Rows of products are padded to 128 columns of zeros.
class Workspace {
 public:
  // Offsets only; Allocate makes the memory.
  Workspace(const ModelSpec& spec, bool f32, int max_tokens, int max_logit_rows);
  int64_t bytes() const { return bytes_; }
  Status Allocate() { return memory_.AllocateZeroed(bytes_); }

  template <typename T = void>
  T* At(int64_t offset) const {
    return reinterpret_cast<T*>(memory_.As<uint8_t>(offset));
  }

  int64_t residual, x, qkv, q, attended, hidden, expert_out, fresh_k, fresh_v;
  int64_t row_squares, tile_squares[2], token_squares, qkv_squares;
  int64_t router_logits, router_counter, chosen, chosen_weight, num_active, active, offsets, slot_token, slot_weight,
      slot_of, expert_load;
  int64_t partial, partial_max, partial_sum, attention_counters;
  int64_t logits;
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

class Forward {
 public:
  Forward(const ModelSpec& spec, const DeviceWeights& weights, const DeviceKv& kv, const Workspace& workspace,
          const StepLayout& layout, bool f32)
      : spec_(spec), weights_(weights), kv_(kv), w_(workspace), layout_(layout), f32_(f32) {}
  Status Prepare(cudaStream_t stream);  // constants on the device

  // All layers. `packed`: StepLayout, device.
  // decode_splits > 0: one token a sequence, contexts cut into that many runs.
  Status Layers(const int32_t* packed, int tokens, int decode_splits, const std::vector<int>& tiles,
                cudaStream_t stream) const;
  // After them: logits of rows [first, first + count) of the plan's logit rows go to the workspace from its start.
  Status Head(const int32_t* packed, int tokens, int first, int count, cudaStream_t stream) const;

 private:
  struct Step {
    const int32_t* packed;
    int tokens;
    int decode_splits;
    const std::vector<int>& tiles;
    cudaStream_t stream;
    TokenMeta meta;
  };
  // Where the sums of squares after a layer are, for the RMSNorm that follows.
  struct Squares {
    const float* sums;
    int count;  // of partial sums a token
  };
  Squares SquaresAfter(int layer, int tokens) const;
  LinearParams Linear(const DeviceMatrix& m, int tokens) const;
  Status Attention(int layer, const Step& s) const;
  Status Experts(int layer, const Step& s) const;
  Status Dense(int layer, const Step& s) const;
  Status Run(const LinearParams& p, cudaStream_t stream) const;
  // Where the norm after layer i (the next input norm or the final one) finds its weight.
  const float* NormAfter(int layer) const;

  const ModelSpec& spec_;
  const DeviceWeights& weights_;
  const DeviceKv& kv_;
  const Workspace& w_;
  const StepLayout& layout_;
  bool f32_;
  DeviceMemory frequencies_;
  std::vector<int64_t> frequency_of_layer_;  // byte offsets
};

}  // namespace minimo::cuda
