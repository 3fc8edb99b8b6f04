#include "kv/kv_cache.h"

#include <algorithm>

#include "base/check.h"

namespace minimo {
namespace {

int LargestWindow(const KvLayout& layout) {
  int window = 0;
  for (const KvGroup& group : layout.groups) window = std::max(window, group.window);
  return window;
}

}  // namespace

KvCache::KvCache(const KvLayout& layout, const KvCacheOptions& options)
    : block_size_(layout.block_size),
      has_rings_(layout.ring_tokens > 0),
      slack_(layout.ring_tokens - LargestWindow(layout) + 1),
      options_(options),
      pool_(layout.num_blocks),
      rings_(has_rings_ ? layout.num_rings : 0, layout.num_blocks),
      prefix_(layout.num_blocks, layout.block_size, options.hash_mask) {
  CHECK(block_size_ > 0 && (!has_rings_ || slack_ >= 1));
}

bool KvCache::Start(SequenceKv* kv, std::span<const int32_t> tokens, std::string_view salt, bool use_prefix_cache,
                    int reserve) {
  CHECK(kv->blocks.empty() && kv->ring < 0 && kv->computed == 0);
  const bool look_up = use_prefix_cache && options_.prefix_caching;
  matched_.clear();
  const int hit_blocks = look_up ? Match(tokens, salt, &matched_) : 0;
  const int needed = BlocksFor(static_cast<int>(tokens.size())) - hit_blocks;

  // What is matched must be held before anything is taken, or taking might evict it.
  for (int i = 0; i < hit_blocks; ++i) pool_.Hold(matched_[i].block);
  const auto undo = [&] {
    for (int i = hit_blocks; i-- > 0;) ReleaseBlock(matched_[i].block);
  };
  if (pool_.num_free() < needed + reserve) {
    undo();
    return false;
  }
  if (has_rings_) {
    const int32_t snapshot = hit_blocks > 0 ? rings_.Snapshot(matched_[hit_blocks - 1].block) : -1;
    if (snapshot >= 0) rings_.Hold(snapshot);
    kv->ring = rings_.Allocate();
    if (kv->ring < 0) {
      if (snapshot >= 0) rings_.Release(snapshot);
      undo();
      // The snapshot itself may be the only ring that could be had.
      return snapshot >= 0 && Start(kv, tokens, salt, false, reserve);
    }
    if (snapshot >= 0) {
      rings_.Use(matched_[hit_blocks - 1].block);
      ring_restores_.push_back({snapshot, kv->ring});
    }
  }
  if (look_up) {
    counters_.prefix_queries += static_cast<int64_t>(tokens.size());
    counters_.prefix_hits += int64_t{hit_blocks} * block_size_;
  }
  for (int i = 0; i < hit_blocks; ++i) kv->blocks.push_back(matched_[i].block);
  for (int i = 0; i < needed; ++i) kv->blocks.push_back(TakeBlock());
  kv->computed = kv->written = hit_blocks * block_size_;
  kv->published = hit_blocks;
  kv->prefix = hit_blocks > 0 ? matched_[hit_blocks - 1] : prefix_.Root(salt);
  kv->last_snapshot = kv->computed;
  // What is cached beyond the last snapshot was computed for a prompt that went on differently.
  kv->branch = static_cast<int32_t>(matched_.size()) * block_size_;
  return true;
}

bool KvCache::Extend(SequenceKv* kv, int end) {
  const int have = static_cast<int>(kv->blocks.size());
  const int first_written = kv->computed / block_size_;
  const bool copy = first_written < have && SharedForWriting(kv->blocks[first_written]);
  const int grow = std::max(0, BlocksFor(end) - have);
  if (pool_.num_free() < grow + (copy ? 1 : 0)) return false;
  if (copy) {
    int32_t& block = kv->blocks[first_written];
    const int32_t fresh = TakeBlock();
    block_copies_.push_back({block, fresh});  // the sequence's hold becomes the copy's
    block = fresh;
  }
  for (int i = 0; i < grow; ++i) kv->blocks.push_back(TakeBlock());
  return true;
}

bool KvCache::Fork(const SequenceKv& parent, SequenceKv* child) {
  CHECK(child->blocks.empty() && child->ring < 0);
  if (has_rings_) {
    child->ring = rings_.Allocate();
    if (child->ring < 0) return false;
    rings_.Hold(parent.ring);
    ring_restores_.push_back({parent.ring, child->ring});
  }
  const int shared = BlocksFor(parent.computed);
  for (int i = 0; i < shared; ++i) pool_.Hold(parent.blocks[i]);
  child->blocks.assign(parent.blocks.begin(), parent.blocks.begin() + shared);
  child->computed = parent.computed;
  child->written = parent.written;
  child->published = parent.published;
  child->prefix = parent.prefix;
  child->last_snapshot = parent.last_snapshot;
  return true;
}

int KvCache::ChunkEnd(const SequenceKv& kv, int end, int prompt_tokens, int tokens) const {
  if (!has_rings_ || !options_.prefix_caching) return end;
  const int aligned = end / block_size_ * block_size_;
  if (end < tokens && aligned > kv.computed && !ServesBoundary(end, end)) end = aligned;
  for (const int point : {static_cast<int>(kv.branch), LastBoundary(prompt_tokens)}) {
    const bool served = point == end / block_size_ * block_size_ && ServesBoundary(end, end);
    if (kv.computed < point && point < end && !served && DueAt(kv, point, prompt_tokens)) end = point;
  }
  return end;
}

void KvCache::PlanSnapshot(SequenceKv* kv, int end, int prompt_tokens) {
  if (!has_rings_ || !options_.prefix_caching || !ServesBoundary(end, end)) return;
  const int boundary = end / block_size_ * block_size_;
  if (!DueAt(*kv, boundary, prompt_tokens)) return;
  const int32_t ring = rings_.Allocate();
  if (ring < 0) return;
  ++counters_.snapshots;
  kv->pending_snapshot = ring;
  kv->last_snapshot = boundary;
  ring_snapshots_.push_back({kv->ring, ring});
}

void KvCache::TakeCopies(StepRecord* step) {
  for (const CacheCopy& copy : block_copies_) held_blocks_.push_back(copy.from);
  for (const CacheCopy& copy : ring_restores_) held_rings_.push_back(copy.from);
  step->block_copies.swap(block_copies_);
  step->ring_restores.swap(ring_restores_);
  step->ring_snapshots.swap(ring_snapshots_);
  block_copies_.clear();
  ring_restores_.clear();
  ring_snapshots_.clear();
}

void KvCache::Advance(SequenceKv* kv, std::span<const int32_t> tokens, std::string_view salt, int ran,
                      int kept) {
  CHECK(0 <= kept && kept <= ran && BlocksFor(kv->computed + ran) <= static_cast<int>(kv->blocks.size()));
  kv->written = std::max(kv->written, kv->computed + ran);
  kv->computed += kept;
  if (options_.prefix_caching) {
    for (; (kv->published + 1) * block_size_ <= kv->computed; ++kv->published) {
      kv->prefix = prefix_.Insert(kv->prefix, tokens.subspan(kv->published * block_size_, block_size_), salt,
                                  kv->blocks[kv->published]);
    }
  }
  if (kv->pending_snapshot < 0) return;
  // Planned for the last full block of what was computed, which is what has just been published.
  const bool kept_all = kv->last_snapshot == kv->published * block_size_ && ServesBoundary(kv->computed, kv->written);
  if (kept_all && prefix_.Alive(kv->prefix)) {
    rings_.AddSnapshot(kv->prefix.block, kv->pending_snapshot);
  } else {
    rings_.Release(kv->pending_snapshot);
  }
  kv->pending_snapshot = -1;
}

void KvCache::EndStep() {
  for (const int32_t block : held_blocks_) ReleaseBlock(block);
  for (const int32_t ring : held_rings_) rings_.Release(ring);
  held_blocks_.clear();
  held_rings_.clear();
}

void KvCache::Stop(SequenceKv* kv) {
  bool ring_valid = kv->ring >= 0 && kv->computed > 0;
  // Copies into what is given back would race with the next owner's.
  const auto pending = std::find_if(ring_restores_.begin(), ring_restores_.end(),
                                    [&](const CacheCopy& copy) { return copy.to == kv->ring; });
  if (kv->ring >= 0 && pending != ring_restores_.end()) {
    rings_.Release(pending->from);
    ring_restores_.erase(pending);
    ring_valid = false;
  }
  // The step that was to fill a snapshot has failed: neither it nor the ring, perhaps half written, is worth keeping.
  if (kv->pending_snapshot >= 0) {
    std::erase_if(ring_snapshots_, [&](const CacheCopy& copy) { return copy.to == kv->pending_snapshot; });
    rings_.Release(kv->pending_snapshot);
    ring_valid = false;
  }
  if (kv->ring >= 0) {
    const bool worth = kv->computed - kv->last_snapshot >= options_.snapshot_min_tokens;
    if (ring_valid && worth && options_.prefix_caching && ServesBoundary(kv->computed, kv->written) &&
        prefix_.Alive(kv->prefix)) {
      rings_.AddSnapshot(kv->prefix.block, kv->ring);
    } else {
      rings_.Release(kv->ring);
    }
  }
  // The end of a prefix is freed, and so later taken, before its beginning.
  for (size_t i = kv->blocks.size(); i-- > 0;) ReleaseBlock(kv->blocks[i]);
  *kv = {};
}

int32_t KvCache::TakeBlock() {
  const int32_t block = pool_.Allocate();
  if (prefix_.Cached(block)) {
    rings_.DropSnapshot(block);
    prefix_.Forget(block);
    ++counters_.evicted_blocks;
  }
  return block;
}

bool KvCache::SharedForWriting(int32_t block) const {
  int holds = pool_.holds(block);
  if (holds == 1) return false;
  // A copy is made before the step writes, so its source may be written in that step.
  for (const CacheCopy& copy : block_copies_) holds -= copy.from == block;
  return holds > 1;
}

// The same prompt again must leave one token to compute, so the boundary lies before its last token.
int KvCache::LastBoundary(int prompt_tokens) const { return (prompt_tokens - 1) / block_size_ * block_size_; }

bool KvCache::DueAt(const SequenceKv& kv, int boundary, int prompt_tokens) const {
  const int gained = boundary - kv.last_snapshot;
  const bool wanted = boundary == kv.branch || boundary == LastBoundary(prompt_tokens);
  return gained >= (wanted ? options_.snapshot_min_tokens : options_.snapshot_stride);
}

bool KvCache::ServesBoundary(int computed, int written) const {
  return written - computed / block_size_ * block_size_ <= slack_;
}

int KvCache::Match(std::span<const int32_t> tokens, std::string_view salt, std::vector<PrefixKey>* keys) const {
  PrefixKey key = prefix_.Root(salt);
  const int limit = (static_cast<int>(tokens.size()) - 1) / block_size_;
  int usable = 0;
  for (int i = 0; i < limit; ++i) {
    key = prefix_.Find(key, tokens.subspan(static_cast<size_t>(i) * block_size_, block_size_), salt);
    if (key.uid == 0) break;
    keys->push_back(key);
    if (!has_rings_ || rings_.Snapshot(key.block) >= 0) usable = i + 1;
  }
  return usable;
}

}  // namespace minimo
