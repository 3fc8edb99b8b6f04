// One task is one KV head, a block of query tokens and some of the tiles that they see: every key and value is read
// once for all query heads of the group and, piece by piece, from the first-level cache for all tokens of the block.
//
// Softmax runs over tiles of kAttentionTile absolute positions, each for itself; what tiles give is folded in their
// order. So tiles may be shared out over threads, and what a row (a query head of one token) gets depends neither on
// the other rows nor on the block: a key outside of a row's range adds exactly 0.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/attention/attention_cpu.cc"
#define HWY_WANT_AVX3_DL  // for VPERMI2B
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>
#include <vector>

#include "base/thread_team.h"
#include "ops/attention/attention.h"
#include "ops/attention/attention_kernels-inl.h"
#include "ops/attention/attention_rows.h"

HWY_BEFORE_NAMESPACE();
namespace minimo {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

constexpr int kPieceKeys = 16;  // 16 x 192 floats at most: with as many fetched ahead a part of the first-level cache
constexpr int kPiecesAhead = 2;
constexpr int kPiecesInSoftmax = 6;  // about what memory gives in that time
constexpr float kNever = -std::numeric_limits<float>::infinity();

// How rows of `dim` elements in the cache become rows for a kernel.
template <typename T>
struct RowFormat {
  using Kernel = typename Decoded<T>::Type;
  // As the cache has them; each converted; or where they are no whole units as float32, padded to whole vectors.
  enum class Way { kAsTheyAre, kDecoded, kPadded };

  explicit RowFormat(int64_t dim) : dim(dim) {
    if (dim % kUnit == 0 && dim % kConverted<T> == 0) way = std::is_same_v<T, Kernel> ? Way::kAsTheyAre : Way::kDecoded;
    padded = (dim + kLanes - 1) / kLanes * kLanes;
    for (int64_t i = 0; i < kUnit; ++i) order[i] = static_cast<int32_t>(Codec<Kernel>::Dim(i));
  }
  // A row of floats into the kernel's order of dimensions, and back.
  void Arrange(const float* from, float* to) const {
    if (way == Way::kPadded) {
      std::copy_n(from, dim, to);
      std::fill(to + dim, to + padded, 0.0f);
      return;
    }
    for (int64_t at = 0; at < dim; at += kUnit) {
      for (int64_t i = 0; i < kUnit; ++i) to[at + i] = from[at + order[i]];
    }
  }
  void Restore(const float* from, float* to) const {
    if (way == Way::kPadded) return static_cast<void>(std::copy_n(from, dim, to));
    for (int64_t at = 0; at < dim; at += kUnit) {
      for (int64_t i = 0; i < kUnit; ++i) to[at + order[i]] = from[at + i];
    }
  }

  static constexpr int64_t kUnit = Codec<Kernel>::kVectors * kLanes;
  int64_t dim, padded = 0;
  Way way = Way::kPadded;
  int32_t order[kUnit];  // the dimension at each place of a unit
};

// Work with keys and values of type T in the cache.
template <typename T>
class Attention {
 public:
  Attention(const AttentionBlock& b, AttentionRows* scratch)
      : b_(b), a_(*b.args), s_(*scratch), k_(a_.head_dim), v_(a_.v_head_dim) {}

  // Tiles [begin, end) of those that the block sees. `partial`: a RowSums of each goes there; null: these are all, and
  // the results go out.
  void Run(int32_t begin, int32_t end, float* partial) {
    Begin();
    for (int32_t i = begin; i < end; ++i) {
      const RowSums tile = partial ? Sums(partial, i - begin) : Sums(s_.tile.data());
      AttendTile((b_.FirstTile() + i) * kAttentionTile, tile);
      if (partial == nullptr) FoldTile(tile);
    }
    if (partial == nullptr) Finish();
  }

  // The results of `tiles` tiles, which lie in their order.
  void Fold(float* partial, int32_t tiles) {
    Begin();
    for (int32_t i = 0; i < tiles; ++i) FoldTile(Sums(partial, i));
    Finish();
  }

