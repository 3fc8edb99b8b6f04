// One task is one KV head and a block of query tokens: every key and value of the block's range is decoded once, into
// the first-level cache, and used by all query heads of the group and all tokens of the block.
//
// Softmax runs online over tiles of kAttentionTile absolute positions. A row is one query head of one token; what it
// gets depends neither on the other rows nor on the block: a key's score is one chain of products and one tree of
// sums, sums over keys go by absolute position, and a key outside of a row's range adds exactly 0.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/attention/attention_cpu.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>
#include <hwy/contrib/math/math-inl.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "base/float_types.h"
#include "base/thread_team.h"
#include "ops/attention/attention.h"
#include "ops/attention/attention_rows.h"
#include "ops/number_formats-inl.h"

HWY_BEFORE_NAMESPACE();
namespace minimo {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using DF = FloatTag;
using VF = FloatVector;

constexpr int kSubTile = 32;   // keys decoded at a time: 32 x 192 floats = 24 KB of a 32 to 48 KB first-level cache
constexpr int kKeys = 8;       // keys a step of the score kernel
constexpr int kScoreStride = kAttentionTile + kKeys;  // the last step of a range may write beyond it
constexpr float kNever = -std::numeric_limits<float>::infinity();

// Decode: one vector of cache elements as float32.
HWY_INLINE VF LoadKv(DF d, const float* p) { return hn::LoadU(d, p); }
HWY_INLINE VF LoadKv(DF d, const Bf16* p) { return LoadFloats(d, p); }
HWY_INLINE VF LoadKv(DF d, const Fp8E4M3* p) { return hn::Mul(LoadFp8Units(d, p), hn::Set(d, kFp8Restore)); }

HWY_INLINE float One(float x) { return x; }
HWY_INLINE float One(Bf16 x) { return ToFloat(x); }
HWY_INLINE float One(Fp8E4M3 x) { return ToFloat(x); }

// `count` rows of `dim` elements as float32, each padded with zeros to `padded`.
template <typename T>
HWY_INLINE void Decode(const T* from, int64_t count, int64_t dim, int64_t padded, float* to) {
  const DF d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  for (int64_t r = 0; r < count; ++r, from += dim, to += padded) {
    int64_t i = 0;
    for (; i + lanes <= dim; i += lanes) hn::StoreU(LoadKv(d, from + i), d, to + i);
    for (; i < dim; ++i) to[i] = One(from[i]);
    for (; i < padded; ++i) to[i] = 0;
  }
}

// Calls fn(segment, begin, end) for the parts of [from, to) in order.
template <typename Fn>
HWY_INLINE void ForParts(const AttentionSequence& s, int32_t from, int32_t to, Fn&& fn) {
  auto segment = std::upper_bound(s.segments.begin(), s.segments.end(), from,
                                  [](int32_t position, const KvSegment& g) { return position < g.first; });
  for (--segment; from < to; ++segment) {
    const int32_t end = std::min(to, segment->first + segment->count);
    fn(*segment, from, end);
    from = end;
  }
}

// sums[k] = the sum of the lanes of each of the kKeys vectors.
HWY_INLINE void SumEach(const VF* v, float* sums) {
  const DF d;
#if HWY_HAVE_SCALABLE || HWY_TARGET == HWY_SCALAR
  for (int k = 0; k < kKeys; ++k) sums[k] = hn::GetLane(hn::SumOfLanes(d, v[k]));
#else
  // Within blocks of four lanes: two pairs of vectors at a time; then the blocks.
  const hn::Repartition<double, DF> pairs;
  const auto fold = [&](VF a, VF b) HWY_ATTR {
    return hn::Add(hn::InterleaveLower(d, a, b), hn::InterleaveUpper(d, a, b));
  };
  for (int k = 0; k < kKeys; k += 4) {
    const auto ab = hn::BitCast(pairs, fold(v[k], v[k + 1]));
    const auto cd = hn::BitCast(pairs, fold(v[k + 2], v[k + 3]));
    const VF four = hn::Add(hn::BitCast(d, hn::InterleaveLower(pairs, ab, cd)),
                            hn::BitCast(d, hn::InterleaveUpper(pairs, ab, cd)));
#if HWY_MAX_BYTES == 64
    const hn::Half<DF> half;
    const hn::Half<hn::Half<DF>> quarter;
    const auto two = hn::Add(hn::LowerHalf(half, four), hn::UpperHalf(half, four));
    hn::StoreU(hn::Add(hn::LowerHalf(quarter, two), hn::UpperHalf(quarter, two)), quarter, sums + k);
#elif HWY_MAX_BYTES == 32
    const hn::Half<DF> half;
    hn::StoreU(hn::Add(hn::LowerHalf(half, four), hn::UpperHalf(half, four)), half, sums + k);
#else
    hn::StoreU(four, d, sums + k);
#endif
  }
#endif
}

// scores[r][k] = q[r] . key[k] * scale for R rows and kKeys keys of `dim` (padded) floats.
template <int R>
HWY_INLINE void Scores(const float* q, const float* keys, int64_t dim, float scale, float* scores) {
  const DF d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  VF sum[R][kKeys];
  for (int r = 0; r < R; ++r)
    for (int k = 0; k < kKeys; ++k) sum[r][k] = hn::Zero(d);
  for (int64_t i = 0; i < dim; i += lanes) {
    VF x[R];
    for (int r = 0; r < R; ++r) x[r] = hn::LoadU(d, q + r * dim + i);
    for (int k = 0; k < kKeys; ++k) {
      const VF key = hn::LoadU(d, keys + k * dim + i);
      for (int r = 0; r < R; ++r) sum[r][k] = hn::MulAdd(x[r], key, sum[r][k]);
    }
  }
  for (int r = 0; r < R; ++r) {
    HWY_ALIGN float dots[kKeys];
    SumEach(sum[r], dots);
    for (int k = 0; k < kKeys; ++k) scores[r * kScoreStride + k] = dots[k] * scale;
  }
}

// sums[0, N lanes) += weight[k] * values[k] for `count` values.
template <int N>
HWY_INLINE void AddValues(const float* weights, const float* values, int count, int64_t dim, float* sums) {
  const DF d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  VF sum[N];
  for (int i = 0; i < N; ++i) sum[i] = hn::LoadU(d, sums + i * lanes);
  for (int k = 0; k < count; ++k) {
    const VF w = hn::Set(d, weights[k]);
    for (int i = 0; i < N; ++i) sum[i] = hn::MulAdd(w, hn::LoadU(d, values + k * dim + i * lanes), sum[i]);
  }
  for (int i = 0; i < N; ++i) hn::StoreU(sum[i], d, sums + i * lanes);
}

// A block's state. Rows are token * group + head of the group; dimensions are padded to whole vectors.
struct Block {
  const AttentionArgs& a;
  const AttentionSequence& s;
  int32_t first_token, tokens;
  int kv_head;
  int64_t k_dim, v_dim;
  AttentionRows* scratch;

