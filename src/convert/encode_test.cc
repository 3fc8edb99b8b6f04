// Number formats against the scalar definitions, bit for bit, on every instruction set of this machine.
#include "convert/encode.h"

#include <gtest/gtest.h>
#include <hwy/targets.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <functional>
#include <limits>
#include <random>
#include <vector>

#include "ops/linear/linear.h"

namespace minimo {
namespace {

void OnEveryInstructionSet(const std::function<void()>& check) {
  int sets = 0;
  for (int64_t left = hwy::SupportedTargets(); left != 0; left &= left - 1, ++sets) {
    const int64_t target = left & -left;
    hwy::SetSupportedTargetsForTest(target);
    hwy::GetChosenTarget().Update(target);
    SCOPED_TRACE(hwy::TargetName(target));
    check();
  }
  hwy::SetSupportedTargetsForTest(0);
  hwy::GetChosenTarget().DeInit();
  EXPECT_GE(sets, 1);
}

// Of all magnitudes, with zeros, subnormals and ties of the narrow formats.
std::vector<float> Values(int64_t count) {
  std::mt19937 rng(7);
  std::normal_distribution<float> normal;
  std::uniform_int_distribution<int> exponent(-20, 12);
  std::vector<float> values(static_cast<size_t>(count));
  for (float& v : values) v = std::ldexp(normal(rng), exponent(rng));
  for (size_t i = 0; i < values.size(); i += 5) values[i] = std::ldexp(std::nearbyint(8 * values[i]), -5);
  for (size_t i = 0; i < values.size(); i += 17) values[i] = i % 2 ? 0.0f : -0.0f;
  for (size_t i = 3; i < values.size(); i += 101) values[i] = std::numeric_limits<float>::denorm_min() * 5;
  return values;
}

TEST(Encode, Bf16) {
  std::vector<float> values = Values(1021);  // not a multiple of any vector's lanes
  values[1] = std::numeric_limits<float>::infinity();
  values[2] = std::bit_cast<float>(0x7f800001u);  // a NaN whose upper half would be infinity
  values[4] = -std::numeric_limits<float>::max();
  OnEveryInstructionSet([&] {
    std::vector<Bf16> made(values.size());
    EncodeBf16(values.data(), static_cast<int64_t>(values.size()), made.data());
    for (size_t i = 0; i < values.size(); ++i) ASSERT_EQ(made[i].bits, ToBf16(values[i]).bits) << i << " " << values[i];
  });
}

TEST(Encode, Fp8Band) {
  constexpr int64_t kRows = 100, kCols = 300;
  std::vector<float> values = Values(kRows * kCols);
  for (int64_t r = 0; r < kRows; ++r) {
    for (int64_t c = 128; c < 256; ++c) values[r * kCols + c] = 0;  // an all-zero block
    for (int64_t c = 0; c < 128; ++c) {                             // one of scale 1, with ties
      values[r * kCols + c] = c == 5 ? 448.0f : static_cast<float>((r * 128 + c) % 4000 - 2000) / 32;
    }
  }
  OnEveryInstructionSet([&] {
    std::vector<Fp8E4M3> codes(values.size());
    float scales[3];
    EncodeFp8Band(values.data(), kRows, kCols, codes.data(), scales);
    for (int64_t block = 0; block < 3; ++block) {
      float largest = 0;
      for (int64_t i = 0; i < kRows * kCols; ++i) {
        if (i % kCols / 128 == block) largest = std::max(largest, std::fabs(values[i]));
      }
      ASSERT_EQ(scales[block], largest > 0 ? largest / 448 : 1.0f);
    }
    for (int64_t i = 0; i < kRows * kCols; ++i) {
      ASSERT_EQ(codes[i].bits, ToFp8E4M3(values[i] / scales[i % kCols / 128]).bits) << i << " " << values[i];
    }
  });
}

struct Int4Group {
  float scale;
  double error;
  int codes[kInt4Group];
};

// The definition in encode.h, value by value.
Int4Group SearchedGroup(const float* x) {
  Int4Group best = {1.0f, 0, {}};
  float largest = 0, least = std::numeric_limits<float>::infinity();
  for (int i = 0; i < kInt4Group; ++i) largest = std::max(largest, std::fabs(x[i]));
  const auto code = [&](int i, float scale) { return std::clamp(std::nearbyint(x[i] * (1.0f / scale)), -7.0f, 7.0f); };
  for (int k = 0; k < kInt4Candidates; ++k) {
    const float fraction = 1.0f - (1.0f - kInt4SmallestFraction) * static_cast<float>(k) / (kInt4Candidates - 1);
    const float scale = ToFloat(ToBf16(largest / 7.0f * fraction));
    if (scale == 0) continue;
    float error = 0;
    for (int i = 0; i < kInt4Group; ++i) error += (code(i, scale) * scale - x[i]) * (code(i, scale) * scale - x[i]);
    if (error >= least) continue;
    least = error;
    best.scale = scale;
  }
  for (int i = 0; i < kInt4Group; ++i) {
    best.codes[i] = static_cast<int>(code(i, best.scale));
    best.error += std::pow(double{best.scale} * best.codes[i] - x[i], 2);
  }
  return best;
}

WeightView Int4View(const std::vector<uint8_t>& packed, const std::vector<Bf16>& scales) {
  WeightView w;
  w.format = WeightFormat::kInt4Group;
  w.rows = 1;
  w.cols = static_cast<int64_t>(packed.size()) * 2;
  w.data = reinterpret_cast<const std::byte*>(packed.data());
  w.row_bytes = w.cols / 2;
  w.group_scales = scales.data();
  w.scale_stride = static_cast<int64_t>(scales.size());
  w.group_size = kInt4Group;
  return w;
}

TEST(Encode, Int4IsTheSearchThatIsDocumented) {
  constexpr int64_t kGroups = 3001;  // batches of lanes and a rest; so many that fused products would show
  std::vector<float> values = Values(kGroups * kInt4Group);
  for (int i = 0; i < kInt4Group; ++i) {
    values[5 * kInt4Group + i] = 0;
    values[6 * kInt4Group + i] = std::numeric_limits<float>::denorm_min() * static_cast<float>(i % 3);
  }
  OnEveryInstructionSet([&] {
    for (const int64_t groups : {int64_t{1}, int64_t{16}, int64_t{24}, kGroups}) {
      std::vector<uint8_t> packed(static_cast<size_t>(groups * kInt4Group / 2));
      std::vector<Bf16> scales(static_cast<size_t>(groups));
      EncodeInt4(values.data(), groups, packed.data(), scales.data());
      for (int64_t g = 0; g < groups; ++g) {
        const Int4Group wanted = SearchedGroup(values.data() + g * kInt4Group);
        ASSERT_EQ(ToFloat(scales[g]), wanted.scale) << "group " << g;
        for (int i = 0; i < kInt4Group; ++i) {
          const int byte = packed[(g * kInt4Group + i) / 2];
          ASSERT_EQ((i % 2 ? byte >> 4 : byte & 0xf) - 8, wanted.codes[i]) << "group " << g << ", value " << i;
        }
      }
    }
  });
}

// What the search is for: squared error against scales of the largest value, by group and in all.
TEST(Encode, Int4SearchIsNeverWorseThanTheLargestValue) {
  constexpr int64_t kGroups = 200;
  std::mt19937 rng(2);
  std::normal_distribution<float> normal;
  double searched = 0, plain = 0;
  for (int64_t g = 0; g < kGroups; ++g) {
    float x[kInt4Group], largest = 0;
    for (float& v : x) largest = std::max(largest, std::fabs(v = normal(rng)));
    const float scale = ToFloat(ToBf16(largest / 7));
    double of_largest = 0;
    for (const float v : x) of_largest += std::pow(std::clamp(std::nearbyint(v / scale), -7.0f, 7.0f) * scale - v, 2);
    const double found = SearchedGroup(x).error;
    EXPECT_LE(found, of_largest * 1.001);
    searched += found;
    plain += of_largest;
  }
  EXPECT_LT(searched, 0.95 * plain);
}

void ExpectDecoded(const WeightView& w) {
  std::vector<float> out(static_cast<size_t>(w.rows * w.cols));
  DecodeRows(w, 0, w.rows, out.data());
  for (int64_t r = 0; r < w.rows; ++r) {
    for (int64_t c = 0; c < w.cols; ++c) {
      ASSERT_EQ(std::bit_cast<uint32_t>(out[r * w.cols + c]), std::bit_cast<uint32_t>(Dequantize(w, r, c)))
          << r << ", " << c;
    }
  }
}

TEST(Encode, DecodesEveryFormatAsTheReference) {
  constexpr int64_t kRows = 130, kCols = 256;
  std::mt19937 rng(3);
  std::vector<uint8_t> bytes(kRows * kCols);
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<uint8_t>(i < 256 ? i : rng());  // NaN among them
  const std::vector<float> values = Values(kRows * kCols);
  std::vector<Bf16> halves;
  for (const float v : values) halves.push_back(ToBf16(v));
  WeightView w;
  w.rows = kRows;
  w.cols = kCols;
  OnEveryInstructionSet([&] {
    WeightView fp8 = w;
    fp8.format = WeightFormat::kFp8Block;
    fp8.data = reinterpret_cast<const std::byte*>(bytes.data());
    fp8.row_bytes = kCols;
    ExpectDecoded(fp8.SliceCols(0, 251));
    fp8.scales = values.data();
    fp8.scale_stride = 3;
    fp8.first_row = 100;  // a slice that begins within a block both ways
    fp8.first_col = 50;
    ExpectDecoded(fp8);
    WeightView plain = w;
    plain.data = reinterpret_cast<const std::byte*>(values.data());
    plain.row_bytes = kCols * 4;
    ExpectDecoded(plain);
    plain.format = WeightFormat::kBf16;
    plain.data = reinterpret_cast<const std::byte*>(halves.data());
    plain.row_bytes = kCols * 2;
    ExpectDecoded(plain.SliceCols(0, 251));
    for (const int group : {32, 64, 128}) {
      WeightView packed = w;
      packed.format = WeightFormat::kInt4Group;
      packed.data = reinterpret_cast<const std::byte*>(bytes.data());
      packed.row_bytes = kCols / 2;
      packed.group_scales = halves.data();
      packed.scale_stride = kCols / group;
      packed.group_size = group;
      ExpectDecoded(packed);
    }
  });
}

TEST(Encode, Int4ThereAndBack) {
  const std::vector<float> values = Values(3 * kInt4Group);
  std::vector<uint8_t> packed(values.size() / 2);
  std::vector<Bf16> scales(3);
  EncodeInt4(values.data(), 3, packed.data(), scales.data());
  std::vector<float> back(values.size());
  DecodeRows(Int4View(packed, scales), 0, 1, back.data());
  double error = 0, norm = 0, wanted = 0, square = 0;
  AddSquares(values.data(), back.data(), static_cast<int64_t>(values.size()), &error, &norm);
  for (int g = 0; g < 3; ++g) wanted += SearchedGroup(values.data() + g * kInt4Group).error;
  for (const float v : values) square += double{v} * v;
  EXPECT_NEAR(error, wanted, 1e-9 * wanted);
  EXPECT_NEAR(norm, square, 1e-9 * square);
}

}  // namespace
}  // namespace minimo