 private:
  using Way = typename RowFormat<T>::Way;
  using Kernel = typename RowFormat<T>::Kernel;

  RowSums Sums(float* data) const { return RowSums(data, b_.rows(), v_.padded); }
  RowSums Sums(float* partial, int32_t tile) const {
    return Sums(partial + tile * RowSums::Floats(b_.rows(), v_.padded));
  }
  float* Scores(int row) const { return s_.scores.data() + row * kScoreStride; }

  // Room for rows, queries in the codec's order, and the sinks.
  void Begin() {
    const int rows = b_.rows();
    const auto grow = [](Buffer<float>& b, int64_t size) { b.Reserve(static_cast<size_t>(size)); };
    grow(s_.q, rows * k_.padded);
    grow(s_.staged, kPiecesAhead * kPieceKeys * std::max(k_.padded, v_.padded));
    grow(s_.scores, rows * kScoreStride);
    grow(s_.tile, RowSums::Floats(rows, v_.padded));
    grow(s_.sums, RowSums::Floats(rows, v_.padded));
    const RowSums sums = Sums(s_.sums.data());
    std::fill_n(sums.values, rows * v_.padded, 0.0f);
    for (int row = 0; row < rows; ++row) {
      const float* from = a_.q + b_.Token(row) * a_.q_stride + int64_t{b_.Head(row)} * a_.head_dim;
      k_.Arrange(from, s_.q.data() + row * k_.padded);
      sums.highest[row] = a_.sinks ? a_.sinks[b_.Head(row)] : kNever;  // the sink is a key without a value
      sums.weights[row] = a_.sinks ? 1.0f : 0.0f;
    }
  }

  // Pieces of keys (or of values, `values`) [from, to), appended.
  void AppendPieces(int32_t from, int32_t to, bool values) {
    const auto& segments = b_.sequence->segments;
    auto segment = std::upper_bound(segments.begin(), segments.end(), from,
                                    [](int32_t position, const KvSegment& g) { return position < g.first; });
    for (--segment; from < to; ++segment) {
      const int32_t last = std::min(to, segment->first + segment->count);
      const int64_t stride = values ? segment->v_head_stride : segment->k_head_stride;
      const int64_t dim = values ? a_.v_head_dim : a_.head_dim;
      const T* head = reinterpret_cast<const T*>(values ? segment->v : segment->k) + b_.kv_head * stride;
      for (; from < last; from += kPieceKeys) {
        s_.pieces.push_back({reinterpret_cast<const std::byte*>(head + (from - segment->first) * dim), from,
                             std::min<int32_t>(kPieceKeys, last - from)});
      }
      from = last;
    }
  }

  // A piece as the kernel for `U` takes it. `place`: of the pieces that are staged at once.
  template <typename U>
  KvPiece Staged(const RowFormat<T>& f, const KvPiece& piece, const KvPiece& ahead, int place) {
    const T* from = reinterpret_cast<const T*>(piece.at);
    U* const to = reinterpret_cast<U*>(s_.staged.data() + place * kPieceKeys * f.padded);
    Prefetch(ahead.at, ahead.count * f.dim * static_cast<int64_t>(sizeof(T)));
    if (f.way == Way::kDecoded) Convert(from, piece.count * f.dim, to);
    for (int32_t k = 0; f.way == Way::kPadded && k < piece.count; ++k) {
      Convert(from + k * f.dim, f.dim, to + k * f.padded);
      std::fill(to + k * f.padded + f.dim, to + (k + 1) * f.padded, U{});
    }
    return {reinterpret_cast<const std::byte*>(to), piece.first, piece.count};
  }

