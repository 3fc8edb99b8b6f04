#include "kv/step_codec.h"

#include "kv/replica_step.h"

#include <gtest/gtest.h>

#include <cstring>
#include <random>

namespace minimo {
namespace {

StepRecord Sample() {
  StepRecord step;
  step.id = 1234567890123;
  step.tokens = {5, 6, 7, 8};
  step.sequences = {{0, 3, 10, 0, 2, 1, 1}, {3, 1, 0, 2, 1, -1, 0}};
  step.block_tables = {4, 9, 2};
  step.row_requests = {{40, 0.7f}};
  step.block_copies = {{1, 2}};
  step.ring_snapshots = {{3, 4}, {5, 6}};
  return step;
}

// As Sample, with other numbers in every list.
StepRecord Other() {
  StepRecord step = Sample();
  step.tokens = {15, 16, 17, 18};
  step.block_tables = {14, 19, 12};
  step.block_copies = {{11, 12}, {15, 16}};
  step.ring_restores = {{17, 18}};
  step.ring_snapshots = {{13, 14}};
  return step;
}

std::vector<std::byte> Encoded(const StepRecord& step) {
  std::vector<std::byte> bytes;
  EncodeStep(step, &bytes);
  return bytes;
}

TEST(StepCodec, SurvivesTheRoundTrip) {
  const auto bytes = Encoded(Sample());
  const auto decoded = DecodeStep(bytes);
  ASSERT_TRUE(decoded.ok());
  EXPECT_EQ(decoded->tokens, Sample().tokens);
  EXPECT_EQ(decoded->sequences.size(), 2u);
  EXPECT_EQ(decoded->sequences[1].ring, -1);
  EXPECT_EQ(decoded->row_requests[0].candidates, 40);
  EXPECT_EQ(decoded->ring_snapshots[1].to, 6);
  EXPECT_EQ(Encoded(*decoded), bytes);  // nothing is lost
}

TEST(StepCodec, ReplicasComeBackAsTheyWere) {
  StepRecord whole, idle;
  AppendReplica(Sample(), &whole);
  AppendReplica(idle, &whole);
  AppendReplica(Other(), &whole);
  EXPECT_EQ(whole.sequences[2].first_token, 4);
  EXPECT_EQ(whole.NumLogits(), 2);
  const auto decoded = DecodeStep(Encoded(whole));
  ASSERT_TRUE(decoded.ok()) << decoded.error().message;
  StepRecord sample = Sample(), other = Other();
  for (StepRecord* step : {&sample, &other}) step->id = 0, step->row_requests.clear();
  const StepRecord expected[] = {sample, idle, other, idle};  // the last: no such replica
  for (int replica = 0; replica < 4; ++replica) {
    StepRecord part;
    TakeReplica(*decoded, replica, &part);
    EXPECT_EQ(Encoded(part), Encoded(expected[replica])) << replica;
  }
  StepRecord alone, rest;
  TakeReplica(sample, 0, &alone);  // a record that knows of no replicas is the first one's
  EXPECT_EQ(Encoded(alone), Encoded(sample));
  TakeReplica(sample, 1, &rest);
  EXPECT_TRUE(rest.sequences.empty() && rest.ring_snapshots.empty());
}

TEST(StepCodec, ReplicasThatReachIntoEachOtherAreRefused) {
  StepRecord whole;
  AppendReplica(Sample(), &whole);
  AppendReplica(Sample(), &whole);
  StepRecord bad = whole;
  bad.sequences[2].first_token = 0;
  EXPECT_FALSE(DecodeStep(Encoded(bad)).ok());
  bad = whole;
  bad.replicas[1].block_copies = 0;
  EXPECT_FALSE(DecodeStep(Encoded(bad)).ok());
  bad = whole;
  bad.replicas[0].sequences = 100;
  EXPECT_FALSE(DecodeStep(Encoded(bad)).ok());
}

TEST(StepCodec, CutsAndNoiseAreRefusedOrConsistentNeverACrash) {
  const auto bytes = Encoded(Sample());
  for (size_t length = 0; length < bytes.size(); ++length) {
    EXPECT_FALSE(DecodeStep(std::span(bytes).first(length)).ok()) << length;
  }
  std::mt19937 random(1);
  for (int i = 0; i < 20000; ++i) {
    auto noisy = bytes;
    noisy[random() % noisy.size()] = static_cast<std::byte>(random());
    const auto decoded = DecodeStep(noisy);
    if (!decoded.ok()) continue;
    for (const SequenceStep& s : decoded->sequences) {
      EXPECT_LE(int64_t{s.first_token} + s.num_tokens, std::ssize(decoded->tokens));
      EXPECT_LE(int64_t{s.block_table} + s.num_blocks, std::ssize(decoded->block_tables));
    }
  }
}

}  // namespace
}  // namespace minimo
