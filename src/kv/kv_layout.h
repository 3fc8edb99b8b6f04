// The shape of the KV cache: one group of layers per KV geometry. Full-attention layers are paged in blocks of
// block_size tokens; sliding-window layers keep one ring of the last ring_tokens tokens per sequence, so their memory
// does not grow with the context.
#pragma once

#include <cstdint>
#include <vector>

namespace minimo {

struct KvGroup {
  int window = 0;  // 0: full attention (paged); > 0: sliding window (ring), keys j with i - window < j <= i
  int layers = 0;  // how many layers share this geometry
  int kv_heads = 0;
  int head_dim = 0;    // of a key
  int v_head_dim = 0;  // of a value
};

struct KvLayout {
  std::vector<KvGroup> groups;  // at most one with window == 0
  int bytes_per_element = 2;    // bf16 2, f32 4, fp8 1
  int block_size = 16;          // tokens a block of the full group
  int ring_tokens = 0;          // tokens a ring holds: the largest window, plus speculative slack; 0: no sliding group
  int num_blocks = 0;           // physical blocks, shared ids across full groups; block 0.. are all usable
  int num_rings = 0;            // physical rings: running sequences and prefix-cache snapshots

  int64_t BytesPerToken() const { return Sum(false); }                      // full groups, per token of context
  int64_t BytesPerBlock() const { return BytesPerToken() * block_size; }
  int64_t BytesPerRing() const { return Sum(true) * ring_tokens; }          // sliding groups, per sequence

 private:
  int64_t Sum(bool sliding) const {
    int64_t bytes = 0;
    for (const KvGroup& g : groups) {
      if ((g.window > 0) == sliding) bytes += int64_t{g.layers} * g.kv_heads * (g.head_dim + g.v_head_dim);
    }
    return bytes * bytes_per_element;
  }
};

}  // namespace minimo
