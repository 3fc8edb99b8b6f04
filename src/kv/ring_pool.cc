#include "kv/ring_pool.h"

#include <algorithm>

#include "base/check.h"

namespace minimo {

RingPool::RingPool(int num_rings, int num_blocks) : holds_(num_rings, 0), by_block_(num_blocks, -1) {
  for (int32_t ring = num_rings - 1; ring >= 0; --ring) free_.push_back(ring);
}

int32_t RingPool::Allocate() {
  if (free_.empty()) {
    const Entry* oldest = nullptr;
    for (const Entry& entry : snapshots_) {
      if (holds_[by_block_[entry.block]] == 1 && (oldest == nullptr || entry.used < oldest->used)) oldest = &entry;
    }
    if (oldest == nullptr) return -1;
    DropSnapshot(oldest->block);
  }
  const int32_t ring = free_.back();
  free_.pop_back();
  holds_[ring] = 1;
  return ring;
}

void RingPool::Release(int32_t ring) {
  CHECK(holds_[ring] > 0);
  if (--holds_[ring] == 0) free_.push_back(ring);
}

void RingPool::Use(int32_t block) {
  for (Entry& entry : snapshots_) {
    if (entry.block == block) entry.used = ++uses_;
  }
}

void RingPool::AddSnapshot(int32_t block, int32_t ring) {
  if (by_block_[block] >= 0) {
    Release(ring);
    Use(block);
    return;
  }
  by_block_[block] = ring;
  snapshots_.push_back({block, ++uses_});
}

void RingPool::DropSnapshot(int32_t block) {
  const int32_t ring = by_block_[block];
  if (ring < 0) return;
  by_block_[block] = -1;
  const auto it =
      std::find_if(snapshots_.begin(), snapshots_.end(), [&](const Entry& entry) { return entry.block == block; });
  *it = snapshots_.back();
  snapshots_.pop_back();
  Release(ring);
}

std::vector<int32_t> RingPool::SnapshotBlocks() const {
  std::vector<int32_t> blocks;
  for (const Entry& entry : snapshots_) blocks.push_back(entry.block);
  return blocks;
}

}  // namespace minimo
