#include "tests/gpu/decode_attention.h"

#include <cmath>
#include <cstring>
#include <numeric>
#include <random>

#include "base/float_types.h"
#include "cuda/kernels/attention.cuh"
#include "tests/gpu/check_support.h"
#include "tests/gpu/device_array.h"

namespace minimo::cuda {
namespace {

using testing::RelativeError;

struct Shape {
  const char* name;
  int heads, kv_heads, key_dim, rotary, window;
  bool norm, sinks;
};
constexpr Shape kShapes[] = {{"m2", 48, 8, 128, 64, 0, true, false},
                             {"mimo full", 64, 4, 192, 64, 0, false, false},
                             {"mimo sliding", 64, 8, 192, 64, 128, false, true},
                             {"odd", 6, 2, 128, 128, 40, true, true}};
constexpr int kValueDim = 128;
constexpr double kReadBytes = 4.54e12;  // a second, H200: bench/results/gpu-hopper.json

// A cache's bits: e4m3 or bf16 values of either sign between 1/16 and 4.
std::vector<uint8_t> RandomElements(int64_t count, int bytes, std::mt19937& random) {
  std::vector<uint8_t> pool(size_t{1} << 16), all(static_cast<size_t>(count * bytes));
  for (size_t i = 0; i < pool.size(); ++i) {
    const unsigned r = random();
    if (bytes == 1) {
      pool[i] = static_cast<uint8_t>((r & 0x87) | ((3 + (r >> 8) % 6) << 3));
    } else {
      const uint16_t bits = static_cast<uint16_t>((r & 0x807f) | ((123 + (r >> 16) % 6) << 7));
      if (i % 2 == 0) std::memcpy(&pool[i], &bits, 2);
    }
  }
  for (size_t at = 0, turn = 0; at < all.size(); ++turn) {  // runs of the pool from even places
    const size_t from = turn * 7 % 64 * 2, n = std::min(all.size() - at, pool.size() - from);
    std::memcpy(&all[at], &pool[from], n);
    at += n;
  }
  return all;
}

// Sequences of `contexts` tokens, their newest included, a cache whose blocks lie in no order, a step's QKV product.
struct Case {
  AttentionParams p;
  RopeParams r;
  std::vector<Device<uint8_t>> bytes;
  std::vector<Device<float>> floats;
  std::vector<Device<int>> ints;
  Device<float> out;
  double read_bytes = 0;

  const int* Put(const std::vector<int>& v) { return ints.emplace_back(v).data; }
  float* Random(int64_t n, float scale, float shift, std::mt19937& random) {
    std::vector<float> v(static_cast<size_t>(n));
    for (float& x : v) x = shift + scale * (static_cast<float>(random() % 2001) / 1000.0f - 1.0f);
    return floats.emplace_back(v).data;
  }

  Case(const Shape& s, const std::vector<int>& contexts, int element_bytes, int block_size) {
    std::mt19937 random(static_cast<unsigned>(contexts.size()) * 7 + 1);
    const int tokens = static_cast<int>(contexts.size());
    std::vector<int> position, table_of, ring, tables;
    for (const int n : contexts) {
      position.push_back(n - 1);
      table_of.push_back(static_cast<int>(tables.size()));
      ring.push_back(static_cast<int>(ring.size()));
      tables.resize(tables.size() + size_t(n + block_size - 1) / block_size);
      const int keys = s.window > 0 ? std::min(n, s.window) : n;
      read_bytes += double(keys) * s.kv_heads * (s.key_dim + kValueDim) * element_bytes;
    }
    std::iota(tables.begin(), tables.end(), 0);
    std::shuffle(tables.begin(), tables.end(), random);
    std::reverse(ring.begin(), ring.end());
    const bool rings = s.window > 0;
    const int rows = rings ? s.window + 4 : block_size;
    const int64_t units = rings ? tokens : static_cast<int64_t>(tables.size());
    p.tokens = r.tokens = tokens;
    p.heads = r.heads = s.heads, p.kv_heads = r.kv_heads = s.kv_heads;
    p.head_dim = r.head_dim = s.key_dim, p.v_head_dim = r.v_head_dim = kValueDim;
    p.window = s.window;
    p.scale = 0.5f / std::sqrt(static_cast<float>(s.key_dim));
    if (s.sinks) p.sinks = Random(s.heads, 2, 0, random);
    for (const bool key : {true, false}) {
      const int dim = key ? s.key_dim : kValueDim;
      bytes.emplace_back(RandomElements(units * s.kv_heads * rows * dim, element_bytes, random));
      (key ? p.k : p.v) = {bytes.back().data, dim, s.kv_heads, rows, rings, element_bytes};
    }
    const std::vector<int> past = position;
    p.meta = {Put(position), Put(table_of), Put(ring), Put(tables), Put(past), Put(position)};
    r.k = p.k, r.v = p.v, r.meta = p.meta;
    r.rotary_dim = s.rotary;
    r.k_offset = s.heads * s.key_dim, r.v_offset = r.k_offset + s.kv_heads * s.key_dim;
    r.qkv_stride = r.v_offset + s.kv_heads * kValueDim;
    r.qkv = Random(int64_t{tokens} * r.qkv_stride, 2, 0, random);
    if (s.norm) {
      r.q_norm = Random(s.heads * s.key_dim, 0.5, 1, random), r.k_norm = Random(s.kv_heads * s.key_dim, 0.5, 1, random);
      r.square_sum_count = r.qkv_stride / 16;
      r.square_sums = Random(int64_t{tokens} * r.square_sum_count, 8, 20, random);
      r.norm_eps = 1e-6f;
    }
    r.value_scale = s.sinks ? 0.6f : 1.0f;
    std::vector<float> frequency(static_cast<size_t>(s.rotary / 2));
    for (size_t i = 0; i < frequency.size(); ++i) frequency[i] = std::pow(1e4f, -2.0f * float(i) / float(s.rotary));
    r.inverse_frequency = floats.emplace_back(frequency).data;
    p.out_stride = s.heads * kValueDim;
    out = Device<float>(int64_t{tokens} * p.out_stride);
  }

