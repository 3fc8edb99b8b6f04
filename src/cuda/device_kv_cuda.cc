#include "cuda/device_kv_cuda.h"

#include "cuda/kernels/attention.cuh"

namespace minimo::cuda {

Status DeviceKv::Allocate(const ModelSpec& spec, const KvLayout& layout) {
  for (const LayerSpec& l : spec.layers) {
    const AttentionSpec& a = l.attention;
    const bool ring = a.window > 0;
    const bool half_keys = layout.bytes_per_element == 2 && a.qk_norm &&
                           !HasFastAttention(a.heads, a.kv_heads, a.head_dim, a.v_head_dim);
    const int rows = ring ? layout.ring_tokens : layout.block_size;
    const int64_t units = ring ? layout.num_rings : layout.num_blocks;
    for (const bool key : {true, false}) {
      const int dim = key ? a.head_dim : a.v_head_dim;
      DeviceMemory memory;
      MINIMO_TRY(memory.AllocateZeroed(units * a.kv_heads * rows * dim * layout.bytes_per_element));
      (key ? k_ : v_).push_back({memory.As(), dim, a.kv_heads, rows, ring, layout.bytes_per_element, key && half_keys});
      memory_.push_back(std::move(memory));
    }
  }
  return {};
}

}  // namespace minimo::cuda
