#include "kv/block_pool.h"

#include "base/check.h"

namespace minimo {

BlockPool::BlockPool(int num_blocks) : end_(num_blocks), holds_(num_blocks, 0), links_(num_blocks + 1) {
  links_[end_] = {end_, end_};
  for (int32_t block = 0; block < num_blocks; ++block) InsertAfter(links_[end_].previous, block);
}

int32_t BlockPool::Allocate() {
  CHECK(num_free_ > 0);
  const int32_t block = links_[end_].next;
  Unlink(block);
  holds_[block] = 1;
  return block;
}

void BlockPool::Hold(int32_t block) {
  if (holds_[block]++ == 0) Unlink(block);
}

void BlockPool::Release(int32_t block, bool keep_content) {
  CHECK(holds_[block] > 0);
  if (--holds_[block] == 0) InsertAfter(keep_content ? links_[end_].previous : end_, block);
}

std::vector<int32_t> BlockPool::FreeList() const {
  std::vector<int32_t> blocks;
  for (int32_t block = links_[end_].next; block != end_; block = links_[block].next) blocks.push_back(block);
  return blocks;
}

void BlockPool::InsertAfter(int32_t position, int32_t block) {
  const int32_t next = links_[position].next;
  links_[block] = {position, next};
  links_[position].next = block;
  links_[next].previous = block;
  ++num_free_;
}

void BlockPool::Unlink(int32_t block) {
  links_[links_[block].previous].next = links_[block].next;
  links_[links_[block].next].previous = links_[block].previous;
  --num_free_;
}

}  // namespace minimo
