#include "cuda/device_part.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace minimo::cuda {
namespace {

using ::testing::HasSubstr;

// What GPUs are asked for with these flags, refused before any of them is looked at.
std::string Refusal(const ParallelFlags& flags) {
  LoadedModel shapes;
  shapes.spec.hidden = 3072;
  shapes.spec.vocab = 1000;
  shapes.spec.moe = {256, 8, 1536};
  shapes.spec.layers.assign(1, LayerSpec{{48, 8, 128, 128, 0, 64, 5e6, false, true, 1.0f}, true, 0});
  const auto plan = PlanRanks(shapes.spec, flags, 8);
  if (!plan.ok()) return plan.error().message;
  const auto part = MakeDevicePart(shapes, *plan, nullptr, 1);
  return part.ok() ? "accepted" : part.error().message;
}

TEST(DevicePart, LayoutsThatGpusDoNotTakeAreRefusedInWords) {
  EXPECT_THAT(Refusal({2, false, "ep", "tp"}), HasSubstr("--moe-prefill is ep, --moe-decode tp"));
  EXPECT_THAT(Refusal({1, false, "", "", 2}), HasSubstr("only CPU ranks hold replicas of it; use --tensor-parallel-size 2"));
  EXPECT_THAT(Refusal({64, false, "tp", "tp"}), HasSubstr("64 GPUs are too many for this model"));
}

}  // namespace
}  // namespace minimo::cuda
