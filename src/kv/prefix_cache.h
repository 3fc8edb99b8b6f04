// Which block holds the KV of which prefix. Every full block is known by a hash chained over all tokens before it and
// the request's salt; the hash only finds candidates, the tokens and the identity of the block before decide, so a
// collision costs a comparison and never gives wrong text.
//
// Thread rule: the engine thread only.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace minimo {

// A cached prefix, by its last block. A block that is evicted and filled again gets another uid.
struct PrefixKey {
  uint64_t uid = 0;  // 0: the empty prefix
  uint64_t hash = 0;
  int32_t block = -1;
};

class PrefixCache {
 public:
  // Only the bits of hash_mask are used of each hash; tests narrow it to force collisions.
  PrefixCache(int num_blocks, int block_size, uint64_t hash_mask = ~uint64_t{0});

  PrefixKey Root(std::string_view salt) const;

  // The prefix `parent` continued by one block of tokens; uid 0 if it is not cached. `salt` as given to Root.
  PrefixKey Find(const PrefixKey& parent, std::span<const int32_t> tokens, std::string_view salt) const;

  // Makes `block` known as parent + tokens, unless another block already is; returns the one that is known.
  PrefixKey Insert(const PrefixKey& parent, std::span<const int32_t> tokens, std::string_view salt, int32_t block);

  void Forget(int32_t block);  // its content is about to change; nothing happens if it is not cached

  bool Cached(int32_t block) const { return nodes_[block].uid != 0; }
  bool Alive(const PrefixKey& key) const { return key.uid != 0 && nodes_[key.block].uid == key.uid; }

 private:
  struct Node {
    uint64_t uid = 0;  // 0: not cached
    uint64_t parent_uid = 0;
    uint64_t hash = 0;
    std::string salt;  // of first blocks; later ones inherit it through parent_uid
  };
  uint64_t Hash(uint64_t parent, std::span<const int32_t> tokens) const;
  bool Matches(int32_t block, const PrefixKey& parent, std::span<const int32_t> tokens, std::string_view salt) const;

  int block_size_;
  uint64_t hash_mask_;
  uint64_t next_uid_ = 1;
  std::vector<Node> nodes_;      // [blocks]
  std::vector<int32_t> tokens_;  // [blocks, block_size]
  std::unordered_multimap<uint64_t, int32_t> by_hash_;
};

}  // namespace minimo
