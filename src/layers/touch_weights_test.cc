#include "layers/touch_weights.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cstdlib>

namespace minimo {
namespace {

long MinorFaults() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_minflt;
}

// A mapped file of rows x 4096 bytes as the gate of an expert.
class TouchWeights : public ::testing::Test {
 protected:
  static constexpr int64_t kRows = 8192, kRowBytes = 4096;

  void SetUp() override {
    char name[] = "/tmp/minimo_touch_XXXXXX";
    const int fd = mkstemp(name);
    ASSERT_GE(fd, 0);
    unlink(name);
    const std::vector<char> row(kRowBytes, 1);
    for (int64_t r = 0; r < kRows; ++r) ASSERT_EQ(write(fd, row.data(), row.size()), kRowBytes);
    data_ = mmap(nullptr, kRows * kRowBytes, PROT_READ, MAP_SHARED, fd, 0);
    ASSERT_NE(data_, MAP_FAILED);
    close(fd);
    weights_.layers.resize(1);
    weights_.layers[0].experts.resize(2);
    WeightView& view = weights_.layers[0].experts[1].gate.view;
    view.data = static_cast<const std::byte*>(data_);
    view.rows = kRows;
    view.cols = view.row_bytes = kRowBytes;
    view.format = WeightFormat::kFp8Block;
  }
  void TearDown() override { munmap(data_, kRows * kRowBytes); }

  long FaultsOfReadingAll() const {
    const long before = MinorFaults();
    int sum = 0;
    for (int64_t r = 0; r < kRows; ++r) sum += static_cast<const volatile char*>(data_)[r * kRowBytes];
    EXPECT_EQ(sum, kRows);
    return MinorFaults() - before;
  }

  void* data_ = nullptr;
  DecoderWeights weights_;
};

TEST_F(TouchWeights, ReadingTakesNoFaultsAfterwards) {
  if (madvise(data_, 4096, 22) != 0) GTEST_SKIP() << "no MADV_POPULATE_READ: Linux before 5.14";
  WeightToucher toucher(weights_);
  toucher.Wait();
  EXPECT_LT(FaultsOfReadingAll(), 16);  // untouched: one for each 64 KB, 512
}

TEST_F(TouchWeights, EndsAtOnceWithItsOwner) {
  { const WeightToucher toucher(weights_); }
  FaultsOfReadingAll();
}

}  // namespace
}  // namespace minimo
