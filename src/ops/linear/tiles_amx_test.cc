// The AMX kernel bit by bit against the portable specification on any machine with AVX-512: the tile instructions are
// computed here in software, as Intel's Software Developer's Manual gives them (vol. 2, TDPBSUD, TILELOADD,
// TILESTORED).
#define TileRowsAmx TileRowsAmxInSoftware
#include "ops/linear/row_kernels.h"

#if defined(__x86_64__)
#include <gtest/gtest.h>
#include <immintrin.h>

#include <cstring>
#include <numeric>

#include "base/thread_team.h"
#include "ops/linear/cpu_isa.h"
#include "ops/linear/test_weights.h"

namespace minimo::software_tiles {

struct Tile {
  uint8_t row[16][64];
};
thread_local Tile tile[8];
thread_local bool configured = false;

inline void Configure(const void* config) {
  const auto* bytes = static_cast<const uint8_t*>(config);
  ASSERT_EQ(bytes[0], 1) << "palette";
  for (int i = 0; i < 8; ++i) {
    uint16_t row_bytes;
    std::memcpy(&row_bytes, bytes + 16 + 2 * i, 2);
    ASSERT_EQ(row_bytes, 64);
    ASSERT_EQ(bytes[48 + i], 16) << "rows";
  }
  configured = true;
}
inline void Load(int to, const void* from, int64_t stride) {
  ASSERT_TRUE(configured);
  for (int r = 0; r < 16; ++r) std::memcpy(tile[to].row[r], static_cast<const uint8_t*>(from) + r * stride, 64);
}
inline void Store(int from, void* to, int64_t stride) {
  for (int r = 0; r < 16; ++r) std::memcpy(static_cast<uint8_t*>(to) + r * stride, tile[from].row[r], 64);
}
inline void Zero(int t) { std::memset(&tile[t], 0, sizeof tile[t]); }
inline void AddSignedByUnsigned(int sums, int a, int b) {
  for (int m = 0; m < 16; ++m) {
    for (int n = 0; n < 16; ++n) {
      int32_t sum;
      std::memcpy(&sum, tile[sums].row[m] + 4 * n, 4);
      for (int k = 0; k < 64; ++k) {
        sum += static_cast<int8_t>(tile[a].row[m][k]) * int32_t{tile[b].row[k / 4][4 * n + k % 4]};
      }
      std::memcpy(tile[sums].row[m] + 4 * n, &sum, 4);
    }
  }
}

}  // namespace minimo::software_tiles

#undef _tile_loadconfig
#undef _tile_loadd
#undef _tile_stored
#undef _tile_zero
#undef _tile_dpbsud
#define _tile_loadconfig software_tiles::Configure
#define _tile_loadd software_tiles::Load
#define _tile_stored software_tiles::Store
#define _tile_zero software_tiles::Zero
#define _tile_dpbsud software_tiles::AddSignedByUnsigned
#include "ops/linear/tiles_amx.cc"

namespace minimo {
namespace {

struct Case {
  WeightFormat format;
  int64_t rows, cols, tokens;
  int group = 64;
};

std::vector<Case> Cases() {
  std::vector<Case> cases;
  for (const int tokens : {5, 16, 17, 32, 45}) {
    for (const auto& [rows, cols] : {std::pair{1, 128}, {16, 320}, {33, 1000}, {64, 129}, {47, 3072}}) {
      cases.push_back({WeightFormat::kFp8Block, rows, cols, tokens});
    }
    for (const int group : {64, 128}) {
      for (const auto& [rows, groups] : {std::pair{1, 1}, {17, 3}, {65, 4}}) {
        cases.push_back({WeightFormat::kInt4Group, rows, int64_t{groups} * group, tokens, group});
      }
    }
  }
  return cases;
}

// The product by `kernel` over activations that are looked up in a reversed order.
std::vector<float> Product(RowKernel kernel, const WeightView& w, const std::vector<float>& x, int64_t tokens) {
  const TileLayout layout(w);
  const StageFormat format{StageFormat::Kind::kInt8, nullptr, static_cast<int32_t>(layout.group), layout.offset()};
  const int64_t row_bytes = StagedRowBytes(format, w.cols);
  Buffer<std::byte> staged(static_cast<size_t>(tokens * row_bytes));
  for (int64_t t = 0; t < tokens; ++t) StageRow(format, x.data() + t * w.cols, w.cols, staged.data() + t * row_bytes);
  std::vector<int32_t> x_rows(static_cast<size_t>(tokens));
  std::iota(x_rows.rbegin(), x_rows.rend(), 0);
  std::vector<float> out(static_cast<size_t>(tokens * w.rows), -1.0f);
  const LinearTask task{w, x.data(), w.cols, x_rows.data(), out.data(), w.rows, nullptr, tokens};
  const int64_t middle = w.rows / 2 / kTileRows * kTileRows;
  kernel(task, {staged.data(), row_bytes}, middle, w.rows);
  kernel(task, {staged.data(), row_bytes}, 0, middle);
  return out;
}

TEST(TilesAmx, GiveTheBitsOfThePortableOnes) {
  if (ActiveCpuIsa() < CpuIsa::kAvx512) GTEST_SKIP() << "what is no tile instruction in this kernel is AVX-512";
  std::mt19937 rng(21);
  ThreadTeam team(1);
  for (const Case& c : Cases()) {
    OwnedWeight w = MakeWeight(rng, c.format, c.rows, c.cols, c.group);
    AddTiles(&w, team);
    const auto x = Normal(rng, c.tokens * c.cols);
    ASSERT_EQ(Product(TileRowsAmx, w.view, x, c.tokens), Product(TileRowsPortable, w.view, x, c.tokens))
        << c.rows << " x " << c.cols << ", group " << c.group << ", " << c.tokens << " tokens";
  }
}

}  // namespace
}  // namespace minimo
#endif
