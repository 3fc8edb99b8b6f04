#include "text/bpe.h"

#include <algorithm>
#include <bit>
#include <functional>
#include <mutex>

#include "base/error.h"
#include "text/byte_level.h"

namespace minimo {

// Open addressing, linear probing, at most half full.
class Bpe::PairTable {
 public:
  struct Entry {
    uint64_t pair = kFree;
    uint32_t rank = 0;
    int32_t merged = 0;
  };

  explicit PairTable(size_t pairs) : entries_(std::bit_ceil(2 * pairs + 2)) {
    shift_ = 64 - std::countr_zero(entries_.size());
  }

  // A pair given twice keeps its last rank.
  void Set(int32_t left, int32_t right, uint32_t rank, int32_t merged) {
    const uint64_t pair = Key(left, right);
    entries_[Slot(pair)] = {pair, rank, merged};
  }

  const Entry* Find(int32_t left, int32_t right) const {
    const Entry& entry = entries_[Slot(Key(left, right))];
    return entry.pair == kFree ? nullptr : &entry;
  }

 private:
  static constexpr uint64_t kFree = ~uint64_t{0};  // ids are not negative, so no pair has this key

  static uint64_t Key(int32_t left, int32_t right) {
    return (static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32) | static_cast<uint32_t>(right);
  }

  // Where the pair is, or where it would go.
  size_t Slot(uint64_t pair) const {
    size_t slot = (pair * 0x9E3779B97F4A7C15u) >> shift_;  // 2^64 / golden ratio: Fibonacci hashing
    while (entries_[slot].pair != pair && entries_[slot].pair != kFree) slot = (slot + 1) & (entries_.size() - 1);
    return slot;
  }

  std::vector<Entry> entries_;
  int shift_ = 0;
};

// Words already encoded. Split in shards, each with its lock; a full shard starts anew.
class Bpe::WordCache {
 public:
  static constexpr size_t kMaxWord = 64;  // bytes; longer words seldom come again

  bool Append(std::string_view word, size_t hash, std::vector<int32_t>* ids) {
    Shard& shard = shards_[hash % kShards];
    std::lock_guard lock(shard.mutex);
    const auto it = shard.words.find(Key{word, hash});
    if (it == shard.words.end()) return false;
    ids->insert(ids->end(), it->second.begin(), it->second.end());
    return true;
  }

  void Insert(std::string_view word, size_t hash, const int32_t* begin, const int32_t* end) {
    Shard& shard = shards_[hash % kShards];
    std::lock_guard lock(shard.mutex);
    if (shard.words.size() >= kMaxWordsPerShard) shard.words.clear();
    shard.words.try_emplace(OwnedKey{std::string(word), hash}, begin, end);
  }

 private:
  static constexpr size_t kShards = 61;  // a prime, so that hash % kShards and the buckets within differ
  static constexpr size_t kMaxWordsPerShard = 1024;

