// The linear kernels of every ISA that this machine has: exact ones against the reference, integer ones bit by bit
// against the portable specification and within the bound that 8-bit activations give, over odd shapes.
#include "ops/linear/linear.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "base/float_types.h"
#include "base/thread_team.h"
#include "ops/linear/cpu_isa.h"
#include "ops/linear/row_kernels.h"
#include "ops/linear/test_weights.h"
#include "ops/linear/tiles.h"

namespace minimo {
namespace {

std::vector<CpuIsa> Isas() {
  LimitCpuIsa(CpuIsa::kAmx);
  std::vector<CpuIsa> isas;
#if defined(__aarch64__)
  constexpr CpuIsa kAll[] = {CpuIsa::kPortable, CpuIsa::kNeon, CpuIsa::kNeonDot};
#else
  constexpr CpuIsa kAll[] = {CpuIsa::kPortable, CpuIsa::kAvx2, CpuIsa::kAvx512, CpuIsa::kAmx};
#endif
  for (const CpuIsa isa : kAll) {
    if (isa <= ActiveCpuIsa()) isas.push_back(isa);
  }
  return isas;
}

// How exact products of a matrix are computed: an ISA, and from rows or from tiles.
struct Way {
  CpuIsa isa;
  WeightView weight;
};

std::vector<Way> ExactWays(OwnedWeight* w, ThreadTeam& team) {
  WeightView rows = w->view, tiles = rows;
  if (HasExactTiles(rows)) {
    AddTiles(w, team);
    std::swap(tiles, w->view);
    tiles.exact_tiles = true;
  }
  std::vector<Way> ways;
  for (const CpuIsa isa : Isas()) {
    LimitCpuIsa(isa);
    ways.push_back({isa, rows});
    if (HasExactTiles(rows)) ways.push_back({isa, tiles});
  }
  return ways;
}

std::string NameOf(const Way& way) {
  return std::string(minimo::NameOf(way.isa)) + (way.weight.exact_tiles ? ", tiles" : "");
}

struct RestoreIsa {
  ~RestoreIsa() { LimitCpuIsa(CpuIsa::kAmx); }
};

std::vector<float> Product(const WeightView& w, const std::vector<float>& x, int64_t tokens, ThreadTeam& team) {
  std::vector<float> out(static_cast<size_t>(tokens * w.rows), -1.0f);
  const LinearTask task{w, x.data(), w.cols, nullptr, out.data(), w.rows, nullptr, tokens};
  LinearCpu({&task, 1}, team);
  return out;
}

struct Case {
  WeightFormat format;
  int64_t rows, cols, tokens;
  int group = 64;
};

std::vector<Case> Cases() {
  std::vector<Case> cases;
  for (const WeightFormat f : {WeightFormat::kBf16, WeightFormat::kFp8Block}) {
    for (const auto& [rows, cols] :
         {std::pair{1, 1}, {3, 7}, {17, 128}, {64, 129}, {65, 192}, {130, 1000}, {47, 3072}}) {
      for (const int tokens : {1, 2, 3, 5, 7, 13, 33}) cases.push_back({f, rows, cols, tokens});
    }
  }
  for (const int tokens : {1, 2}) {  // two rows at once, and the last one alone
    cases.push_back({WeightFormat::kFp8Block, 5, 8400, tokens});
    cases.push_back({WeightFormat::kInt4Group, 5, 8448, tokens});
  }
  for (const int tokens : {1, 2, 3, 8}) cases.push_back({WeightFormat::kInt4Group, 7, 16448, tokens});
  for (const int group : {32, 64, 128}) {
    for (const auto& [rows, groups] : {std::pair{1, 1}, {16, 2}, {65, 3}, {130, 24}}) {
      for (const int tokens : {1, 2, 4, 6, 19, 40}) {
        cases.push_back({WeightFormat::kInt4Group, rows, int64_t{groups} * group, tokens, group});
      }
    }
  }
  return cases;
}

std::string Name(const Case& c, const std::string& way) {
  return std::to_string(static_cast<int>(c.format)) + " " + std::to_string(c.rows) + " x " + std::to_string(c.cols) +
         ", group " + std::to_string(c.group) + ", " + std::to_string(c.tokens) + " tokens, " +
         way;
}

TEST(LinearKernels, ExactOnesMatchTheReference) {
  const RestoreIsa restore;
  std::mt19937 rng(11);
  ThreadTeam team(3);
  for (const Case& c : Cases()) {
    OwnedWeight w = MakeWeight(rng, c.format, c.rows, c.cols, c.group);
    const auto x = Normal(rng, c.tokens * c.cols);
    std::vector<float> want(static_cast<size_t>(c.tokens * c.rows));
    const LinearTask task{w.view, x.data(), c.cols, nullptr, want.data(), c.rows, nullptr, c.tokens};
    LinearRef({&task, 1});
    for (const Way& way : ExactWays(&w, team)) {
      LimitCpuIsa(way.isa);
      const auto got = Product(way.weight, x, c.tokens, team);
      for (int64_t r = 0; r < c.rows; ++r) {
        double norm = 0;
        for (int64_t col = 0; col < c.cols; ++col) norm += std::pow(double{Dequantize(w.view, r, col)}, 2);
        // A float32 sum of n products in any order errs by about sqrt(n) 2^-24 |w| |x|.
        const double bound = 4 * std::sqrt(static_cast<double>(c.cols)) * 0x1p-24 * std::sqrt(norm) *
                                 (2 + std::sqrt(static_cast<double>(c.cols))) + 1e-30;
        for (int64_t t = 0; t < c.tokens; ++t) {
          ASSERT_NEAR(got[t * c.rows + r], want[t * c.rows + r], bound) << Name(c, NameOf(way)) << " row " << r;
        }
      }
    }
  }
}

// Activations are float32 in exact products of 4-bit weights, also where a kernel computes with integers: what stands
// beside much larger ones keeps its bits. The large ones meet weights of 0, so that they do not hide it.
TEST(LinearKernels, ExactFourBitOnesKeepSmallActivationsBesideLargeOnes) {
  const RestoreIsa restore;
  std::mt19937 rng(18);
  ThreadTeam team(2);
  for (const int group : {32, 64, 128}) {
    for (const int64_t groups : {1, 3, 9, 24, 66}) {
      const int64_t rows = 37, cols = groups * group;
      OwnedWeight w = MakeWeight(rng, WeightFormat::kInt4Group, rows, cols, group);
      for (const int64_t tokens : {1, 2, 3, 8, 13}) {
        auto x = Normal(rng, tokens * cols);
        for (int64_t c = 5; c < cols; c += 11) {
          for (int64_t r = 0; r < rows; ++r) {
            std::byte& pair = w.bytes[static_cast<size_t>(r * w.view.row_bytes + c / 2)];
            pair = c % 2 == 0 ? (pair & std::byte{0xf0}) | std::byte{0x08} : (pair & std::byte{0x0f}) | std::byte{0x80};
          }
          for (int64_t t = 0; t < tokens; ++t) x[t * cols + c] *= 20;
        }
        for (const Way& way : ExactWays(&w, team)) {
          LimitCpuIsa(way.isa);
          const auto got = Product(way.weight, x, tokens, team);
          for (int64_t t = 0; t < tokens; ++t) {
            for (int64_t r = 0; r < rows; ++r) {
              double want = 0, magnitude = 0;
              for (int64_t c = 0; c < cols; ++c) {
                const double product = double{Dequantize(w.view, r, c)} * x[t * cols + c];
                want += product;
                magnitude += std::fabs(product);
              }
              ASSERT_NEAR(got[t * rows + r], want, 0x1p-21 * magnitude)
                  << Name({WeightFormat::kInt4Group, rows, cols, tokens, group}, NameOf(way)) << " row " << r;
            }
          }
        }
      }
    }
  }
}

// What integer products compute, in double: each group's activations rounded to 127 steps of its largest.
double QuantizedDot(const WeightView& w, int64_t r, const float* x) {
  const TileLayout layout(w);
  double sum = 0;
  for (int64_t g = 0; g < layout.groups; ++g) {
    const int64_t begin = g * layout.group, end = std::min(w.cols, begin + layout.group);
    float most = 0;
    for (int64_t c = begin; c < end; ++c) most = std::max(most, std::fabs(x[c]));
    for (int64_t c = begin; c < end; ++c) {
      sum += double{DequantizeTile(w, r, c)} * std::nearbyint(x[c] * (127.0f / most)) * (most / 127.0f);
    }
  }
  return sum;
}

TEST(LinearKernels, IntegerOnesAgreeBitByBitOnEveryIsa) {
  const RestoreIsa restore;
  std::mt19937 rng(12);
  ThreadTeam team(3);
  for (const Case& c : Cases()) {
    OwnedWeight w = MakeWeight(rng, c.format, c.rows, c.cols, c.group);
    AddTiles(&w, team);
    const auto x = Normal(rng, c.tokens * c.cols);
    LimitCpuIsa(CpuIsa::kPortable);
    const auto want = Product(w.view, x, c.tokens, team);
    for (int64_t t = 0; t < c.tokens; ++t) {
      for (int64_t r = 0; r < c.rows; ++r) {
        double norm = 0;
        for (int64_t col = 0; col < c.cols; ++col) norm += std::pow(double{DequantizeTile(w.view, r, col)}, 2);
        const double bound = 1e-5 * std::sqrt(norm * static_cast<double>(c.cols)) + 1e-30;
        ASSERT_NEAR(want[t * c.rows + r], QuantizedDot(w.view, r, x.data() + t * c.cols), bound)
            << Name(c, "portable") << " row " << r << " token " << t;
      }
    }
    for (const CpuIsa isa : Isas()) {
      LimitCpuIsa(isa);
      ASSERT_EQ(Product(w.view, x, c.tokens, team), want) << Name(c, std::string(NameOf(isa)));
    }
  }
}

TEST(LinearKernels, ATokenDoesNotSeeItsBatchNorTheThreads) {
  const RestoreIsa restore;
  std::mt19937 rng(13);
  ThreadTeam many(4), one(1);
  constexpr int64_t kRows = 200, kCols = 448, kTokens = 41;
  for (const auto format : {WeightFormat::kBf16, WeightFormat::kFp8Block, WeightFormat::kInt4Group}) {
    OwnedWeight w = MakeWeight(rng, format, kRows, kCols), tiled = MakeWeight(rng, format, kRows, kCols);
    std::vector<Way> ways = ExactWays(&w, one);
    AddTiles(&tiled, one);
    for (const CpuIsa isa : Isas()) ways.push_back({isa, tiled.view});
    const auto x = Normal(rng, kTokens * kCols);
    for (const Way& way : ways) {
      LimitCpuIsa(way.isa);
      const auto whole = Product(way.weight, x, kTokens, many);
      for (const int64_t chunk : {1, 2, 3, 7}) {
        for (int64_t t = 0; t + chunk <= kTokens; t += chunk) {
          const std::vector<float> part(x.begin() + t * kCols, x.begin() + (t + chunk) * kCols);
          const std::vector<float> expected(whole.begin() + t * kRows, whole.begin() + (t + chunk) * kRows);
          ASSERT_EQ(Product(way.weight, part, chunk, one), expected) << NameOf(way) << " chunks of " << chunk;
        }
      }
    }
  }
}

// Rows that lie on two memory nodes (here two names for one): the same bits as on one, mapped and in tiles.
TEST(LinearKernels, RowsOfSeveralMemoryNodesGiveTheSameBits) {
  std::mt19937 rng(17);
  ThreadTeam one(1), two(3), many(5);
  two.SpreadOver({{0, {0}}, {1, {0}}});
  many.SpreadOver({{0, {0}}, {1, {0}}, {2, {0}}, {3, {0}}});
  ASSERT_EQ(many.nodes(), 4);
  for (const int64_t rows : {1, 31, 70, 200, 2000}) {
    for (const bool tiles : {false, true}) {
      OwnedWeight w = MakeWeight(rng, WeightFormat::kFp8Block, rows, 448);
      if (tiles) AddTiles(&w, one);
      const auto x = Normal(rng, 9 * 448);
      const auto want = Product(w.view, x, 9, one);
      EXPECT_EQ(Product(w.view, x, 9, two), want) << rows;
      EXPECT_EQ(Product(w.view, x, 9, many), want) << rows;
      if (!tiles) continue;
      AddTiles(&w, many);
      EXPECT_EQ(Product(w.view, x, 9, many), want) << rows;
    }
  }
}

// Requantising: at most half a step of a 128-column group's largest weight, 4-bit weights not at all.
TEST(Tiles, KeepWeightsWithinHalfAStep) {
  std::mt19937 rng(14);
  ThreadTeam team(2);
  for (const auto format : {WeightFormat::kBf16, WeightFormat::kFp8Block, WeightFormat::kInt4Group}) {
    OwnedWeight w = MakeWeight(rng, format, 50, 320);
    AddTiles(&w, team);
    for (int64_t r = 0; r < w.view.rows; ++r) {
      for (int64_t c = 0; c < w.view.cols; ++c) {
        double most = 0;
        for (int64_t i = c / 128 * 128; i < std::min<int64_t>(w.view.cols, c / 128 * 128 + 128); ++i) {
          most = std::max(most, std::fabs(double{Dequantize(w.view, r, i)}));
        }
        const double bound = format == WeightFormat::kInt4Group ? 0 : 0.505 * 1.008 * most / 127;  // the scale is bf16
        ASSERT_NEAR(DequantizeTile(w.view, r, c), Dequantize(w.view, r, c), bound) << r << " " << c;
      }
    }
  }
}

TEST(Tiles, AreTheSameBytesOnEveryIsa) {
  const RestoreIsa restore;
  std::mt19937 rng(16);
  ThreadTeam team(2);
  for (const auto format :
       {WeightFormat::kBf16, WeightFormat::kF16, WeightFormat::kFp8Block, WeightFormat::kInt4Group}) {
    for (const auto& [rows, cols] : {std::pair{1, 64}, {16, 128}, {50, 320}, {33, 1000}}) {
      if (format == WeightFormat::kInt4Group && cols % 64 != 0) continue;
      OwnedWeight w = MakeWeight(rng, format, rows, cols);
      LimitCpuIsa(CpuIsa::kPortable);
      AddTiles(&w, team);
      const std::vector<std::byte> want(w.tiles.data(), w.tiles.data() + TilesBytes(w.view));
      for (const CpuIsa isa : Isas()) {
        LimitCpuIsa(isa);
        AddTiles(&w, team);
        const std::vector<std::byte> got(w.tiles.data(), w.tiles.data() + TilesBytes(w.view));
        ASSERT_TRUE(got == want) << rows << " x " << cols << " " << NameOf(isa);
      }
    }
  }
}

TEST(LinearKernels, ZerosAndHugeActivationsStayFinite) {
  const RestoreIsa restore;
  std::mt19937 rng(15);
  ThreadTeam team(2);
  OwnedWeight w = MakeWeight(rng, WeightFormat::kFp8Block, 40, 256);
  AddTiles(&w, team);
  for (const CpuIsa isa : Isas()) {
    LimitCpuIsa(isa);
    std::vector<float> x(256, 0.0f);
    for (const float y : Product(w.view, x, 1, team)) EXPECT_EQ(y, 0.0f);
    x[3] = 1e-38f;
    for (const float y : Product(w.view, x, 1, team)) EXPECT_EQ(y, 0.0f) << "127 / 1e-38 is not finite";
    x[200] = 1e30f;
    for (const float y : Product(w.view, x, 1, team)) EXPECT_TRUE(std::isfinite(y));
  }
}

TEST(LinearKernels, ExactFourBitOnesTakeEveryActivation) {
  const RestoreIsa restore;
  std::mt19937 rng(19);
  ThreadTeam team(2);
  OwnedWeight w = MakeWeight(rng, WeightFormat::kInt4Group, 40, 1088);
  for (const Way& way : ExactWays(&w, team)) {
    LimitCpuIsa(way.isa);
    const auto product = [&](const std::vector<float>& x, int tokens) { return Product(way.weight, x, tokens, team); };
    std::vector<float> x(3 * 1088, 0.0f);
    for (const float y : product(x, 3)) EXPECT_EQ(y, 0.0f);
    x[3] = 1e-38f;
    for (const float y : product(x, 3)) EXPECT_LT(std::fabs(y), 1e-36f);
    x[1088 + 700] = 1e36f;
    for (const float y : product(x, 3)) EXPECT_TRUE(std::isfinite(y));
    x[2 * 1088 + 1085] = std::numeric_limits<float>::quiet_NaN();
    auto got = product(x, 3);
    for (int r = 0; r < 40; ++r) {
      EXPECT_TRUE(std::isfinite(got[r]) && std::isfinite(got[40 + r])) << NameOf(way);
      EXPECT_TRUE(std::isnan(got[80 + r])) << NameOf(way) << " row " << r;
    }
    x[2 * 1088 + 1085] = std::numeric_limits<float>::infinity();
    got = product(x, 3);
    for (int r = 0; r < 40; ++r) EXPECT_FALSE(std::isfinite(got[80 + r])) << NameOf(way) << " row " << r;
  }
}

}  // namespace
}  // namespace minimo
