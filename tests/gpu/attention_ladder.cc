// Prefill attention for gpu_ladder: on the tensor cores against the plain kernel of float32 arithmetic, and timed.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <numeric>
#include <random>

#include "cuda/kernels/attention.cuh"
#include "cuda/kernels/repack.cuh"
#include "cuda/step_plan.h"
#include "tests/gpu/ladder.h"

namespace minimo::cuda {
namespace {

struct Shape {
  const char* name;
  int heads, kv_heads, key_dim, window;
  bool sinks;
};
constexpr Shape kShapes[] = {{"m2", 48, 8, 128, 0, false},
                             {"mimo full", 64, 4, 192, 0, false},
                             {"mimo sliding", 64, 8, 192, 128, true},
                             {"odd", 6, 2, 128, 40, true}};
constexpr int kValueDim = 128, kBlock = 16;

struct Sequence {
  int past, tokens;
};

// Everything that a launch needs, K and V in blocks that lie in no order.
struct Case {
  AttentionParams p;
  std::vector<Device<uint16_t>> halves;
  std::vector<Device<int>> ints;
  std::vector<Device<float>> floats;
  Device<uint16_t> out;
  int tokens = 0;

  Device<int> work{std::vector<int>{0, 0}};
  const int* Put(const std::vector<int>& v) { return ints.emplace_back(v).data; }
  // bf16, or e4m3 between -1 and 1.
  void* RandomCache(int64_t n, unsigned seed, bool e4m3) {
    if (!e4m3) return Random(n, seed);
    std::mt19937 random(seed);
    std::vector<uint16_t> pairs(static_cast<size_t>(n / 2));
    for (uint16_t& pair : pairs) pair = static_cast<uint16_t>(random() & 0xb7b7);
    return halves.emplace_back(pairs).data;
  }
  uint16_t* Random(int64_t n, unsigned seed) {
    Device<uint16_t>& d = halves.emplace_back(n);
    MUST(LaunchRandomBf16(d.data, n, 1.0f, seed, nullptr));
    return d.data;
  }

