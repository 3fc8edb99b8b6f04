// The bytes of a rank's KV cache on the CPU: blocks for the full-attention groups, rings for the sliding ones. Which
// block or ring belongs to whom is the scheduler's business (kv/); this only finds and moves bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/numa.h"
#include "kv/kv_layout.h"
#include "kv/step.h"
#include "layers/huge_bytes.h"
#include "ops/attention/attention.h"
#include "spec/model_spec.h"
#include "tensor/dtype.h"

namespace minimo {

// Groups of layers with one KV geometry, and each layer's place in its group.
struct KvGrouping {
  std::vector<KvGroup> groups;
  std::vector<int> group_of_layer;
  std::vector<int> index_in_group;
};
KvGrouping GroupKv(const ModelSpec& spec);

class KvStorage {
 public:
  KvStorage(const KvGrouping& grouping, const KvLayout& layout, DType dtype);

  const KvLayout& layout() const { return layout_; }
  DType dtype() const { return dtype_; }

  // Where the keys that a sequence's new tokens see lie, before this step's own are stored:
  // full layers: the whole context (store first, then attend); sliding layers: the past window only.
  void AppendSegments(int layer, const StepRecord& step, const SequenceStep& s, bool include_new,
                      std::vector<KvSegment>* segments) const;

  // Stores new keys [num_tokens, kv_heads, head_dim] and values of one sequence, already in the cache's dtype and laid
  // out [kv_heads, num_tokens, dim] with the given head strides (elements).
  void Store(int layer, const StepRecord& step, const SequenceStep& s, const std::byte* k, int64_t k_head_stride,
             const std::byte* v, int64_t v_head_stride);

  // What is not written yet will lie on all nodes in turn.
  void Interleave(std::span<const NumaNode> nodes);

  void CopyBlocks(std::span<const CacheCopy> copies);
  void CopyRings(std::span<const CacheCopy> copies);

 private:
  // One group: K and V of a unit (block or ring) and layer at (unit * layers + layer) * unit size,
  // each [kv_heads, unit_tokens, dim].
  struct Group {
    KvGroup geometry;
    int unit_tokens = 0;
    int64_t units = 0;
    std::shared_ptr<HugeBytes> k, v;  // many small pages would each cost a look at the page table
    int64_t UnitBytes(int dim, int64_t element) const {
      return int64_t{geometry.kv_heads} * unit_tokens * dim * element;
    }
  };
  KvSegment Segment(const Group& g, int layer, int64_t unit, int32_t row, int32_t first, int32_t count) const;
  void CopyUnits(bool sliding, std::span<const CacheCopy> copies);

  KvLayout layout_;
  DType dtype_;
  std::vector<int> group_of_layer_, index_in_group_;
  std::vector<Group> groups_;
};

}  // namespace minimo