  int group() const { return a.heads / a.kv_heads; }
  int rows() const { return tokens * group(); }
  int32_t Position(int row) const { return s.past + first_token + row / group(); }
  int32_t First(int row) const { return a.window > 0 ? std::max(0, Position(row) - a.window + 1) : 0; }
};

// Scores of all rows against keys [from, to) of the tile that begins at `tile`.
template <typename T>
HWY_INLINE void ScoreSubTile(const Block& b, int32_t tile, int32_t from, int32_t to) {
  float* keys = b.scratch->decoded.data();
  ForParts(b.s, from, to, [&](const KvSegment& seg, int32_t begin, int32_t end) {
    const T* k = reinterpret_cast<const T*>(seg.k) + b.kv_head * seg.k_head_stride +
                 int64_t{begin - seg.first} * b.a.head_dim;
    Decode(k, end - begin, b.a.head_dim, b.k_dim, keys + (begin - from) * b.k_dim);
  });
  const float scale = 1.0f / std::sqrt(static_cast<float>(b.a.head_dim));
  const float* q = b.scratch->q.data();
  float* scores = b.scratch->scores.data() + (from - tile);
  // Keys beyond `to` are left-overs of the buffer: their scores are never looked at.
  for (int k = 0; k < to - from; k += kKeys) {
    int row = 0;
    constexpr int kPair = HWY_MAX_BYTES == 64 ? 2 : 1;  // 32 registers hold two rows' sums
    for (; row + kPair <= b.rows(); row += kPair) {
      Scores<kPair>(q + row * b.k_dim, keys + k * b.k_dim, b.k_dim, scale, scores + row * kScoreStride + k);
    }
    for (; row < b.rows(); ++row) {
      Scores<1>(q + row * b.k_dim, keys + k * b.k_dim, b.k_dim, scale, scores + row * kScoreStride + k);
    }
  }
}

// Scores of one row, of which [from, to) are in its range, to weights; rescales what the row has summed up so far.
// Weights of [whole_from, whole_to) outside of the range become 0.
HWY_INLINE void SoftmaxRow(const Block& b, int row, int32_t from, int32_t to, int32_t whole_from, int32_t whole_to) {
  const DF d;
  const int32_t lanes = static_cast<int32_t>(hn::Lanes(d));
  float* scores = b.scratch->scores.data() + row * kScoreStride;
  if (from >= to) {
    std::fill(scores + whole_from, scores + whole_to, 0.0f);
    return;
  }
  std::fill(scores + from / lanes * lanes, scores + from, kNever);
  std::fill(scores + to, scores + (to + lanes - 1) / lanes * lanes, kNever);
  const float old_max = b.scratch->max[row];
  VF highest = hn::Set(d, old_max);
  for (int32_t j = from / lanes * lanes; j < to; j += lanes) highest = hn::Max(highest, hn::LoadU(d, scores + j));
  const float max = hn::GetLane(hn::MaxOfLanes(d, highest));
  const VF shift = hn::Set(d, max), least = hn::Set(d, -104.0f);  // exp(-104) is below every float32
  VF sum = hn::Zero(d);
  for (int32_t j = from / lanes * lanes; j < to; j += lanes) {
    const VF score = hn::LoadU(d, scores + j);
    const VF e = hn::IfThenElseZero(hn::Gt(score, hn::Set(d, kNever)), hn::Exp(d, hn::Max(hn::Sub(score, shift), least)));
    hn::StoreU(e, d, scores + j);
    sum = hn::Add(sum, e);
  }
  if (whole_from < from) std::fill(scores + whole_from, scores + from, 0.0f);
  if (to < whole_to) std::fill(scores + to, scores + whole_to, 0.0f);
  const float keep = std::exp(old_max - max);  // 0 in the first tile without a sink
  b.scratch->total[row] = b.scratch->total[row] * keep + hn::GetLane(hn::SumOfLanes(d, sum));
  b.scratch->max[row] = max;
  if (keep != 1.0f) {
    float* sums = b.scratch->sums.data() + row * b.v_dim;
    for (int64_t v = 0; v < b.v_dim; v += lanes) {
      hn::StoreU(hn::Mul(hn::LoadU(d, sums + v), hn::Set(d, keep)), d, sums + v);
    }
  }
}

template <typename T>
HWY_INLINE void AddSubTile(const Block& b, int32_t tile, int32_t from, int32_t to) {
  float* values = b.scratch->decoded.data();
  ForParts(b.s, from, to, [&](const KvSegment& seg, int32_t begin, int32_t end) {
    const T* v = reinterpret_cast<const T*>(seg.v) + b.kv_head * seg.v_head_stride +
                 int64_t{begin - seg.first} * b.a.v_head_dim;
    Decode(v, end - begin, b.a.v_head_dim, b.v_dim, values + (begin - from) * b.v_dim);
  });
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(DF()));
  const int count = to - from;
  for (int row = 0; row < b.rows(); ++row) {
    const float* weights = b.scratch->scores.data() + row * kScoreStride + (from - tile);
    float* sums = b.scratch->sums.data() + row * b.v_dim;
    int64_t v = 0;
    for (; v + 8 * lanes <= b.v_dim; v += 8 * lanes) AddValues<8>(weights, values + v, count, b.v_dim, sums + v);
    for (; v + 2 * lanes <= b.v_dim; v += 2 * lanes) AddValues<2>(weights, values + v, count, b.v_dim, sums + v);
    for (; v < b.v_dim; v += lanes) AddValues<1>(weights, values + v, count, b.v_dim, sums + v);
  }
}

