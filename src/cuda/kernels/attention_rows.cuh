// What attention kernels of one token a sequence share: tiles of past keys and values from the cache, the new token's
// queries, key and value from the QKV product (QK norm, RoPE) to shared memory and the cache.
#pragma once

#include "cuda/kernels/attention_run.cuh"
#include "cuda/kernels/attention_tile.cuh"

namespace minimo::cuda {

inline constexpr int kDecodeWarps = 8;
inline constexpr int kDecodeThreads = kDecodeWarps * 32;
inline constexpr int kKeys = 16;  // a tile
inline constexpr int kMostHalf = 128;  // pairs that are rotated

// Of a warp: a tile of keys as they lie in the cache, of values as bf16, of FP8 values as they lie, too.
template <int kKeyDim, int kValueDim, typename Kv>
struct Stage {
  static constexpr bool kWiden = sizeof(Kv) == 1;
  static constexpr int kKeyRow = kKeyDim * sizeof(Kv) + (kWiden ? 32 : 16);  // 8 rows fall into distinct banks
  static constexpr int kValueRow = AttentionTile<kKeyDim, kValueDim>::kValueRow;
  static constexpr int kCopiedRow = kWiden ? kValueDim : kValueRow;  // of values
  static constexpr int kValues = kKeys * kKeyRow, kCopied = kValues + (kWiden ? kKeys * kValueRow : 0);
  static constexpr int kWarpBytes = kCopied + kKeys * kCopiedRow;
};

// Requests 16 rows of keys or values from position `first` on; those at or beyond `end` become zeros. A row that exists
// is 0 or more.
template <int kDim, typename Kv>
__device__ __forceinline__ void request_rows(const KvView& v, const int* block_tables, uint8_t* to, int row_bytes,
                                             int table, int ring, int kv_head, int first, int end) {
  const int lane = threadIdx.x % 32;
  const int mine = max(0, min(first + lane % kKeys, end - 1));
  const int64_t row_at = cache_row(v, table, block_tables, ring, mine, kv_head);
  constexpr int kPiece = kKvPiece<Kv>, kPieces = kDim / kPiece;
#pragma unroll 2
  for (int i = 0; i < kKeys * kPieces / 32; ++i) {
    const int at = i * 32 + lane, row = at / kPieces, piece = at % kPieces;
    const Kv* from = static_cast<const Kv*>(v.data) + __shfl_sync(0xffffffffu, row_at, row) + kPiece * piece;
    copy_async16_or_zero(to + row * row_bytes + 16 * piece, from, first + row < end);
  }
}

// The group's queries and, in the block that has the newest position, its key and value: from the QKV product to rows
// in shared memory, and to the cache.
template <int kKeyDim, int kValueDim, typename Kv>
struct NewRows {
  static constexpr int kRow = kKeyDim * 2 + 16;  // bytes
  uint8_t query[16 * kRow];                      // zeros beyond the group
  alignas(16) Kv key[kKeyDim], value[kValueDim];
  float sine[kMostHalf], cosine[kMostHalf];
  float squares[2][kDecodeWarps];

  // A pair is columns (i, i + rotary_dim / 2) of a head, or two neighbours beyond the rotary part; the group's query
  // heads first, then the key. A thread has every kDecodeThreads-th, kHeld of them at a time.
  static constexpr int kPairs = kKeyDim / 2, kHeld = 4;
  struct Held {
    float norm_x[kHeld], norm_y[kHeld], x[kHeld], y[kHeld];
  };
  struct Pair {
    int head, i, j, start;
    bool is_key;
    __device__ __forceinline__ Pair(const RopeParams& r, const HeadRun& b, int at) {
      const int half = r.rotary_dim / 2, pair = at % kPairs;
      head = at / kPairs, is_key = head == b.group;
      i = pair < half ? pair : 2 * pair, j = pair < half ? pair + half : 2 * pair + 1;
      start = (is_key ? b.kv_head : b.kv_head * b.group + head) * kKeyDim;
    }
  };
  static __device__ __forceinline__ int pairs(const HeadRun& b) { return (b.group + (b.newest ? 1 : 0)) * kPairs; }

