#include <fmt/format.h>

#include <vector>

#include "kv/kv_cache.h"

namespace minimo {
namespace {

using Holders = std::vector<int>;  // [ids]

// The first id whose counted holders differ from the pool's, or that is not free exactly when nobody holds it.
std::string Compare(const char* what, const Holders& counted, const std::vector<int32_t>& free_list, auto holds) {
  Holders free(counted.size(), 0);
  for (const int32_t id : free_list) ++free[id];
  for (size_t i = 0; i < counted.size(); ++i) {
    const int32_t id = static_cast<int32_t>(i);
    if (holds(id) != counted[i]) {
      return fmt::format("{} {}: the pool counts {} holders, {} are known", what, id, holds(id), counted[i]);
    }
    if (free[i] != (counted[i] == 0 ? 1 : 0)) {
      return fmt::format("{} {} has {} holders and is {} times in the free list", what, id, counted[i], free[i]);
    }
  }
  return "";
}

}  // namespace

std::string KvCache::Verify(std::span<const SequenceKv* const> live) const {
  Holders blocks(pool_.size(), 0);
  Holders rings(rings_.size(), 0);
  Holders last_table(pool_.size(), -1);  // the last sequence whose page table has the block
  for (size_t i = 0; i < live.size(); ++i) {
    const SequenceKv* kv = live[i];
    if (kv->computed > static_cast<int>(kv->blocks.size()) * block_size_) return "a page table is too short";
    for (const int32_t block : kv->blocks) {
      ++blocks[block];
      if (last_table[block] == static_cast<int>(i)) return fmt::format("block {} is twice in a page table", block);
      last_table[block] = static_cast<int>(i);
    }
    if (has_rings_ != (kv->ring >= 0)) return "a running sequence without a ring, or a ring that no layer needs";
    if (kv->ring >= 0) ++rings[kv->ring];
    if (kv->pending_snapshot >= 0) ++rings[kv->pending_snapshot];
    // Rows at and after `computed` will be written: where they exist, nobody else may count on them being full.
    for (size_t entry = kv->computed / block_size_; entry < kv->blocks.size(); ++entry) {
      const int32_t block = kv->blocks[entry];
      if (prefix_.Cached(block)) return fmt::format("block {} is cached but not full", block);
    }
  }
  for (const int32_t block : rings_.SnapshotBlocks()) {
    if (!prefix_.Cached(block)) return fmt::format("a snapshot belongs to block {}, which is not cached", block);
    ++rings[rings_.Snapshot(block)];
  }
  for (const CacheCopy& copy : block_copies_) ++blocks[copy.from];
  for (const CacheCopy& copy : ring_restores_) ++rings[copy.from];
  for (const int32_t block : held_blocks_) ++blocks[block];
  for (const int32_t ring : held_rings_) ++rings[ring];

  const std::string wrong =
      Compare("block", blocks, pool_.FreeList(), [&](int32_t id) { return pool_.holds(id); });
  if (!wrong.empty()) return wrong;
  return Compare("ring", rings, rings_.FreeList(), [&](int32_t id) { return rings_.holds(id); });
}

}  // namespace minimo