HWY_INLINE void BeginRows(const Block& b) {
  AttentionRows& s = *b.scratch;
  const size_t rows = static_cast<size_t>(b.rows());
  s.q.resize(std::max(s.q.size(), rows * b.k_dim));
  s.decoded.resize(std::max(s.decoded.size(), static_cast<size_t>(kSubTile * std::max(b.k_dim, b.v_dim))));
  s.scores.resize(std::max(s.scores.size(), rows * kScoreStride));
  s.sums.resize(std::max(s.sums.size(), rows * b.v_dim));
  s.max.resize(std::max(s.max.size(), rows));
  s.total.resize(std::max(s.total.size(), rows));
  std::fill_n(s.sums.data(), rows * b.v_dim, 0.0f);
  for (int row = 0; row < b.rows(); ++row) {
    const int head = b.kv_head * b.group() + row % b.group();
    Decode(b.a.q + (b.s.first_token + b.first_token + row / b.group()) * b.a.q_stride + int64_t{head} * b.a.head_dim, 1,
           b.a.head_dim, b.k_dim, s.q.data() + row * b.k_dim);
    s.max[row] = b.a.sinks ? b.a.sinks[head] : kNever;  // the sink is a key without a value
    s.total[row] = b.a.sinks ? 1.0f : 0.0f;
  }
}