  __device__ __forceinline__ void load_norms(const RopeParams& r, const HeadRun& b, int from, Held& h) const {
#pragma unroll
    for (int n = 0; n < kHeld; ++n) {
      const int at = from + n * kDecodeThreads + static_cast<int>(threadIdx.x);
      h.norm_x[n] = h.norm_y[n] = 1;
      if (r.q_norm == nullptr || at >= pairs(b)) continue;
      const Pair pair(r, b, at);
      const float* norm = pair.is_key ? r.k_norm : r.q_norm;
      h.norm_x[n] = __ldg(norm + pair.start + pair.i), h.norm_y[n] = __ldg(norm + pair.start + pair.j);
    }
  }
  __device__ __forceinline__ void load_pairs(const RopeParams& r, const HeadRun& b, int from, Held& h) const {
    const float* row = r.qkv + int64_t{b.token} * r.qkv_stride;
#pragma unroll
    for (int n = 0; n < kHeld; ++n) {
      const int at = from + n * kDecodeThreads + static_cast<int>(threadIdx.x);
      h.x[n] = h.y[n] = 0;
      if (at >= pairs(b)) continue;
      const Pair pair(r, b, at);
      const float* source = row + (pair.is_key ? r.k_offset : 0) + pair.start;
      h.x[n] = load_l2(source + pair.i), h.y[n] = load_l2(source + pair.j);
    }
  }
  __device__ __forceinline__ void rotate(const RopeParams& r, const HeadRun& b, int from, const Held& h,
                                         const float* factor) {
#pragma unroll
    for (int n = 0; n < kHeld; ++n) {
      const int at = from + n * kDecodeThreads + static_cast<int>(threadIdx.x);
      if (at >= pairs(b)) continue;
      const Pair pair(r, b, at);
      const int p = at % kPairs, half = r.rotary_dim / 2;
      const float f = pair.is_key ? factor[1] : factor[0];
      const float c = p < half ? cosine[p] : 1.0f, s = p < half ? sine[p] : 0.0f;
      const float u = h.x[n] * f * h.norm_x[n], v = h.y[n] * f * h.norm_y[n];
      bf16* to = reinterpret_cast<bf16*>(query + pair.head * kRow);
      if (pair.is_key) {
        store(key + pair.i, u * c - v * s), store(key + pair.j, v * c + u * s);
      } else {
        store(to + pair.i, u * c - v * s), store(to + pair.j, v * c + u * s);
      }
    }
  }

  // What is known before the product.
  __device__ __forceinline__ void prepare(const RopeParams& r, const HeadRun& b, Held& h) {
#pragma unroll 1
    for (int i = threadIdx.x; i < 16 * kRow / 4; i += kDecodeThreads) reinterpret_cast<uint32_t*>(query)[i] = 0;
    load_norms(r, b, 0, h);
#pragma unroll 1
    for (int i = threadIdx.x; i < r.rotary_dim / 2; i += kDecodeThreads) {
      sincosf(static_cast<float>(b.position) * __ldg(r.inverse_frequency + i), sine + i, cosine + i);
    }
  }