  template <typename U>
  void ScorePiece(const Codec<U>& codec, const KvPiece& piece, int32_t tile, const KvPiece* ahead) {
    const float scale = 1.0f / std::sqrt(static_cast<float>(a_.head_dim));
    ForRowRuns<kScoreRows>(b_.rows(), [&]<int R>(std::integral_constant<int, R>, int row) HWY_ATTR {
      HWY_NAMESPACE::Scores<R>(codec, s_.q.data() + row * k_.padded, piece, k_.padded, scale,
                               Scores(row) + (piece.first - tile), row == 0 ? ahead : nullptr);
    });
  }

  template <typename U>
  void AddPieces(const Codec<U>& codec, std::span<const KvPiece> pieces, int32_t tile, float* values,
                 const KvPiece* ahead) {
    ForRowRuns<kValueRows>(b_.rows(), [&]<int R>(std::integral_constant<int, R>, int row) HWY_ATTR {
      AddAllValues<R>(codec, Scores(row), tile, pieces, v_.padded, values + row * v_.padded,
                      row == 0 ? ahead : nullptr);
    });
  }

  void AttendTile(int32_t tile, const RowSums& out) {
    const int32_t from = std::max(tile, b_.First(0)), to = std::min(tile + kAttentionTile, b_.End());
    s_.pieces.clear();
    AppendPieces(from, to, false);
    const size_t count = s_.pieces.size();
    AppendPieces(from, to, true);
    const size_t all = s_.pieces.size();
    if (to < b_.End()) AppendPieces(to, std::min(to + kPiecesAhead * kPieceKeys, b_.End()), false);
    s_.pieces.resize(std::max(s_.pieces.size(), all + kPiecesAhead));  // empty ones: nothing to fetch
    const KvPiece* pieces = s_.pieces.data();
    const Codec<float> plain;
    const Codec<Kernel> codec;
    for (size_t i = 0; i < count; ++i) {
      const KvPiece* ahead = pieces + i + kPiecesAhead;
      if (k_.way == Way::kAsTheyAre) ScorePiece(codec, pieces[i], tile, ahead);
      if (k_.way == Way::kDecoded) ScorePiece(codec, Staged<Kernel>(k_, pieces[i], *ahead, 0), tile, nullptr);
      if (k_.way == Way::kPadded) ScorePiece(plain, Staged<float>(k_, pieces[i], *ahead, 0), tile, nullptr);
    }
    for (int row = 0; row < b_.rows(); ++row) {
      // The memory goes on meanwhile: values beyond those that are on their way already.
      const size_t next = count + kPiecesAhead + static_cast<size_t>(row);
      if (next < all && row < kPiecesInSoftmax) {
        PrefetchFar(pieces[next].at, pieces[next].count * a_.v_head_dim * static_cast<int64_t>(sizeof(T)));
      }
      const int32_t end = std::min(tile + kAttentionTile, b_.Position(row) + 1);
      SoftmaxRow(row, std::max(tile, b_.First(row)) - tile, end - tile, from - tile, to - tile, out);
    }
    std::fill_n(out.values, b_.rows() * v_.padded, 0.0f);
    for (size_t i = count; i < all; i += kPiecesAhead) {
      const size_t n = std::min<size_t>(kPiecesAhead, all - i);
      const KvPiece* ahead = pieces + i + kPiecesAhead;
      if (v_.way == Way::kAsTheyAre) {
        AddPieces(codec, {pieces + i, n}, tile, out.values, ahead);
        continue;
      }
      KvPiece staged[kPiecesAhead];
      for (size_t j = 0; j < n; ++j) {
        const int place = static_cast<int>(j);
        staged[j] = v_.way == Way::kDecoded ? Staged<Kernel>(v_, pieces[i + j], ahead[j], place)
                                            : Staged<float>(v_, pieces[i + j], ahead[j], place);
      }
      if (v_.way == Way::kDecoded) AddPieces(codec, {staged, n}, tile, out.values, nullptr);
      if (v_.way == Way::kPadded) AddPieces(plain, {staged, n}, tile, out.values, nullptr);
    }
  }

