#include "cuda/device_part.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "comm/threads.h"

namespace minimo::cuda {
namespace {

using ::testing::HasSubstr;

LoadedModel Shapes() {
  LoadedModel shapes;
  shapes.spec.hidden = 3072;
  shapes.spec.vocab = 1000;
  shapes.spec.moe = {256, 8, 1536};
  shapes.spec.layers.assign(1, LayerSpec{{48, 8, 128, 128, 0, 64, 5e6, false, true, 1.0f}, true, 0});
  return shapes;
}

// What GPUs are asked for with these flags, refused before any of them is looked at.
std::string Refusal(const ParallelFlags& flags) {
  const LoadedModel shapes = Shapes();
  const auto plan = PlanRanks(shapes.spec, flags, 8);
  if (!plan.ok()) return plan.error().message;
  const auto part = MakeDevicePart(shapes, *plan, nullptr, 1);
  return part.ok() ? "accepted" : part.error().message;
}

TEST(DevicePart, LayoutsThatGpusDoNotTakeAreRefusedInWords) {
  EXPECT_THAT(Refusal({64, false, "tp", "tp"}), HasSubstr("64 GPUs are too many for this model"));
  EXPECT_THAT(Refusal({64, false, "ep", "tp"}), HasSubstr("64 GPUs are too many for this model"));
}

TEST(DevicePart, PhasesThatShareExpertsDifferentlyEachHaveTheirs) {
  const LoadedModel shapes = Shapes();
  const auto comms = MakeThreadRanks(2);
  for (const auto& comm : comms) {
    const int64_t rank = comm->rank();
    const auto plan = PlanRanks(shapes.spec, {2, false, "ep", "tp"}, 8);
    ASSERT_TRUE(plan.ok());
    const auto part = MakeDevicePart(shapes, *plan, comm.get());
    ASSERT_TRUE(part.ok()) << part.error().message;
    EXPECT_EQ(part->share.experts.experts, (Range{128 * rank, 128}));
    EXPECT_EQ(part->spec.moe.intermediate, 1536);
    ASSERT_TRUE(part->decode_experts.has_value());
    EXPECT_EQ(part->decode_experts->experts, (Range{0, 256}));
    EXPECT_EQ(part->decode_experts->rows, (Range{768 * rank, 768}));
    const auto alike = PlanRanks(shapes.spec, {2, false, "tp", "tp"}, 8);
    EXPECT_FALSE(MakeDevicePart(shapes, *alike, comm.get())->decode_experts.has_value());
  }
}

TEST(DevicePart, ReplicasHaveAllHeadsAndShareTheExperts) {
  const LoadedModel shapes = Shapes();
  const auto comms = MakeThreadRanks(4);
  for (const auto& comm : comms) {
    const auto plan = PlanRanks(shapes.spec, {2, true, "", "", 2}, 8);
    ASSERT_TRUE(plan.ok());
    const auto part = MakeDevicePart(shapes, *plan, comm.get());
    ASSERT_TRUE(part.ok()) << part.error().message;
    EXPECT_EQ(part->spec.layers[0].attention.heads, 24);  // a replica is two ranks
    EXPECT_EQ(part->share.replica(), comm->rank() / 2);
    EXPECT_EQ(part->share.experts.experts, (Range{64 * comm->rank(), 64}));
    EXPECT_EQ(part->share.vocab, (Range{250 * comm->rank(), 250}));
  }
}

}  // namespace
}  // namespace minimo::cuda