  std::vector<float> Fast(int splits) {
    AttentionParams fast = p;
    fast.out = out.data, fast.out_f32 = true, fast.splits = splits;
    MUST(cudaMemset(out.data, 0xff, out.count * 4));
    MUST(LaunchAttentionDecode(fast, r, nullptr));
    MUST(cudaDeviceSynchronize());
    return out.Get();
  }
  // FP8: queries and outputs in float32; else in bf16.
  std::vector<float> Plain() {
    const bool f32 = p.k.element_bytes == 1;
    Device<float> q(int64_t{p.tokens} * p.heads * p.head_dim);
    AttentionParams plain = p;
    RopeParams rope = r;
    rope.q = q.data;
    plain.q = q.data, plain.out = out.data;
    MUST(LaunchRope(rope, f32, nullptr));
    MUST(LaunchAttentionSimple(plain, f32, nullptr));
    MUST(cudaDeviceSynchronize());
    std::vector<float> values = out.Get();
    if (f32) return values;
    std::vector<uint16_t> halves(values.size());
    std::memcpy(halves.data(), values.data(), halves.size() * 2);
    for (size_t i = 0; i < halves.size(); ++i) values[i] = ToFloat(Bf16{halves[i]});
    return values;
  }
};

int Check(const Shape& s, const std::vector<int>& contexts, int element_bytes, int block_size, int splits) {
  Case c(s, contexts, element_bytes, block_size);
  const std::vector<float> got = c.Fast(splits), again = c.Fast(splits);
  std::vector<std::vector<uint8_t>> caches;
  for (const auto& cache : c.bytes) caches.push_back(cache.Get());
  const std::vector<float> want = c.Plain();
  const bool same = std::memcmp(got.data(), again.data(), got.size() * 4) == 0;
  int64_t differ = 0;  // bytes of the cache: a value on the edge between two may be rounded to either
  for (size_t i = 0; i < caches.size(); ++i) {
    const std::vector<uint8_t> plain = c.bytes[i].Get();
    for (size_t k = 0; k < plain.size(); ++k) differ += plain[k] != caches[i][k];
  }
  const int64_t written = int64_t(contexts.size()) * s.kv_heads * (s.key_dim + kValueDim) * element_bytes;
  const double error = RelativeError(got, want), bound = element_bytes == 1 ? 1.5e-3 : 6e-3;
  const bool ok = error < bound && same && differ <= 2 + written / 500;
  std::printf("{\"check\": \"decode attention\", \"shape\": \"%s\", \"element_bytes\": %d, \"block\": %d, "
              "\"sequences\": %zu, \"longest\": %d, \"splits\": %d, \"relative_error\": %.2e, \"bound\": %.1e, "
              "\"same_bits_again\": %d, "
              "\"cache_bytes_differ\": %lld, \"ok\": %s}\n",
              s.name, element_bytes, block_size, contexts.size(), *std::max_element(contexts.begin(), contexts.end()),
              splits, error, bound, same, static_cast<long long>(differ), ok ? "true" : "false");
  std::fflush(stdout);
  return ok ? 0 : 1;
}

}  // namespace

int CheckDecodeAttention() {
  int failures = 0;
  for (const Shape& s : kShapes) {
    for (const int element_bytes : {1, 2}) {
      failures += Check(s, {1}, element_bytes, 16, 1);
      failures += Check(s, {1, 2, 16, 17, 33, 128, 129}, element_bytes, 16, 2);
      failures += Check(s, {945, 31, 64, 500, 127, 1025, 3}, element_bytes, 16, 1);
      failures += Check(s, {5, 945, 31, 64, 500, 127, 1025, 3, 16}, element_bytes, 16, 1);
      failures += Check(s, {945, 31, 640, 5}, element_bytes, 24, 4);
      failures += Check(s, {3000, 40}, element_bytes, 16, 16);
    }
  }
  return failures;
}

void TimeDecodeAttention(const std::vector<int>& token_counts) {
  for (const Shape& s : kShapes) {
    if (s.heads < 48) continue;
    for (const int tokens : token_counts) {
      for (const int element_bytes : {1, 2}) {
        std::vector<Case> cases;  // in turns, or small ones would be read from L2
        do {
          cases.emplace_back(s, std::vector<int>(static_cast<size_t>(tokens), 945), element_bytes, 16);
        } while (cases[0].read_bytes * double(cases.size()) < 3e8);
        const int fill = 396 / (tokens * s.kv_heads);
        int splits = 1;
        while (2 * splits <= std::min(fill, s.window > 0 ? 2 : 8)) splits *= 2;
        size_t turn = 0;
        const double seconds = Time([&] {
          Case& c = cases[turn++ % cases.size()];
          AttentionParams p = c.p;
          p.out = c.out.data, p.splits = splits;
          MUST(LaunchAttentionDecode(p, c.r, nullptr));
        });
        std::printf("{\"bench\": \"decode attention\", \"shape\": \"%s\", \"element_bytes\": %d, \"sequences\": %d, "
                    "\"context\": 945, \"splits\": %d, \"us\": %.1f, \"tb_s\": %.2f, \"share\": %.2f}\n",
                    s.name, element_bytes, tokens, splits, seconds * 1e6, cases[0].read_bytes / seconds * 1e-12,
                    cases[0].read_bytes / seconds / kReadBytes);
        std::fflush(stdout);
      }
    }
  }
}

}  // namespace minimo::cuda