  // Scores of one row, of which [from, to) are in its range, to weights. Weights of [whole_from, whole_to) outside of
  // the range become 0.
  void SoftmaxRow(int row, int32_t from, int32_t to, int32_t whole_from, int32_t whole_to, const RowSums& out) {
    const DF d;
    constexpr auto lanes = static_cast<int32_t>(kLanes);
    float* scores = Scores(row);
    out.highest[row] = kNever;
    out.weights[row] = 0.0f;
    if (from >= to) {
      std::fill(scores + whole_from, scores + whole_to, 0.0f);
      return;
    }
    std::fill(scores + from / lanes * lanes, scores + from, kNever);
    std::fill(scores + to, scores + (to + lanes - 1) / lanes * lanes, kNever);
    VF highest = hn::Set(d, kNever);
    for (int32_t j = from / lanes * lanes; j < to; j += lanes) highest = hn::Max(highest, hn::LoadU(d, scores + j));
    out.highest[row] = hn::GetLane(hn::MaxOfLanes(d, highest));
    // Beyond `least` weights are no normal floats, which cost time and add nothing to a sum of at least 1.
    const VF shift = hn::Set(d, out.highest[row]), least = hn::Set(d, -87.0f);
    VF sum = hn::Zero(d);
    for (int32_t j = from / lanes * lanes; j < to; j += lanes) {
      const VF x = hn::Sub(hn::LoadU(d, scores + j), shift);
      const VF weight = hn::IfThenElseZero(hn::Gt(x, least), ExpOfNegative(hn::Max(x, least)));
      hn::StoreU(weight, d, scores + j);
      sum = hn::Add(sum, weight);
    }
    out.weights[row] = hn::GetLane(hn::SumOfLanes(d, sum));
    if (whole_from < from) std::fill(scores + whole_from, scores + from, 0.0f);
    if (to < whole_to) std::fill(scores + to, scores + whole_to, 0.0f);
  }

  // Adds a tile to what the rows have so far.
  void FoldTile(const RowSums& tile) {
    const DF d;
    const RowSums sums = Sums(s_.sums.data());
    for (int row = 0; row < b_.rows(); ++row) {
      if (tile.weights[row] == 0.0f) continue;  // the row sees none of it
      const float highest = std::max(sums.highest[row], tile.highest[row]);
      const float keep = std::exp(sums.highest[row] - highest), add = std::exp(tile.highest[row] - highest);
      sums.highest[row] = highest;
      sums.weights[row] = sums.weights[row] * keep + tile.weights[row] * add;
      for (int64_t v = row * v_.padded; v < (row + 1) * v_.padded; v += kLanes) {
        const VF kept = hn::Mul(hn::LoadU(d, sums.values + v), hn::Set(d, keep));
        hn::StoreU(hn::MulAdd(hn::LoadU(d, tile.values + v), hn::Set(d, add), kept), d, sums.values + v);
      }
    }
  }

  void Finish() {
    const RowSums sums = Sums(s_.sums.data());
    for (int row = 0; row < b_.rows(); ++row) {
      float* out = a_.out + b_.Token(row) * a_.out_stride + int64_t{b_.Head(row)} * a_.v_head_dim;
      float* values = sums.values + row * v_.padded;
      for (int64_t i = 0; i < v_.padded; ++i) values[i] /= sums.weights[row];
      v_.Restore(values, out);
    }
  }