HWY_INLINE void EndRows(const Block& b) {
  for (int row = 0; row < b.rows(); ++row) {
    const int head = b.kv_head * b.group() + row % b.group();
    float* out = b.a.out + (b.s.first_token + b.first_token + row / b.group()) * b.a.out_stride +
                 int64_t{head} * b.a.v_head_dim;
    const float* sums = b.scratch->sums.data() + row * b.v_dim;
    for (int v = 0; v < b.a.v_head_dim; ++v) out[v] = sums[v] / b.scratch->total[row];
  }
}

template <typename T>
void AttendRows(const Block& b) {
  BeginRows(b);
  const int32_t first = b.First(0), end = b.Position(b.rows() - 1) + 1;
  for (int32_t tile = first / kAttentionTile * kAttentionTile; tile < end; tile += kAttentionTile) {
    const int32_t from = std::max(tile, first), to = std::min(tile + kAttentionTile, end);
    for (int32_t at = from; at < to; at += kSubTile) ScoreSubTile<T>(b, tile, at, std::min(at + kSubTile, to));
    for (int row = 0; row < b.rows(); ++row) {
      SoftmaxRow(b, row, std::max(tile, b.First(row)) - tile, std::min(tile + kAttentionTile, b.Position(row) + 1) - tile,
                 from - tile, to - tile);
    }
    for (int32_t at = from; at < to; at += kSubTile) AddSubTile<T>(b, tile, at, std::min(at + kSubTile, to));
  }
  EndRows(b);
}

void AttendBlock(const AttentionArgs& a, const AttentionSequence& s, int32_t first_token, int32_t tokens, int kv_head,
                 AttentionRows* scratch) {
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(DF()));
  const auto padded = [&](int64_t dim) { return (dim + lanes - 1) / lanes * lanes; };
  const Block b{a, s, first_token, tokens, kv_head, padded(a.head_dim), padded(a.v_head_dim), scratch};
  if (a.kv_dtype == DType::kF32) return AttendRows<float>(b);
  if (a.kv_dtype == DType::kBf16) return AttendRows<Bf16>(b);
  AttendRows<Fp8E4M3>(b);
}

}  // namespace HWY_NAMESPACE
}  // namespace minimo
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace minimo {
namespace {

HWY_EXPORT(AttendBlock);

constexpr int kBlockRows = 64;  // scores of 64 rows x 256 keys: 64 KB, and as much again of queries and sums

struct BlockOfTokens {
  const AttentionSequence* sequence;
  int32_t first;
  int32_t tokens;
};

}  // namespace

void AttentionCpu(const AttentionArgs& a, ThreadTeam& team) {
  const auto attend = HWY_DYNAMIC_DISPATCH(AttendBlock);
  const int32_t block = std::max(1, kBlockRows / (a.heads / a.kv_heads));
  static thread_local std::vector<BlockOfTokens> blocks;
  blocks.clear();
  for (const AttentionSequence& s : a.sequences) {
    for (int32_t i = 0; i < s.num_tokens; i += block) blocks.push_back({&s, i, std::min(block, s.num_tokens - i)});
  }
  // Handed out one by one, the last tokens of a prompt first: they see most keys.
  const int64_t tasks = std::ssize(blocks) * a.kv_heads;
  const BlockOfTokens* last = blocks.data() + blocks.size() - 1;
  team.ParallelForDynamic(tasks, [&, last](int64_t task) {
    static thread_local AttentionRows scratch;
    const BlockOfTokens& b = *(last - task / a.kv_heads);
    attend(a, *b.sequence, b.first, b.tokens, static_cast<int>(task % a.kv_heads), &scratch);
  });
}

}  // namespace minimo
#endif