  // All that is read of the product is requested before any of it is used.
  __device__ __forceinline__ void make(const RopeParams& r, const HeadRun& b, Held& h) {
    constexpr int kHeldSums = 2;
    static_assert(kValueDim <= kDecodeThreads);
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, column = threadIdx.x;
    const bool normed = r.q_norm != nullptr;
    const bool summed = normed && r.norm_sums != nullptr;  // of several ranks: the sums are whole
    load_pairs(r, b, 0, h);
    float fresh = 0, whole[2] = {0, 0};
    if (b.newest && column < kValueDim) {
      fresh = load_l2(r.qkv + int64_t{b.token} * r.qkv_stride + r.v_offset + b.kv_head * kValueDim + column);
    }
    allow_next_kernel();  // only now: its requests for weights would hold up ours
    if (summed) whole[0] = load_l2(r.norm_sums + 2 * b.token), whole[1] = load_l2(r.norm_sums + 2 * b.token + 1);
    if (normed && !summed) {  // a sum for each 16 columns of the product, q's first
      const float* sums = r.square_sums + int64_t{b.token} * r.square_sum_count;
      const int q_tiles = r.k_offset / 16, end = r.v_offset / 16;
      float part[kHeldSums];
      const auto add = [&](int i, float x) { i < q_tiles ? whole[0] += x : whole[1] += x; };
#pragma unroll
      for (int n = 0; n < kHeldSums; ++n) {
        const int i = threadIdx.x + n * kDecodeThreads;
        part[n] = i < end ? load_l2(sums + i) : 0.0f;
      }
#pragma unroll
      for (int n = 0; n < kHeldSums; ++n) add(threadIdx.x + n * kDecodeThreads, part[n]);
#pragma unroll 1
      for (int i = threadIdx.x + kHeldSums * kDecodeThreads; i < end; i += kDecodeThreads) add(i, load_l2(sums + i));
      whole[0] = warp_sum(whole[0]), whole[1] = warp_sum(whole[1]);
      if (lane == 0) squares[0][warp] = whole[0], squares[1][warp] = whole[1];
    }
    __syncthreads();  // sums, sines, zeros
    float factor[2] = {1, 1};
#pragma unroll
    for (int f = 0; f < 2 && normed; ++f) {
      const int columns = summed ? (f == 0 ? r.whole_q : r.whole_k) : (f == 0 ? r.heads : r.kv_heads) * kKeyDim;
      float sum = summed ? whole[f] : 0.0f;
#pragma unroll
      for (int w = 0; w < kDecodeWarps && !summed; ++w) sum += squares[f][w];
      factor[f] = rsqrtf(__fdividef(sum, static_cast<float>(columns)) + r.norm_eps);
    }
    if (b.newest && column < kValueDim) store(value + column, fresh * r.value_scale);
    rotate(r, b, 0, h, factor);
#pragma unroll 1
    for (int from = kHeld * kDecodeThreads; from < pairs(b); from += kHeld * kDecodeThreads) {
      load_norms(r, b, from, h);
      load_pairs(r, b, from, h);
      rotate(r, b, from, h, factor);
    }
  }

  __device__ __forceinline__ void to_cache(uint4* to) const { newest_to_cache<kKeyDim>(key, value, to); }
  static __device__ __forceinline__ uint4 eight(const Kv* from, int i) {  // as bf16
    if constexpr (sizeof(Kv) == 1) {
      return widen_e4m3(reinterpret_cast<const uint2*>(from)[i]);
    } else {
      return reinterpret_cast<const uint4*>(from)[i];
    }
  }
  // One warp: row `row` of its tile of keys, of values.
  __device__ __forceinline__ void key_to_tile(uint8_t* keys, int row) const {
    using Rows = Stage<kKeyDim, kValueDim, Kv>;
    const int lane = threadIdx.x % 32;
    if (lane < kKeyDim / kKvPiece<Kv>) {
      reinterpret_cast<uint4*>(keys + row * Rows::kKeyRow)[lane] = reinterpret_cast<const uint4*>(key)[lane];
    }
  }
  __device__ __forceinline__ void value_to_tile(uint8_t* values, int row) const {
    using Rows = Stage<kKeyDim, kValueDim, Kv>;
    const int lane = threadIdx.x % 32;
    if (lane < kValueDim / 8) reinterpret_cast<uint4*>(values + row * Rows::kValueRow)[lane] = eight(value, lane);
  }
};

}  // namespace minimo::cuda
