// Every fast operator against its reference, over number formats and shapes: both models' real head and block sizes,
// one, odd and tail sizes, empty. Bounds follow from float32 sums: n products of norm(w) * norm(x) rounded at 2^-24
// each, with a safety factor (SumBound).
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <numeric>
#include <random>
#include <vector>

#include "base/float_types.h"
#include "base/thread_team.h"
#include "ops/attention/attention.h"
#include "ops/linear/linear.h"
#include "ops/linear/test_weights.h"
#include "ops/rms_norm/rms_norm.h"
#include "ops/rope/rope.h"
#include "ops/router/router.h"
#include "ops/silu_mul/silu_mul.h"

namespace minimo {
namespace {

std::vector<float> Random(std::mt19937& rng, size_t count, float deviation = 1.0f) {
  std::normal_distribution<float> normal(0, deviation);
  std::vector<float> values(count);
  for (float& v : values) v = normal(rng);
  return values;
}

double Norm(const float* x, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += double{x[i]} * x[i];
  return std::sqrt(sum);
}

// |error| of a float32 dot product of n terms in any order is at most about sqrt(n) 2^-24 |w| |x| for random signs.
double SumBound(int64_t n, double w_norm, double x_norm) {
  return 4.0 * std::sqrt(static_cast<double>(n)) * 0x1p-24 * w_norm * x_norm + 1e-30;
}

void ExpectClose(const std::vector<float>& got, const std::vector<float>& want, double bound, const char* what) {
  ASSERT_EQ(got.size(), want.size());
  for (size_t i = 0; i < got.size(); ++i) {
    ASSERT_LE(std::fabs(double{got[i]} - want[i]), bound) << what << " at " << i << ": " << got[i] << " vs " << want[i];
  }
}

struct LinearShape {
  int64_t rows, cols, tokens;
};

TEST(Linear, EveryFormatAndShapeMatchesTheReference) {
  std::mt19937 rng(1);
  ThreadTeam team(3);
  const LinearShape shapes[] = {{1, 1, 1},   {3, 7, 2},    {64, 128, 1},  {65, 129, 5},  {40, 3072, 1},
                                {37, 1536, 9}, {33, 4096, 4}, {128, 192, 33}, {5, 200, 0}, {0, 128, 3}};
  for (const auto format : {WeightFormat::kF32, WeightFormat::kF16, WeightFormat::kBf16, WeightFormat::kFp8Block,
                            WeightFormat::kInt4Group}) {
    for (const LinearShape& s : shapes) {
      if (format == WeightFormat::kInt4Group && s.cols % 2 != 0) continue;
      for (const bool odd : {false, true}) {
        const OwnedWeight w = MakeWeight(rng, format, s.rows, s.cols, odd ? 32 : 64, odd);
        const auto x = Random(rng, static_cast<size_t>(s.tokens * s.cols));
        std::vector<float> want(static_cast<size_t>(s.tokens * s.rows)), got = want;
        LinearTask task{w.view, x.data(), s.cols, nullptr, want.data(), s.rows, nullptr, s.tokens};
        LinearRef({&task, 1});
        task.out = got.data();
        LinearCpu({&task, 1}, team);
        double w_norm = 0;
        std::vector<float> row(static_cast<size_t>(s.cols));
        for (int64_t r = 0; r < s.rows; ++r) {
          for (int64_t c = 0; c < s.cols; ++c) row[c] = Dequantize(w.view, r, c);
          w_norm = std::max(w_norm, Norm(row.data(), s.cols));
        }
        double x_norm = 0;
        for (int64_t t = 0; t < s.tokens; ++t) x_norm = std::max(x_norm, Norm(x.data() + t * s.cols, s.cols));
        ExpectClose(got, want, SumBound(s.cols, w_norm, x_norm), "linear");
      }
    }
  }
}

TEST(Linear, ATokenDoesNotSeeItsBatchNorTheThreads) {
  std::mt19937 rng(2);
  constexpr int64_t kRows = 70, kCols = 330, kTokens = 21;
  for (const auto format :
       {WeightFormat::kF32, WeightFormat::kBf16, WeightFormat::kFp8Block, WeightFormat::kInt4Group}) {
    const OwnedWeight w = MakeWeight(rng, format, kRows, kCols, 32, true);
    const auto x = Random(rng, kTokens * kCols);
    std::vector<float> whole(kTokens * kRows), alone(kTokens * kRows);
    ThreadTeam many(4), one(1);
    const LinearTask batch{w.view, x.data(), kCols, nullptr, whole.data(), kRows, nullptr, kTokens};
    LinearCpu({&batch, 1}, many);
    for (int64_t t = 0; t < kTokens; ++t) {
      const LinearTask single{w.view, x.data() + t * kCols, kCols, nullptr, alone.data() + t * kRows, kRows, nullptr,
                              1};
      LinearCpu({&single, 1}, one);
    }
    EXPECT_EQ(whole, alone);
  }
}

TEST(Linear, GatheredRowsScatteredRowsManyTasks) {
  std::mt19937 rng(3);
  ThreadTeam team(3);
  constexpr int64_t kCols = 256, kTokens = 6;
  const auto x = Random(rng, kTokens * kCols);
  std::vector<OwnedWeight> weights;
  std::vector<std::vector<int32_t>> in, out;
  std::vector<float> want(64 * 40, -1), got(64 * 40, -1);
  std::vector<LinearTask> tasks;
  int32_t place = 0;
  for (int i = 0; i < 7; ++i) {
    weights.push_back(MakeWeight(rng, i % 2 ? WeightFormat::kFp8Block : WeightFormat::kBf16, 40, kCols));
    in.emplace_back();
    out.emplace_back();
    for (int j = 0; j <= i; ++j) {
      in.back().push_back(static_cast<int32_t>(rng() % kTokens));
      out.back().push_back(place++);
    }
  }
  for (int i = 0; i < 7; ++i) {
    tasks.push_back({weights[i].view, x.data(), kCols, in[i].data(), want.data(), 40, out[i].data(),
                     static_cast<int64_t>(in[i].size())});
  }
  LinearRef(tasks);
  for (LinearTask& t : tasks) t.out = got.data();
  LinearCpu(tasks, team);
  ExpectClose(got, want, 1e-3, "grouped");
  EXPECT_EQ(got.back(), -1);  // rows that no task names are left alone
}

TEST(WeightView, SlicesFindTheirScalesByIndex) {
  std::mt19937 rng(4);
  const OwnedWeight w = MakeWeight(rng, WeightFormat::kFp8Block, 300, 400);
  const WeightView slice = w.view.SliceRows(100, 150).SliceCols(70, 200);
  for (const int64_t r : {0, 27, 28, 149})
    for (const int64_t c : {0, 57, 58, 199}) EXPECT_EQ(Dequantize(slice, r, c), Dequantize(w.view, r + 100, c + 70));
}

TEST(RmsNorm, MatchesTheReference) {
  std::mt19937 rng(5);
  ThreadTeam team(2);
  for (const int64_t size : {1, 5, 192, 1024, 3072, 6144, 4097}) {
    const auto x = Random(rng, 3 * size, 10.0f), weight = Random(rng, size);
    std::vector<float> want(3 * size), got(3 * size);
    RmsNormRef({x.data(), weight.data(), want.data(), 3, size, size, size, 1e-6});
    RmsNormCpu({x.data(), weight.data(), got.data(), 3, size, size, size, 1e-6}, team);
    ExpectClose(got, want, 1e-5, "rms_norm");
    const auto added = Random(rng, 3 * size, 10.0f);
    std::vector<float> want_sum(3 * size), got_sum = x;
    AddRmsNormRef({{x.data(), weight.data(), want.data(), 3, size, size, size, 1e-6}, added.data(), want_sum.data()});
    AddRmsNormCpu(
        {{got_sum.data(), weight.data(), got.data(), 3, size, size, size, 1e-6}, added.data(), got_sum.data()}, team);
    EXPECT_EQ(got_sum, want_sum);
    ExpectClose(got, want, 1e-5, "add and rms_norm");
  }
}

TEST(Rope, MatchesTheReferenceAndKeepsNorms) {
  std::mt19937 rng(6);
  ThreadTeam team(2);
  for (const auto& [rotary, head_dim] : {std::pair{64, 128}, {64, 192}, {8, 24}, {0, 16}}) {
    const std::vector<int32_t> positions = {0, 1, 127, 262143};
    RopeTable table;
    table.Build(5e6, rotary, positions);
    const int64_t stride = 3 * head_dim;
    auto want = Random(rng, 4 * stride);
    auto got = want;
    const auto before = want;
    RopeRef({want.data(), 4, stride, 3, head_dim, &table});
    RopeCpu({got.data(), 4, stride, 3, head_dim, &table}, team);
    ExpectClose(got, want, 1e-6, "rope");
    auto part = before;  // the last token alone, by its row of the table
    RopeCpu({part.data() + 3 * stride, 1, stride, 3, head_dim, &table, 3}, team);
    EXPECT_TRUE(std::equal(part.begin() + 3 * stride, part.end(), got.begin() + 3 * stride));
    EXPECT_TRUE(std::equal(want.begin(), want.begin() + stride, before.begin())) << "position 0 turns nothing";
    EXPECT_NEAR(Norm(want.data(), 4 * stride), Norm(before.data(), 4 * stride), 1e-3);
  }
}

TEST(SiluMul, MatchesTheReferenceAlsoFarOut) {
  std::mt19937 rng(7);
  ThreadTeam team(2);
  auto gate = Random(rng, 5003, 20.0f), up = Random(rng, 5003, 100.0f);
  gate[0] = 100;
  gate[1] = -100;
  gate[2] = 84000;
  up[2] = 3;
  std::vector<float> want(gate.size()), got(gate.size());
  SiluMulRef({gate.data(), up.data(), want.data(), 5003});
  SiluMulCpu({gate.data(), up.data(), got.data(), 5003}, team);
  for (size_t i = 0; i < want.size(); ++i) ASSERT_NEAR(got[i], want[i], 1e-6 * std::fabs(want[i]) + 1e-6) << i;
}

struct AttentionCase {
  int heads, kv_heads, head_dim, v_head_dim, window;
  bool sinks;
  DType dtype;
};

TEST(Attention, MatchesTheReference) {
  std::mt19937 rng(8);
  ThreadTeam team(2);
  const AttentionCase cases[] = {{6, 1, 128, 128, 0, false, DType::kF32},    {16, 1, 192, 128, 0, false, DType::kBf16},
                                 {8, 1, 192, 128, 128, true, DType::kBf16},  {4, 2, 24, 16, 5, true, DType::kF32},
                                 {6, 1, 128, 128, 0, false, DType::kF8E4M3}, {2, 2, 7, 9, 3, false, DType::kF32},
                                 {15, 3, 64, 40, 0, true, DType::kF8E4M3},   {8, 2, 40, 72, 0, false, DType::kBf16}};
  for (const AttentionCase& c : cases) {
    constexpr int32_t kPast = 290, kNew = 7;  // crosses a tile of kAttentionTile keys
    const int64_t size = SizeOf(c.dtype);
    const auto fill = [&](int64_t count) {
      std::vector<std::byte> bytes(static_cast<size_t>(count * size));
      const auto values = Random(rng, static_cast<size_t>(count));
      for (int64_t i = 0; i < count; ++i) {
        if (c.dtype == DType::kF32) reinterpret_cast<float*>(bytes.data())[i] = values[i];
        if (c.dtype == DType::kBf16) reinterpret_cast<Bf16*>(bytes.data())[i] = ToBf16(values[i]);
        if (c.dtype == DType::kF8E4M3) reinterpret_cast<Fp8E4M3*>(bytes.data())[i] = ToFp8E4M3(values[i]);
      }
      return bytes;
    };
    const int32_t total = kPast + kNew;
    const auto k = fill(int64_t{c.kv_heads} * total * c.head_dim), v = fill(int64_t{c.kv_heads} * total * c.v_head_dim);
    const auto q = Random(rng, static_cast<size_t>(kNew * c.heads * c.head_dim));
    const auto sinks = Random(rng, static_cast<size_t>(c.heads), 3.0f);
    AttentionSequence s;
    s.num_tokens = kNew;
    s.past = kPast;
    for (int32_t at = 0, count = 16; at < total; at += count, count = count == 16 ? 33 : 16) {  // uneven segments
      const int32_t n = std::min(count, total - at);
      s.segments.push_back({k.data() + int64_t{at} * c.head_dim * size, v.data() + int64_t{at} * c.v_head_dim * size,
                            int64_t{total} * c.head_dim, int64_t{total} * c.v_head_dim, at, n});
    }
    std::vector<float> want(static_cast<size_t>(kNew * c.heads * c.v_head_dim)), got = want;
    AttentionArgs args{q.data(), c.heads * c.head_dim, want.data(), c.heads * c.v_head_dim, c.heads, c.kv_heads,
                       c.head_dim, c.v_head_dim, c.window, c.sinks ? sinks.data() : nullptr, c.dtype, {&s, 1}};
    AttentionRef(args);
    args.out = got.data();
    AttentionCpu(args, team);
    ExpectClose(got, want, 2e-5, "attention");
  }
}

// Every case at every place of the softmax's tiles and of the vectors: a prompt at once, in chunks and one by one gives
// the same bits, whatever the blocks, and what other sequences are in the batch.
TEST(Attention, ChunksAndBatchesGiveTheSameBits) {
  std::mt19937 rng(9);
  ThreadTeam team(2);
  const AttentionCase cases[] = {{12, 2, 128, 128, 0, false, DType::kBf16}, {16, 2, 192, 128, 128, true, DType::kBf16},
                                 {12, 2, 128, 128, 0, true, DType::kF8E4M3}, {4, 2, 24, 16, 5, true, DType::kF32},
                                 {15, 3, 64, 40, 0, false, DType::kF8E4M3},
                                 {8, 2, 24, 16, 300, true, DType::kBf16}};  // a window of more than one tile
  for (const AttentionCase& c : cases) {
    const int32_t total = c.window > kAttentionTile ? 3 * kAttentionTile : 300;
    const int64_t size = SizeOf(c.dtype);
    std::vector<std::byte> k(static_cast<size_t>(c.kv_heads * total * c.head_dim * size));
    std::vector<std::byte> v(static_cast<size_t>(c.kv_heads * total * c.v_head_dim * size));
    // Keys so small that every key in reach has weight: of larger ones a few take all, and where tiles begin is not
    // seen.
    for (const auto& [bytes, deviation] : {std::pair{&k, 0.1f}, {&v, 1.0f}}) {
      const auto values = Random(rng, bytes->size() / static_cast<size_t>(size), deviation);
      for (size_t i = 0; i < values.size(); ++i) {
        if (c.dtype == DType::kF32) reinterpret_cast<float*>(bytes->data())[i] = values[i];
        if (c.dtype == DType::kBf16) reinterpret_cast<Bf16*>(bytes->data())[i] = ToBf16(values[i]);
        if (c.dtype == DType::kF8E4M3) reinterpret_cast<Fp8E4M3*>(bytes->data())[i] = ToFp8E4M3(values[i]);
      }
    }
    const auto q = Random(rng, static_cast<size_t>(total * c.heads * c.head_dim));
    const auto sinks = Random(rng, static_cast<size_t>(c.heads), 3.0f);
    const auto run = [&](const std::vector<int32_t>& chunks, bool together) {
      std::vector<float> out(static_cast<size_t>(total * c.heads * c.v_head_dim));
      std::vector<AttentionSequence> sequences;
      int32_t at = 0;
      for (size_t i = 0; at < total; ++i) {
        AttentionSequence s;
        s.first_token = at;
        s.past = at;
        s.num_tokens = std::min(chunks[i % chunks.size()], total - at);
        at += s.num_tokens;
        s.segments.push_back({k.data(), v.data(), total * c.head_dim, total * c.v_head_dim, 0, at});
        sequences.push_back(s);
      }
      AttentionArgs args{q.data(), c.heads * c.head_dim, out.data(), c.heads * c.v_head_dim, c.heads, c.kv_heads,
                         c.head_dim, c.v_head_dim, c.window, c.sinks ? sinks.data() : nullptr, c.dtype, sequences};
      if (together) {
        AttentionCpu(args, team);
        return out;
      }
      for (const AttentionSequence& s : sequences) {
        args.sequences = {&s, 1};
        AttentionCpu(args, team);
      }
      return out;
    };
    const auto whole = run({total}, true);
    EXPECT_EQ(whole, run({1}, true)) << c.head_dim << " " << c.window;
    EXPECT_EQ(whole, run({1}, false)) << c.head_dim << " " << c.window;
    EXPECT_EQ(whole, run({7, 64, 33}, false)) << c.head_dim << " " << c.window;
  }
}

TEST(Router, ChoosesByBiasedScoresAndWeighsByScores) {
  const float logits[] = {0.0f, 2.0f, 1.0f, -1.0f};
  const float bias[] = {5.0f, 0.0f, 0.0f, 5.5f};
  MoeSpec moe;
  moe.experts = 4;
  moe.top_k = 2;
  int32_t experts[2];
  float weights[2];
  RouterRef({logits, bias, 1, moe, experts, weights});
  EXPECT_EQ(experts[0], 3);
  EXPECT_EQ(experts[1], 0);
  const double low = 1 / (1 + std::exp(1.0)), high = 0.5;
  EXPECT_NEAR(weights[0], low / (low + high), 1e-7);
  EXPECT_NEAR(weights[1], high / (low + high), 1e-7);

  moe.groups = 2;  // groups {0, 1}: 5.5 + 0.88, {2, 3}: 5.77 + 0.73: the second wins, so 0 may not take part
  moe.top_groups = 1;
  moe.renormalise = false;
  moe.scale = 2.0;
  const float near[] = {5.0f, 0.0f, 0.0f, 5.6f};
  RouterRef({logits, near, 1, moe, experts, weights});
  EXPECT_EQ(experts[0], 3);
  EXPECT_EQ(experts[1], 2);
  EXPECT_NEAR(weights[0], 2 * low, 1e-7);
}

}  // namespace
}  // namespace minimo
