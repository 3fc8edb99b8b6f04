#include <gtest/gtest.h>

#include <numeric>

#include "kv/block_pool.h"
#include "kv/kv_cache.h"
#include "kv/prefix_cache.h"
#include "kv/ring_pool.h"

namespace minimo {
namespace {

std::vector<int32_t> Tokens(int count, int first = 100) {
  std::vector<int32_t> tokens(count);
  std::iota(tokens.begin(), tokens.end(), first);
  return tokens;
}

// Blocks of 4 tokens, rings of `ring_tokens` over a window of 8; 0: no sliding group.
KvLayout Layout(int num_blocks, int ring_tokens = 0, int num_rings = 0) {
  KvLayout layout;
  layout.groups.push_back({0, 1, 1, 8, 8});
  if (ring_tokens > 0) layout.groups.push_back({8, 1, 1, 8, 8});
  layout.block_size = 4;
  layout.ring_tokens = ring_tokens;
  layout.num_blocks = num_blocks;
  layout.num_rings = num_rings;
  return layout;
}

KvCacheOptions SmallOptions() {
  KvCacheOptions options;
  options.snapshot_min_tokens = 4;
  options.snapshot_stride = 8;
  return options;
}

// One step that computes a sequence up to `end`.
StepRecord RunTo(KvCache* cache, SequenceKv* kv, const std::vector<int32_t>& tokens, int end, int prompt_tokens) {
  StepRecord step;
  EXPECT_TRUE(cache->Extend(kv, end));
  cache->PlanSnapshot(kv, end, prompt_tokens);
  cache->TakeCopies(&step);
  cache->Advance(kv, tokens, "", end - kv->computed, end - kv->computed);
  cache->EndStep();
  return step;
}

TEST(BlockPool, TakesEmptyBlocksFirstThenTheLeastRecentlyReleased) {
  BlockPool pool(3);
  const int32_t a = pool.Allocate(), b = pool.Allocate(), c = pool.Allocate();
  EXPECT_EQ(pool.num_free(), 0);
  pool.Release(b, true);
  pool.Release(a, true);
  pool.Release(c, false);
  EXPECT_EQ(pool.FreeList(), (std::vector<int32_t>{c, b, a}));
  pool.Hold(b);
  pool.Hold(b);
  EXPECT_EQ(pool.num_free(), 2);
  pool.Release(b, true);
  EXPECT_EQ(pool.num_free(), 2);
  pool.Release(b, true);
  EXPECT_EQ(pool.FreeList(), (std::vector<int32_t>{c, a, b}));
}

TEST(PrefixCache, TokensDecideWhenAllHashesCollide) {
  PrefixCache cache(8, 2, 0);  // every hash is 0
  const PrefixKey root = cache.Root("");
  const std::vector<int32_t> x = {1, 2}, y = {3, 4};
  const PrefixKey kx = cache.Insert(root, x, "", 0);
  const PrefixKey ky = cache.Insert(root, y, "", 1);
  const PrefixKey kxy = cache.Insert(kx, y, "", 2);
  EXPECT_EQ(cache.Find(root, x, "").block, 0);
  EXPECT_EQ(cache.Find(root, y, "").block, 1);
  EXPECT_EQ(cache.Find(kx, y, "").block, 2);
  EXPECT_EQ(cache.Find(ky, y, "").uid, 0u);
  EXPECT_EQ(cache.Find(root, x, "other salt").uid, 0u);
  EXPECT_EQ(cache.Insert(kx, y, "", 3).block, 2) << "the first block of a content stays";
  cache.Forget(0);
  EXPECT_EQ(cache.Find(root, x, "").uid, 0u);
  EXPECT_EQ(cache.Find(root, y, "").block, 1);
  EXPECT_TRUE(cache.Alive(kxy));
  const PrefixKey again = cache.Insert(root, x, "", 0);
  EXPECT_EQ(cache.Find(again, y, "").uid, 0u) << "a child of the evicted block is not a child of the new one";
}

TEST(RingPool, SnapshotsGiveWayLeastRecentlyUsedFirst) {
  RingPool pool(3, 8);
  const int32_t a = pool.Allocate(), b = pool.Allocate(), c = pool.Allocate();
  EXPECT_EQ(pool.Allocate(), -1);
  pool.AddSnapshot(4, a);
  pool.AddSnapshot(5, b);
  pool.Use(4);
  EXPECT_EQ(pool.Allocate(), b);
  EXPECT_EQ(pool.Snapshot(5), -1);
  pool.Hold(a);  // a copy in flight
  EXPECT_EQ(pool.Allocate(), -1);
  pool.Release(a);
  EXPECT_EQ(pool.Allocate(), a);
  pool.AddSnapshot(6, c);
  pool.AddSnapshot(6, b);
  EXPECT_EQ(pool.Snapshot(6), c);
  EXPECT_EQ(pool.num_free(), 1) << "a second snapshot of one block is given back";
}

TEST(KvCache, SharesFullBlocksAndLeavesOneTokenToCompute) {
  KvCache cache(Layout(8), SmallOptions());
  const auto tokens = Tokens(8);
  SequenceKv a, b;
  ASSERT_TRUE(cache.Start(&a, tokens, "", true, 0));
  EXPECT_EQ(a.computed, 0);
  RunTo(&cache, &a, tokens, 8, 8);
  ASSERT_TRUE(cache.Start(&b, tokens, "", true, 0));
  EXPECT_EQ(b.computed, 4) << "8 tokens are cached, the last must be computed";
  EXPECT_EQ(b.blocks[0], a.blocks[0]);
  EXPECT_NE(b.blocks[1], a.blocks[1]);
  SequenceKv c;
  ASSERT_TRUE(cache.Start(&c, tokens, "salt", true, 0));
  EXPECT_EQ(c.computed, 0);
  const SequenceKv* live[] = {&a, &b, &c};
  EXPECT_EQ(cache.Verify(live), "");
  EXPECT_EQ(cache.counters().prefix_hits, 4);
}

TEST(KvCache, RefusesWhatDoesNotFitWithoutTakingAnything) {
  KvCache cache(Layout(3), SmallOptions());
  SequenceKv a, b;
  ASSERT_TRUE(cache.Start(&a, Tokens(5), "", true, 1));
  EXPECT_FALSE(cache.Start(&b, Tokens(4, 500), "", true, 1)) << "would not leave the reserve";
  EXPECT_TRUE(cache.Start(&b, Tokens(4, 500), "", true, 0));
  EXPECT_FALSE(cache.Extend(&a, 9));
  EXPECT_EQ(a.blocks.size(), 2u);
  cache.Stop(&b);
  EXPECT_TRUE(cache.Extend(&a, 9));
}

TEST(KvCache, ForksCopyTheLastBlockOnce) {
  KvCache cache(Layout(8, 8, 4), SmallOptions());
  const auto tokens = Tokens(6);
  SequenceKv parent, child;
  ASSERT_TRUE(cache.Start(&parent, tokens, "", true, 0));
  RunTo(&cache, &parent, tokens, 6, 6);
  ASSERT_TRUE(cache.Fork(parent, &child));
  EXPECT_EQ(child.blocks, parent.blocks);
  const int32_t shared = parent.blocks[1];
  EXPECT_TRUE(cache.Extend(&parent, 7));
  EXPECT_TRUE(cache.Extend(&child, 7));
  EXPECT_NE(parent.blocks[1], shared);
  EXPECT_EQ(child.blocks[1], shared) << "the last holder writes in place";
  StepRecord step;
  cache.TakeCopies(&step);
  ASSERT_EQ(step.block_copies.size(), 1u);
  EXPECT_EQ(step.block_copies[0].from, shared);
  ASSERT_EQ(step.ring_restores.size(), 1u);
  EXPECT_EQ(step.ring_restores[0].from, parent.ring);
  EXPECT_EQ(step.ring_restores[0].to, child.ring);
  cache.EndStep();
  const SequenceKv* live[] = {&parent, &child};
  EXPECT_EQ(cache.Verify(live), "");
}

TEST(KvCache, APrefixWithoutItsRingSnapshotIsNoHit) {
  KvCache cache(Layout(16, 8, 4), SmallOptions());
  const auto tokens = Tokens(15);
  SequenceKv a;
  ASSERT_TRUE(cache.Start(&a, tokens, "", true, 0));
  EXPECT_EQ(cache.ChunkEnd(a, 15, 15, 15), 12) << "stops at the prompt's last block boundary";
  EXPECT_EQ(cache.ChunkEnd(a, 11, 15, 15), 8) << "inside a prompt chunks end at block boundaries";
  StepRecord first = RunTo(&cache, &a, tokens, 12, 15);
  ASSERT_EQ(first.ring_snapshots.size(), 1u);
  EXPECT_EQ(first.ring_snapshots[0].from, a.ring);
  RunTo(&cache, &a, tokens, 15, 15);
  SequenceKv b;
  ASSERT_TRUE(cache.Start(&b, tokens, "", true, 0));
  EXPECT_EQ(b.computed, 12);
  SequenceKv c;
  ASSERT_TRUE(cache.Start(&c, Tokens(11), "", true, 0));
  EXPECT_EQ(c.computed, 0) << "two blocks are cached, the windows after them are not";
  StepRecord step;
  cache.TakeCopies(&step);
  ASSERT_EQ(step.ring_restores.size(), 1u);
  EXPECT_EQ(step.ring_restores[0].from, first.ring_snapshots[0].to);
  EXPECT_EQ(step.ring_restores[0].to, b.ring);
  cache.EndStep();
  const SequenceKv* live[] = {&a, &b, &c};
  EXPECT_EQ(cache.Verify(live), "");
}

TEST(KvCache, ASnapshotIsTakenWherePromptsBranch) {
  KvCache cache(Layout(32, 8, 8), SmallOptions());
  SequenceKv kv[3];
  for (int i = 0; i < 3; ++i) {
    auto tokens = Tokens(10);  // two blocks and a half in common
    for (int own = 0; own < 9; ++own) tokens.push_back(1000 * (i + 1) + own);
    ASSERT_TRUE(cache.Start(&kv[i], tokens, "", true, 0));
    EXPECT_EQ(kv[i].computed, i == 2 ? 8 : 0);
    while (kv[i].computed < 19) RunTo(&cache, &kv[i], tokens, cache.ChunkEnd(kv[i], 19, 19, 19), 19);
    EXPECT_EQ(cache.counters().snapshots, i == 0 ? 1 : i == 1 ? 3 : 4);
  }
  const SequenceKv* live[] = {&kv[0], &kv[1], &kv[2]};
  EXPECT_EQ(cache.Verify(live), "");
}

TEST(KvCache, AFinishedSequenceLeavesItsRingAsSnapshot) {
  KvCacheOptions options = SmallOptions();
  options.snapshot_stride = 512;
  KvCache cache(Layout(16, 8, 2), options);
  const auto tokens = Tokens(17);
  SequenceKv a, b;
  ASSERT_TRUE(cache.Start(&a, Tokens(3), "", true, 0));
  for (int end = 3; end <= 16; ++end) RunTo(&cache, &a, tokens, end, 3);
  const int32_t ring = a.ring;
  cache.Stop(&a);
  ASSERT_TRUE(cache.Start(&b, tokens, "", true, 0));
  EXPECT_EQ(b.computed, 16);
  EXPECT_NE(b.ring, ring);
  const SequenceKv* live[] = {&b};
  EXPECT_EQ(cache.Verify(live), "");
}

TEST(KvCache, SlackInTheRingServesTheBoundaryBefore) {
  KvCache cache(Layout(16, 10, 4), SmallOptions());  // 3 rows of slack = block_size - 1
  const auto tokens = Tokens(15);
  SequenceKv a, b;
  ASSERT_TRUE(cache.Start(&a, tokens, "", true, 0));
  EXPECT_EQ(cache.ChunkEnd(a, 15, 15, 15), 15) << "no extra step";
  RunTo(&cache, &a, tokens, 15, 15);
  ASSERT_TRUE(cache.Start(&b, tokens, "", true, 0));
  EXPECT_EQ(b.computed, 12);
}

TEST(KvCache, TheOnlyRingIsTakenFromTheSnapshotThatMatched) {
  KvCache cache(Layout(16, 8, 1), SmallOptions());
  const auto tokens = Tokens(9);
  SequenceKv a, b;
  ASSERT_TRUE(cache.Start(&a, tokens, "", true, 0));
  RunTo(&cache, &a, tokens, 8, 9);
  cache.Stop(&a);
  ASSERT_TRUE(cache.Start(&b, tokens, "", true, 0));
  EXPECT_EQ(b.computed, 0);
  const SequenceKv* live[] = {&b};
  EXPECT_EQ(cache.Verify(live), "");
}

TEST(KvCache, StoppingBeforeTheStepCancelsTheRestore) {
  KvCache cache(Layout(16, 8, 4), SmallOptions());
  const auto tokens = Tokens(9);
  SequenceKv a, b;
  ASSERT_TRUE(cache.Start(&a, tokens, "", true, 0));
  RunTo(&cache, &a, tokens, 8, 9);
  ASSERT_TRUE(cache.Start(&b, tokens, "", true, 0));
  EXPECT_EQ(b.computed, 8);
  cache.Stop(&b);
  StepRecord step;
  cache.TakeCopies(&step);
  EXPECT_TRUE(step.ring_restores.empty());
  cache.EndStep();
  const SequenceKv* live[] = {&a};
  EXPECT_EQ(cache.Verify(live), "");
}

TEST(KvCache, AFailedStepKeepsNoSnapshot) {
  for (const bool recorded : {false, true}) {  // the step fails before its record is made, or after
    KvCache cache(Layout(16, 8, 4), SmallOptions());
    const auto tokens = Tokens(15);
    SequenceKv a, b;
    ASSERT_TRUE(cache.Start(&a, tokens, "", true, 0));
    ASSERT_TRUE(cache.Extend(&a, 12));
    cache.PlanSnapshot(&a, 12, 15);
    ASSERT_GE(a.pending_snapshot, 0);
    StepRecord step;
    if (recorded) cache.TakeCopies(&step);
    cache.Stop(&a);
    if (!recorded) cache.TakeCopies(&step);
    EXPECT_EQ(step.ring_snapshots.size(), recorded ? 1u : 0u);
    cache.EndStep();
    EXPECT_EQ(cache.Verify({}), "") << "both rings and all blocks are free again";
    ASSERT_TRUE(cache.Start(&b, tokens, "", true, 0));
    EXPECT_EQ(b.computed, 0);
  }
}

TEST(KvCache, RejectedDraftsAreWrittenAgain) {
  for (const int ring_tokens : {10, 11}) {  // 3 and 4 rows beyond what a new token reads
    KvCache cache(Layout(16, ring_tokens, 4), SmallOptions());
    const auto tokens = Tokens(8);
    SequenceKv a;
    ASSERT_TRUE(cache.Start(&a, Tokens(4), "", true, 0));
    ASSERT_TRUE(cache.Extend(&a, 3));
    cache.Advance(&a, tokens, "", 3, 3);  // an end that leaves no snapshot
    cache.Advance(&a, tokens, "", 1, 1);
    ASSERT_TRUE(cache.Extend(&a, 8));  // one token and three drafts
    StepRecord step;
    cache.TakeCopies(&step);
    cache.Advance(&a, tokens, "", 4, 1);
    cache.EndStep();
    EXPECT_EQ(a.computed, 5);
    EXPECT_EQ(a.written, 8);
    EXPECT_EQ(a.published, 1);
    const SequenceKv* live[] = {&a};
    EXPECT_EQ(cache.Verify(live), "");
    cache.Stop(&a);
    SequenceKv b;
    ASSERT_TRUE(cache.Start(&b, tokens, "", true, 0));
    EXPECT_EQ(b.computed, ring_tokens == 11 ? 4 : 0) << "rejected rows may have overwritten the window at 4";
  }
}

}  // namespace
}  // namespace minimo
