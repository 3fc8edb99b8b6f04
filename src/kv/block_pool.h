// The physical blocks of the full-attention group: who holds each one, and in which order the unheld ones are taken.
// A block held by nobody is free; it may still carry cached content until it is taken again.
//
// Thread rule: the engine thread only.
#pragma once

#include <cstdint>
#include <vector>

namespace minimo {

class BlockPool {
 public:
  explicit BlockPool(int num_blocks);

  int size() const { return static_cast<int>(holds_.size()); }
  int num_free() const { return num_free_; }
  int holds(int32_t block) const { return holds_[block]; }

  // Takes the free block that was released longest ago, empty ones first; its holders become 1. Needs num_free() > 0.
  int32_t Allocate();

  // One more holder. A free block leaves the free list with its content.
  void Hold(int32_t block);

  // One holder less. The last one frees the block: with content worth keeping it is taken last, else first.
  void Release(int32_t block, bool keep_content);

  // The free blocks in the order in which Allocate would take them.
  std::vector<int32_t> FreeList() const;

 private:
  struct Link {
    int32_t previous;
    int32_t next;
  };
  void InsertAfter(int32_t position, int32_t block);
  void Unlink(int32_t block);

  int32_t end_;  // index of the sentinel in links_: next is the first to take, previous the last
  int num_free_ = 0;
  std::vector<int32_t> holds_;
  std::vector<Link> links_;  // a ring through the free blocks and the sentinel
};

}  // namespace minimo
