#include "kv/prefix_cache.h"

#include <algorithm>

#include "base/check.h"

namespace minimo {
namespace {

// The finaliser of splitmix64 (Steele, Lea, Flood 2014): every input bit reaches every output bit.
uint64_t Mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

constexpr uint64_t kGolden = 0x9e3779b97f4a7c15u;  // 2^64 / golden ratio, splitmix64's increment

}  // namespace

PrefixCache::PrefixCache(int num_blocks, int block_size, uint64_t hash_mask)
    : block_size_(block_size),
      hash_mask_(hash_mask),
      nodes_(num_blocks),
      tokens_(static_cast<size_t>(num_blocks) * block_size) {}

PrefixKey PrefixCache::Root(std::string_view salt) const {
  uint64_t hash = kGolden;
  for (const char c : salt) hash = Mix(hash + kGolden + static_cast<uint8_t>(c));
  return {0, hash & hash_mask_, -1};
}

PrefixKey PrefixCache::Find(const PrefixKey& parent, std::span<const int32_t> tokens, std::string_view salt) const {
  const uint64_t hash = Hash(parent.hash, tokens);
  const auto [begin, end] = by_hash_.equal_range(hash);
  for (auto it = begin; it != end; ++it) {
    if (Matches(it->second, parent, tokens, salt)) return {nodes_[it->second].uid, hash, it->second};
  }
  return {};
}

PrefixKey PrefixCache::Insert(const PrefixKey& parent, std::span<const int32_t> tokens, std::string_view salt,
                              int32_t block) {
  const PrefixKey known = Find(parent, tokens, salt);
  if (known.uid != 0) return known;
  CHECK(!Cached(block));
  const uint64_t hash = Hash(parent.hash, tokens);
  nodes_[block] = {next_uid_++, parent.uid, hash, parent.uid == 0 ? std::string(salt) : std::string()};
  std::copy(tokens.begin(), tokens.end(), tokens_.begin() + static_cast<size_t>(block) * block_size_);
  by_hash_.emplace(hash, block);
  return {nodes_[block].uid, hash, block};
}

void PrefixCache::Forget(int32_t block) {
  if (!Cached(block)) return;
  const auto [begin, end] = by_hash_.equal_range(nodes_[block].hash);
  by_hash_.erase(std::find_if(begin, end, [&](const auto& entry) { return entry.second == block; }));
  nodes_[block] = {};
}

uint64_t PrefixCache::Hash(uint64_t parent, std::span<const int32_t> tokens) const {
  uint64_t hash = parent;
  for (const int32_t token : tokens) hash = Mix(hash + kGolden + static_cast<uint32_t>(token));
  return hash & hash_mask_;
}

bool PrefixCache::Matches(int32_t block, const PrefixKey& parent, std::span<const int32_t> tokens,
                          std::string_view salt) const {
  const Node& node = nodes_[block];
  return node.parent_uid == parent.uid && (parent.uid != 0 || node.salt == salt) &&
         std::equal(tokens.begin(), tokens.end(), tokens_.begin() + static_cast<size_t>(block) * block_size_);
}

}  // namespace minimo