  struct Key {
    std::string_view word;
    size_t hash;
  };
  struct OwnedKey {
    std::string word;
    size_t hash;
  };
  struct Hash {
    using is_transparent = void;
    size_t operator()(const Key& key) const { return key.hash; }
    size_t operator()(const OwnedKey& key) const { return key.hash; }
  };
  struct Equal {
    using is_transparent = void;
    template <typename A, typename B>
    bool operator()(const A& a, const B& b) const { return a.hash == b.hash && a.word == b.word; }
  };
  struct Shard {
    std::mutex mutex;
    std::unordered_map<OwnedKey, std::vector<int32_t>, Hash, Equal> words;
  };
  std::array<Shard, kShards> shards_;
};

Bpe::Bpe() : cache_(std::make_unique<WordCache>()) { byte_ids_.fill(-1); }
Bpe::~Bpe() = default;

Result<std::unique_ptr<Bpe>> Bpe::Create(const BpeSpec& spec, const TokenIds& ids) {
  std::unique_ptr<Bpe> bpe(new Bpe());
  bool complete = true;
  for (int byte = 0; byte < 256; ++byte) {
    const auto it = ids.find(ByteLevelCharacter(static_cast<uint8_t>(byte)));
    if (it != ids.end()) bpe->byte_ids_[byte] = it->second;
    complete &= it != ids.end();
  }
  if (spec.unk_token.has_value() && !complete) {
    const auto it = ids.find(*spec.unk_token);
    if (it == ids.end()) return Errorf("model.unk_token \"{}\" is not in model.vocab", *spec.unk_token);
    bpe->unk_id_ = it->second;
    bpe->fuse_unk_ = spec.fuse_unk;
  }

  bpe->pairs_ = std::make_unique<PairTable>(spec.merges.size() / 2);
  std::string merged;
  for (size_t rank = 0; 2 * rank < spec.merges.size(); ++rank) {
    const std::string_view left = spec.merges[2 * rank];
    const std::string_view right = spec.merges[2 * rank + 1];
    merged.assign(left).append(right);
    int32_t found[3];
    const std::string_view parts[3] = {left, right, merged};
    for (int i = 0; i < 3; ++i) {
      const auto it = ids.find(parts[i]);
      if (it == ids.end()) {
        return Errorf("model.merges[{}] joins \"{}\" and \"{}\", but model.vocab has no \"{}\"", rank, left, right,
                      parts[i]);
      }
      found[i] = it->second;
    }
    bpe->pairs_->Set(found[0], found[1], static_cast<uint32_t>(rank), found[2]);
  }

  if (spec.ignore_merges) {
    std::string token;
    for (const auto& [text, id] : ids) {
      const std::string bytes = ByteLevelBytes(text);
      token.clear();
      for (const char byte : bytes) token.append(ByteLevelCharacter(static_cast<uint8_t>(byte)));
      if (token == text) bpe->whole_words_.emplace(bytes, id);  // others can never equal a word
    }
  }
  return bpe;
}

void Bpe::Encode(std::string_view word, Scratch* scratch, std::vector<int32_t>* ids) const {
  if (!whole_words_.empty()) {
    const auto it = whole_words_.find(std::string(word));
    if (it != whole_words_.end()) {
      ids->push_back(it->second);
      return;
    }
  }
  if (word.size() > WordCache::kMaxWord) {
    Merge(word, scratch, ids);
    return;
  }
  const size_t hash = std::hash<std::string_view>()(word);
  if (cache_->Append(word, hash, ids)) return;
  const size_t before = ids->size();
  Merge(word, scratch, ids);
  cache_->Insert(word, hash, ids->data() + before, ids->data() + ids->size());
}

void Bpe::SetSymbols(std::string_view word, Scratch* scratch) const {
  std::vector<Scratch::Symbol>& symbols = scratch->symbols;
  symbols.clear();
  bool after_unk = false;
  for (const char c : word) {
    int32_t id = byte_ids_[static_cast<uint8_t>(c)];
    const bool unk = id < 0;
    if (unk) id = unk_id_;
    if (id < 0 || (unk && fuse_unk_ && after_unk)) continue;  // without an unk token, unknown bytes are passed over
    after_unk = unk;
    const int32_t index = static_cast<int32_t>(symbols.size());
    symbols.push_back({id, index - 1, index + 1});
  }
  if (!symbols.empty()) symbols.back().next = -1;
}

// A queue entry is rank << 32 | index of the left symbol, so the smallest is the lowest rank, leftmost. Entries are not
// removed when a neighbour changes: one is stale if the pair now at its place has another rank. (It cannot be another
// pair of the same rank, for a rank is one pair.) O(n log n).
void Bpe::Merge(std::string_view word, Scratch* scratch, std::vector<int32_t>* ids) const {
  SetSymbols(word, scratch);
  std::vector<Scratch::Symbol>& symbols = scratch->symbols;
  std::vector<uint64_t>& queue = scratch->queue;
  const auto entry = [](uint32_t rank, int32_t index) {
    return (static_cast<uint64_t>(rank) << 32) | static_cast<uint32_t>(index);
  };

  queue.clear();
  for (size_t i = 0; i + 1 < symbols.size(); ++i) {
    const auto* pair = pairs_->Find(symbols[i].id, symbols[i + 1].id);
    if (pair != nullptr) queue.push_back(entry(pair->rank, static_cast<int32_t>(i)));
  }
  std::make_heap(queue.begin(), queue.end(), std::greater<>());
  const auto push = [&](int32_t left, int32_t right) {
    const auto* pair = pairs_->Find(symbols[left].id, symbols[right].id);
    if (pair == nullptr) return;
    queue.push_back(entry(pair->rank, left));
    std::push_heap(queue.begin(), queue.end(), std::greater<>());
  };

  while (!queue.empty()) {
    const uint64_t top = queue.front();
    std::pop_heap(queue.begin(), queue.end(), std::greater<>());
    queue.pop_back();
    const int32_t index = static_cast<int32_t>(top & 0xFFFFFFFFu);
    Scratch::Symbol& left = symbols[index];
    if (left.id < 0 || left.next < 0) continue;
    Scratch::Symbol& right = symbols[left.next];
    const auto* pair = pairs_->Find(left.id, right.id);
    if (pair == nullptr || pair->rank != top >> 32) continue;
    left.id = pair->merged;
    right.id = -1;
    left.next = right.next;
    if (left.next >= 0) symbols[left.next].prev = index;
    if (left.prev >= 0) push(left.prev, index);
    if (left.next >= 0) push(index, left.next);
  }
  for (const Scratch::Symbol& symbol : symbols) {
    if (symbol.id >= 0) ids->push_back(symbol.id);
  }
}

}  // namespace minimo
