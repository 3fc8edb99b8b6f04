// The KV cache of one engine as bookkeeping: which blocks and which ring each sequence holds, what can be shared, and
// the copies that a step must make. The bytes live in the executor; no function here touches them.
//
// A cached prefix of P tokens can be continued when the full-attention blocks of its P tokens are cached and, for
// models with sliding-window layers, a snapshot of the rings at P exists. Without the snapshot nothing short of
// computing the whole prefix is exact: the window of layer L reaches window - 1 tokens back, and those hidden states
// depend on window - 1 more of layer L - 1, so running the last window again would feed on wrong values below.
//
// The first token after P reads the window - 1 rows before P. A ring of ring_tokens = window - 1 + slack rows that has
// been written up to position p still has them for every P with p - slack <= P <= p; so with slack >= block_size - 1
// each stop serves the last block boundary before it.
//
//      |<----------- ring_tokens ----------->|
//      |<-- slack -->|<----- window - 1 ---->|
//      ^             ^              P        p     written rows: [p - ring_tokens, p)
//
// Thread rule: the engine thread only.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kv/block_pool.h"
#include "kv/kv_layout.h"
#include "kv/prefix_cache.h"
#include "kv/ring_pool.h"
#include "kv/step.h"

namespace minimo {

struct KvCacheOptions {
  bool prefix_caching = true;
  int snapshot_stride = 512;     // tokens between ring snapshots inside a long prefill
  int snapshot_min_tokens = 64;  // a prefix with fewer new tokens than this is computed again rather than kept
  uint64_t hash_mask = ~uint64_t{0};  // tests narrow it to force hash collisions
};

// What one sequence holds. Positions [0, computed) are in the cache.
struct SequenceKv {
  std::vector<int32_t> blocks;  // position p lives in blocks[p / block_size]
  int32_t ring = -1;
  int32_t computed = 0;
  int32_t written = 0;              // rows were written up to here: more than computed where drafts were rejected
  int32_t published = 0;            // full blocks that the prefix cache has been told of
  PrefixKey prefix;                 // of these
  int32_t branch = 0;               // a boundary that more than one prompt runs through, worth a snapshot; 0: none
  int32_t last_snapshot = 0;        // tokens covered by the last snapshot of this sequence's rings
  int32_t pending_snapshot = -1;    // a ring that the step being made will fill
};

struct KvCounters {
  int64_t prefix_queries = 0;  // tokens looked up
  int64_t prefix_hits = 0;     // tokens found
  int64_t evicted_blocks = 0;  // cached blocks overwritten
  int64_t snapshots = 0;       // ring snapshots taken
};

class KvCache {
 public:
  KvCache(const KvLayout& layout, const KvCacheOptions& options);

  int block_size() const { return block_size_; }
  int num_blocks() const { return pool_.size(); }
  int free_blocks() const { return pool_.num_free(); }
  int num_rings() const { return rings_.size(); }
  int free_rings() const { return rings_.num_free() + rings_.num_snapshots(); }
  bool has_rings() const { return has_rings_; }
  int BlocksFor(int tokens) const { return (tokens + block_size_ - 1) / block_size_; }
  const KvCounters& counters() const { return counters_; }

  // Gives an empty `kv` the longest cached prefix of `tokens` (one token at least is left to compute), blocks for all
  // of them and a ring. False, and nothing taken, if that would leave fewer than `reserve` free blocks.
  bool Start(SequenceKv* kv, std::span<const int32_t> tokens, std::string_view salt, bool use_prefix_cache,
             int reserve);

  // Makes positions [computed, end) writable: new blocks, and a private copy of a shared block. False, and nothing
  // changed, if blocks run out.
  bool Extend(SequenceKv* kv, int end);

  // The child continues from the parent's computed tokens: shared blocks, its own ring. `child` is empty before.
  // False, and nothing taken, if no ring is left.
  bool Fork(const SequenceKv& parent, SequenceKv* child);

  // Where a chunk that starts at kv.computed and may reach `end` should end so that a snapshot of the rings can be
  // taken there: where another prompt branched off, at the prompt's last block boundary, and inside the `tokens` known
  // ones at any block boundary.
  int ChunkEnd(const SequenceKv& kv, int end, int prompt_tokens, int tokens) const;

  // The step being made computes up to `end`: takes a snapshot of the rings after it if one is due there. The last
  // call about a sequence before TakeCopies.
  void PlanSnapshot(SequenceKv* kv, int end, int prompt_tokens);

  // Moves the copies that have become due into the step. Their sources stay untouched until EndStep.
  void TakeCopies(StepRecord* step);

  // The step has run `ran` tokens after kv->computed, of which the first `kept` count (fewer if drafts were rejected).
  void Advance(SequenceKv* kv, std::span<const int32_t> tokens, std::string_view salt, int ran, int kept);

  void EndStep();

  // Gives everything back. Full blocks, and the rings if they serve the last block boundary, stay cached for later.
  void Stop(SequenceKv* kv);

  // Every block and ring has exactly the holders that `live` sequences, snapshots and copies in flight account for,
  // and nothing points at a free one. An empty string, or the first thing that is wrong. For tests.
  std::string Verify(std::span<const SequenceKv* const> live) const;

 private:
  int32_t TakeBlock();
  void ReleaseBlock(int32_t block) { pool_.Release(block, prefix_.Cached(block)); }
  bool SharedForWriting(int32_t block) const;
  // Whether rings written up to `written` hold the windows at the last block boundary of `computed` tokens.
  bool ServesBoundary(int computed, int written) const;
  int LastBoundary(int prompt_tokens) const;
  bool DueAt(const SequenceKv& kv, int boundary, int prompt_tokens) const;
  int Match(std::span<const int32_t> tokens, std::string_view salt, std::vector<PrefixKey>* keys) const;

  int block_size_;
  bool has_rings_;
  int slack_;  // ring rows beyond the window - 1 that a new token reads
  KvCacheOptions options_;
  BlockPool pool_;
  RingPool rings_;
  PrefixCache prefix_;
  KvCounters counters_;
  std::vector<CacheCopy> block_copies_;   // due in the next step; their sources are held
  std::vector<CacheCopy> ring_restores_;  // likewise
  std::vector<CacheCopy> ring_snapshots_;
  std::vector<int32_t> held_blocks_;  // sources of copies of the step that is running
  std::vector<int32_t> held_rings_;
  mutable std::vector<PrefixKey> matched_;  // scratch of Start
};

}  // namespace minimo