  Case(const Shape& s, const std::vector<Sequence>& sequences, bool e4m3) {
    std::mt19937 random(3);
    std::vector<int> position, table_of, past, last, tables, tiles;
    const int group = s.heads / s.kv_heads;
    for (const Sequence& q : sequences) {
      for (int i = 0; i < q.tokens; ++i) {
        position.push_back(q.past + i), past.push_back(q.past), last.push_back(q.past + q.tokens - 1);
        table_of.push_back(static_cast<int>(tables.size()));
      }
      for (int row = 0; row < q.tokens * group; row += kPrefillTileRows) {
        for (const int v : {tokens, q.tokens, row, q.past}) tiles.push_back(v);
      }
      tokens += q.tokens;
      const size_t from = tables.size();
      tables.resize(from + size_t(q.past + q.tokens + kBlock - 1) / kBlock);
    }
    std::iota(tables.begin(), tables.end(), 0);
    std::shuffle(tables.begin(), tables.end(), random);
    const int64_t rows = int64_t(tables.size()) * kBlock;
    p.tokens = tokens;
    p.heads = s.heads, p.kv_heads = s.kv_heads, p.head_dim = s.key_dim, p.v_head_dim = kValueDim;
    p.window = s.window;
    p.scale = 1.5f / std::sqrt(static_cast<float>(s.key_dim));
    if (s.sinks) {
      std::vector<float> sinks(static_cast<size_t>(s.heads));
      for (float& x : sinks) x = static_cast<float>(random() % 100) / 20.0f - 2;
      p.sinks = floats.emplace_back(sinks).data;
    }
    p.q = Random(int64_t{tokens} * s.heads * s.key_dim, 11);
    const int bytes = e4m3 ? 1 : 2;
    p.k = {RandomCache(rows * s.kv_heads * s.key_dim, 12, e4m3), s.key_dim, s.kv_heads, kBlock, false, bytes};
    p.v = {RandomCache(rows * s.kv_heads * kValueDim, 13, e4m3), kValueDim, s.kv_heads, kBlock, false, bytes};
    p.out_stride = s.heads * kValueDim;
    out = Device<uint16_t>(int64_t{tokens} * p.out_stride);
    p.out = out.data;
    p.meta = {Put(position), Put(table_of), Put(table_of), Put(tables), Put(past), Put(last)};
    p.num_tiles = static_cast<int>(tiles.size() / 4);
    p.work = work.data;
    p.tiles = reinterpret_cast<const PrefillTile*>(Put(tiles));
  }
};

}  // namespace

// The rows that attention leaves as an operand, beside those it leaves as rows: e4m3 (returns the error) or bf16
// (equal bits: 0).
static double OperandError(const Case& c, const std::vector<uint16_t>& rows, bool e4m3) {
  const int heads = c.p.heads, padded = PadTo(c.tokens, 8);
  Device<uint8_t> values(int64_t{heads} * padded * 256);
  Device<float> scales(int64_t{heads} * padded);
  AttentionParams p = c.p;
  p.product_values = values.data, p.product_rows = padded;
  if (e4m3) p.product_scales = scales.data;
  MUST(LaunchAttentionPrefill(p, nullptr));
  MUST(cudaDeviceSynchronize());
  const auto got = values.Get();
  const auto scale = scales.Get();
  Error error;
  for (int token = 0; token < c.tokens; ++token) {
    for (int column = 0; column < heads * kValueDim; ++column) {
      const int head = column / kValueDim, in = column % kValueDim;
      const float want = FromBf16Bits(rows[size_t(token) * c.p.out_stride + column]);
      if (e4m3) {
        const int piece = in / 64 * 4 + in / 16 % 2 * 2 + in / 32 % 2;
        const size_t row = size_t(head) * padded + token;
        const uint8_t code = got[row * 128 + size_t((piece ^ (token % 8)) * 16 + in % 16)];
        error.Add(ToFloat(Fp8E4M3{code}) * scale[row], want);
      } else {
        const int step = in % 32 / 4, piece = step % 4 * 2 + in % 4 / 2;
        const size_t row = (size_t(head) * 2 + step / 4) * padded + token;
        const size_t byte = row * 128 + size_t((piece ^ (token % 8)) * 16 + in / 32 * 4 + in % 2 * 2);
        error.Add(FromBf16Bits(static_cast<uint16_t>(got[byte] | got[byte + 1] << 8)), want);
      }
    }
  }
  return error.Value();
}

// With new keys and values of an FP8 cache at hand in bf16, as RoPE leaves them, beside those from the cache: the
// relative error, which must be none; 0 of other caches, or where there are too few tokens.
static double WideError(Case& c, const Shape& s) {
  if (c.tokens < kRopeRowsTokens || c.p.k.element_bytes != 1) return 0;
  const auto random = [&](int64_t n, float least, float most) {
    std::mt19937 numbers(31);
    std::uniform_real_distribution<float> between(least, most);
    std::vector<float> v(static_cast<size_t>(n));
    for (float& x : v) x = between(numbers);
    return c.floats.emplace_back(v).data;
  };
  RopeParams r;
  r.tokens = c.tokens, r.heads = s.heads, r.kv_heads = s.kv_heads, r.head_dim = s.key_dim, r.v_head_dim = kValueDim;
  r.rotary_dim = 64;
  r.k_offset = s.heads * s.key_dim, r.v_offset = r.k_offset + s.kv_heads * s.key_dim;
  r.qkv_stride = r.v_offset + s.kv_heads * kValueDim;
  r.qkv_bf16 = c.Random(int64_t{c.tokens} * r.qkv_stride, 21);
  if (s.key_dim == kValueDim) {
    r.q_norm = random(r.k_offset, 0.5f, 1.5f), r.k_norm = random(r.v_offset - r.k_offset, 0.5f, 1.5f);
    r.norm_eps = 1e-6f;
    r.square_sum_count = r.qkv_stride / 16;
    r.square_sums = random(int64_t{c.tokens} * r.square_sum_count, 8, 24);
  }
  r.inverse_frequency = random(r.rotary_dim / 2, 0.01f, 1);
  r.q = c.Random(int64_t{c.tokens} * r.k_offset, 22);
  r.k = c.p.k, r.v = c.p.v, r.meta = c.p.meta;
  AttentionParams p = c.p;
  p.q = r.q;
  MUST(LaunchRope(r, false, nullptr));
  MUST(LaunchAttentionPrefill(p, nullptr));
  MUST(cudaDeviceSynchronize());
  const auto want = c.out.Get();
  p.wide_k = r.wide_k = c.Random(int64_t{c.tokens} * s.kv_heads * s.key_dim, 23);
  p.wide_v = r.wide_v = c.Random(int64_t{c.tokens} * s.kv_heads * kValueDim, 24);
  MUST(cudaMemset(c.out.data, 0xff, want.size() * 2));
  MUST(LaunchRope(r, false, nullptr));
  MUST(LaunchAttentionPrefill(p, nullptr));
  MUST(cudaDeviceSynchronize());
  const auto got = c.out.Get();
  Error error;
  for (size_t k = 0; k < got.size(); ++k) error.Add(FromBf16Bits(got[k]), FromBf16Bits(want[k]));
  return error.Value();
}

void CheckAttention() {
  const std::vector<std::vector<Sequence>> cases = {
      {{0, 300}}, {{77, 130}, {0, 1}, {500, 1}, {63, 65}}, {{1000, 40}, {0, 64}, {5, 7}}, {{0, 2}}};
  for (const Shape& s : kShapes) {
    for (size_t i = 0; i < 2 * cases.size(); ++i) {
      const bool fp8_cache = i % 2 == 1;
      Case c(s, cases[i / 2], fp8_cache);
      MUST(LaunchAttentionPrefill(c.p, nullptr));
      MUST(cudaDeviceSynchronize());
      const auto got = c.out.Get();
      MUST(cudaMemset(c.out.data, 0xff, got.size() * 2));
      MUST(LaunchAttentionPrefill(c.p, nullptr));
      MUST(cudaDeviceSynchronize());
      const bool same = c.out.Get() == got;
      MUST(LaunchAttentionSimple(c.p, false, nullptr));
      MUST(cudaDeviceSynchronize());
      const auto want = c.out.Get();
      Error error;
      for (size_t k = 0; k < got.size(); ++k) error.Add(FromBf16Bits(got[k]), FromBf16Bits(want[k]));
      const double arranged = OperandError(c, got, false), e4m3 = OperandError(c, got, true);
      const double wide = WideError(c, s);
      const bool ok = error.Value() < 5e-3 && same && arranged == 0 && e4m3 < 0.04 && wide == 0;
      if (!ok) ++g_failures;
      std::printf("{\"check\": \"prefill attention\", \"shape\": \"%s\", \"cache\": \"%s\", \"case\": %zu, "
                  "\"tokens\": %d, \"relative_error\": %.2e, \"bound\": 5e-03, \"same_bits_again\": %s, "
                  "\"as_operand_bf16\": %.1e, \"as_operand_e4m3\": %.1e, \"new_keys_in_bf16\": %.1e, \"ok\": %s}\n",
                  s.name, fp8_cache ? "fp8" : "bf16", i / 2, c.tokens, error.Value(), same ? "true" : "false", arranged,
                  e4m3, wide, ok ? "true" : "false");
      std::fflush(stdout);
    }
  }
}

void TimeAttention(const std::vector<int>& token_counts) {
  for (const Shape& s : kShapes) {
    for (size_t i = 0; i < 3 * token_counts.size(); ++i) {
      if (s.heads < 48) continue;
      const char* const caches[] = {"bf16", "fp8", "fp8, new keys in bf16"};
      const int tokens = token_counts[i / 3];
      Case c(s, {{0, tokens}}, i % 3 > 0);
      if (i % 3 == 2) {
        c.p.wide_k = c.Random(int64_t{tokens} * s.kv_heads * s.key_dim, 23);
        c.p.wide_v = c.Random(int64_t{tokens} * s.kv_heads * kValueDim, 24);
      }
      double keys = 0;
      for (int k = 0; k < tokens; ++k) keys += s.window > 0 ? std::min(k + 1, s.window) : k + 1;
      const double flops = 2.0 * keys * s.heads * (s.key_dim + kValueDim);
      const double seconds = Time([&] { MUST(LaunchAttentionPrefill(c.p, nullptr)); });
      std::printf("{\"bench\": \"prefill op\", \"model\": \"%s\", \"op\": \"attention\", \"kernel\": "
                  "\"attention_wgmma\", \"cache\": \"%s\", \"tokens\": %d, \"us\": %.1f, \"tflops\": %.0f}\n",
                  s.name, caches[i % 3], tokens, seconds * 1e6, flops / seconds * 1e-12);
      std::fflush(stdout);
    }
  }
}

}  // namespace minimo::cuda
