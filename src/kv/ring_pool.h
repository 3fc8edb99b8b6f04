// The physical rings of the sliding-window groups. A ring belongs to a running sequence, or to the prefix cache as a
// snapshot of the windows after a cached block; snapshots give way, least recently used first, when a sequence needs
// a ring.
//
// Thread rule: the engine thread only.
#pragma once

#include <cstdint>
#include <vector>

namespace minimo {

class RingPool {
 public:
  RingPool(int num_rings, int num_blocks);

  int size() const { return static_cast<int>(holds_.size()); }
  int num_free() const { return static_cast<int>(free_.size()); }
  int num_snapshots() const { return static_cast<int>(snapshots_.size()); }
  int holds(int32_t ring) const { return holds_[ring]; }

  // A free ring, else the least recently used snapshot that nothing else holds; its holders become 1. -1: none.
  int32_t Allocate();
  void Hold(int32_t ring) { ++holds_[ring]; }
  void Release(int32_t ring);

  // The snapshot after a block, -1 if there is none. Use marks it as recently used.
  int32_t Snapshot(int32_t block) const { return by_block_[block]; }
  void Use(int32_t block);
  // Takes over the caller's hold of `ring`. If the block has a snapshot already, the ring is released instead.
  void AddSnapshot(int32_t block, int32_t ring);
  void DropSnapshot(int32_t block);  // nothing happens if there is none

  std::vector<int32_t> SnapshotBlocks() const;
  const std::vector<int32_t>& FreeList() const { return free_; }

 private:
  struct Entry {
    int32_t block;
    uint64_t used;  // value of uses_ at the last use
  };

  uint64_t uses_ = 0;
  std::vector<int32_t> holds_;
  std::vector<int32_t> free_;
  std::vector<int32_t> by_block_;  // [blocks]: ring or -1
  std::vector<Entry> snapshots_;   // unordered, at most one a ring
};

}  // namespace minimo