  const AttentionBlock& b_;
  const AttentionArgs& a_;
  AttentionRows& s_;
  RowFormat<T> k_, v_;
};

template <typename Fn>
void WithCache(DType dtype, Fn&& fn) {
  if (dtype == DType::kF32) return fn(float());
  if (dtype == DType::kBf16) return fn(Bf16());
  fn(Fp8E4M3());
}

void AttendTiles(const AttentionBlock& b, int32_t begin, int32_t end, float* partial, AttentionRows* scratch) {
  WithCache(b.args->kv_dtype, [&]<typename T>(T) { Attention<T>(b, scratch).Run(begin, end, partial); });
}

void FoldTiles(const AttentionBlock& b, float* partial, AttentionRows* scratch) {
  WithCache(b.args->kv_dtype, [&]<typename T>(T) { Attention<T>(b, scratch).Fold(partial, b.Tiles()); });
}

int64_t PartialFloats(int rows, int64_t v_head_dim) {
  return RowSums::Floats(rows, (v_head_dim + kLanes - 1) / kLanes * kLanes);
}

}  // namespace HWY_NAMESPACE
}  // namespace minimo
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace minimo {
namespace {

HWY_EXPORT(AttendTiles);
HWY_EXPORT(FoldTiles);
HWY_EXPORT(PartialFloats);

constexpr int kBlockRows = 64;  // 64 rows of 128 floats are 32 KB, their scores 68 KB
constexpr int kTasks = 4;       // a member, if there are tiles enough: a disturbed core does less of them
constexpr int64_t kMostPartial = 16 << 20;  // floats

struct Task {
  AttentionBlock block;
  int32_t begin, end;  // tiles
  float* partial;      // of tile `begin`; null: these are all
};

// Blocks of tokens and KV heads, the last tokens of a prompt first, for they see most keys.
void AppendBlocks(const AttentionArgs& a, std::vector<AttentionBlock>* blocks) {
  const int32_t tokens = std::max(1, kBlockRows / (a.heads / a.kv_heads));
  for (const AttentionSequence& s : a.sequences) {
    for (int32_t i = 0; i < s.num_tokens; i += tokens) {
      for (int head = 0; head < a.kv_heads; ++head) {
        blocks->push_back({&a, &s, i, std::min(tokens, s.num_tokens - i), head});
      }
    }
  }
  std::reverse(blocks->begin(), blocks->end());
}

}  // namespace

void AttentionCpu(const AttentionArgs& a, ThreadTeam& team) {
  const auto attend = HWY_DYNAMIC_DISPATCH(AttendTiles);
  const auto fold = HWY_DYNAMIC_DISPATCH(FoldTiles);
  static thread_local std::vector<AttentionBlock> blocks;
  static thread_local std::vector<Task> tasks;
  static thread_local Buffer<float> partial;
  blocks.clear();
  AppendBlocks(a, &blocks);
  if (blocks.empty()) return;
  // Few blocks share their tiles out.
  const auto floats = [&](const AttentionBlock& b) {
    return b.Tiles() * HWY_DYNAMIC_DISPATCH(PartialFloats)(b.rows(), a.v_head_dim);
  };
  int64_t needed = 0;
  int32_t parts = static_cast<int32_t>((kTasks * team.size() + std::ssize(blocks) - 1) / std::ssize(blocks));
  for (const AttentionBlock& b : blocks) needed += floats(b);
  if (team.size() == 1 || needed > kMostPartial) parts = 1;
  if (parts > 1) partial.Reserve(static_cast<size_t>(needed));
  tasks.clear();
  float* at = partial.data();
  for (const AttentionBlock& b : blocks) {
    const int32_t tiles = b.Tiles(), shares = std::min(parts, tiles);
    for (int32_t i = 0; i < shares; ++i) {
      const int32_t begin = tiles * i / shares, end = tiles * (i + 1) / shares;
      tasks.push_back({b, begin, end, shares > 1 ? at + floats(b) / tiles * begin : nullptr});
    }
    at += parts > 1 ? floats(b) : 0;
  }
  const Task* const all = tasks.data();
  static thread_local AttentionRows scratch;
  team.ParallelForDynamic(std::ssize(tasks), [all, attend](int64_t i) {
    attend(all[i].block, all[i].begin, all[i].end, all[i].partial, &scratch);
  });
  if (tasks.size() == blocks.size()) return;
  team.ParallelForDynamic(std::ssize(tasks), [all, fold](int64_t i) {
    if (all[i].partial != nullptr && all[i].begin == 0) fold(all[i].block, all[i].partial, &scratch);
  });
}

}  // namespace minimo
#endif
