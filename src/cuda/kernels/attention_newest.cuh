// The newest token of a sequence, from the QKV product to what decode attention multiplies: QK norm, RoPE, the queries
// of a KV head's group in shared memory, its key and value there and in the cache.
#pragma once

#include "cuda/kernels/attention_run.cuh"
#include "cuda/kernels/attention_stream.cuh"

namespace minimo::cuda {

// Product: the type of its elements, float or bf16 (RopeParams::qkv or qkv_bf16).
template <int kKeyDim, int kValueDim, typename Kv, typename Product, int kQueries, int kThreads>
struct NewestToken {
  static constexpr int kRow = kQueryRow<kKeyDim>;
  static constexpr int kMostHalf = 128;  // pairs that are rotated
  static constexpr int kWarps = kThreads / 32;
  alignas(16) uint8_t query[kQueries * kRow];  // zeros beyond the group; times `query_scale`
  alignas(16) Kv key[kKeyDim], value[kValueDim];
  float sine[kMostHalf], cosine[kMostHalf];
  float squares[2][kWarps];

  __device__ __forceinline__ void prepare(const RopeParams& r, const HeadRun& b) {
    for (int i = threadIdx.x; i < kQueries * kRow / 4; i += kThreads) reinterpret_cast<uint32_t*>(query)[i] = 0;
    for (int i = threadIdx.x; i < r.rotary_dim / 2; i += kThreads) {
      sincosf(static_cast<float>(b.position) * __ldg(r.inverse_frequency + i), sine + i, cosine + i);
    }
    if (r.q_norm == nullptr) return;
    for (int i = threadIdx.x * 32; i < b.group * kKeyDim; i += kThreads * 32) {
      prefetch_l2(r.q_norm + b.kv_head * b.group * kKeyDim + i);
    }
    if (threadIdx.x * 32 < kKeyDim) prefetch_l2(r.k_norm + b.kv_head * kKeyDim + threadIdx.x * 32);
  }

  // All that is read of the product is requested before any of it is used. Has a barrier inside; one must follow.
  __device__ __forceinline__ void make(const RopeParams& r, const HeadRun& b, float query_scale) {
    static_assert(kValueDim <= kThreads);
    const int all = (b.group + (b.newest ? 1 : 0)) * kPairs, column = threadIdx.x;
    Held h;
    load(r, b, 0, all, h);
    float fresh = 0, factor[2] = {1, 1};
    if (b.newest && column < kValueDim) fresh = of_product(r, b, r.v_offset + b.kv_head * kValueDim + column);
    sum_squares(r, b);
    __syncthreads();  // sums, sines, zeros
    norm_factors(r, b, factor);
    if (b.newest && column < kValueDim) store(value + column, fresh * r.value_scale);
    rotate(r, b, 0, all, h, factor, query_scale);
#pragma unroll 1
    for (int from = kHeld * kThreads; from < all; from += kHeld * kThreads) {
      load(r, b, from, all, h);
      rotate(r, b, from, all, h, factor, query_scale);
    }
  }

  __device__ __forceinline__ void to_cache(const RopeParams& r, const HeadRun& b) const {
    newest_to_cache<kKeyDim, kValueDim>(key, value, r, b);
  }

 private:
  // A pair is columns (i, i + rotary_dim / 2) of a head, or two neighbours beyond the rotary part; the group's query
  // heads first, then the key. A thread has every kThreads-th, kHeld of them at a time.
  static constexpr int kPairs = kKeyDim / 2, kHeld = 4;
  struct Held {
    float x[kHeld], y[kHeld], norm_x[kHeld], norm_y[kHeld];
  };
  struct Pair {
    int head, pair, i, j, start;
    bool is_key, rotated;
    __device__ __forceinline__ Pair(const RopeParams& r, const HeadRun& b, int at) {
      const int half = r.rotary_dim / 2;
      head = at / kPairs, pair = at % kPairs, is_key = head == b.group, rotated = pair < half;
      i = rotated ? pair : 2 * pair, j = rotated ? pair + half : 2 * pair + 1;
      start = (is_key ? b.kv_head : b.kv_head * b.group + head) * kKeyDim;
    }
  };

  static __device__ __forceinline__ float of_product(const RopeParams& r, const HeadRun& b, int column) {
    const int64_t at = int64_t{b.token} * r.qkv_stride + column;
    if constexpr (sizeof(Product) == 4) {
      return load_l2(r.qkv + at);
    } else {
      return __uint_as_float(uint32_t{__ldcg(static_cast<const unsigned short*>(r.qkv_bf16) + at)} << 16);
    }
  }
  static __device__ __forceinline__ void load(const RopeParams& r, const HeadRun& b, int from, int all, Held& h) {
#pragma unroll
    for (int n = 0; n < kHeld; ++n) {
      const int at = from + n * kThreads + static_cast<int>(threadIdx.x);
      if (at >= all) continue;
      const Pair p(r, b, at);
      const int source = (p.is_key ? r.k_offset : 0) + p.start;
      const float* norm = p.is_key ? r.k_norm : r.q_norm;
      h.x[n] = of_product(r, b, source + p.i), h.y[n] = of_product(r, b, source + p.j);
      h.norm_x[n] = norm != nullptr ? __ldg(norm + p.start + p.i) : 1.0f;
      h.norm_y[n] = norm != nullptr ? __ldg(norm + p.start + p.j) : 1.0f;
    }
  }

  __device__ __forceinline__ void rotate(const RopeParams& r, const HeadRun& b, int from, int all, const Held& h,
                                         const float (&factor)[2], float query_scale) {
#pragma unroll
    for (int n = 0; n < kHeld; ++n) {
      const int at = from + n * kThreads + static_cast<int>(threadIdx.x);
      if (at >= all) continue;
      const Pair p(r, b, at);
      const float f = p.is_key ? factor[1] : factor[0] * query_scale;
      const float c = p.rotated ? cosine[p.pair] : 1.0f, s = p.rotated ? sine[p.pair] : 0.0f;
      const float u = h.x[n] * f * h.norm_x[n], v = h.y[n] * f * h.norm_y[n];
      const float first = u * c - v * s, second = v * c + u * s;
      if (p.is_key) {
        store(key + p.i, first), store(key + p.j, second);
      } else if constexpr (sizeof(Kv) == 1) {
        __half* to = reinterpret_cast<__half*>(query + p.head * kRow);
        to[p.i] = half_of(first), to[p.j] = half_of(second);
      } else {
        bf16* to = reinterpret_cast<bf16*>(query + p.head * kRow);
        store(to + p.i, first), store(to + p.j, second);
      }
    }
  }
  // Saturating: a query of half a million.
  static __device__ __forceinline__ __half half_of(float x) {
    return __float2half_rn(x != x ? x : fminf(fmaxf(x, -65504.0f), 65504.0f));
  }

  // QK norm: a sum for each 16 columns of the product, q's first; of several ranks the sums are whole.
  __device__ __forceinline__ void sum_squares(const RopeParams& r, const HeadRun& b) {
    if (r.q_norm == nullptr || r.norm_sums != nullptr) return;
    const float* sums = r.square_sums + int64_t{b.token} * r.square_sum_count;
    const int q_tiles = r.k_offset / 16, end = r.v_offset / 16;
    float q_sum = 0, k_sum = 0;
#pragma unroll 4
    for (int i = threadIdx.x; i < end; i += kThreads) {
      const float x = load_l2(sums + i);
      q_sum += i < q_tiles ? x : 0.0f, k_sum += i < q_tiles ? 0.0f : x;
    }
    q_sum = warp_sum(q_sum), k_sum = warp_sum(k_sum);
    const int warp = threadIdx.x / 32;
    if (threadIdx.x % 32 == 0) squares[0][warp] = q_sum, squares[1][warp] = k_sum;
  }
  __device__ __forceinline__ void norm_factors(const RopeParams& r, const HeadRun& b, float (&factor)[2]) const {
    if (r.q_norm == nullptr) return;
    const bool whole = r.norm_sums != nullptr;
#pragma unroll
    for (int f = 0; f < 2; ++f) {
      const int columns = whole ? (f == 0 ? r.whole_q : r.whole_k) : (f == 0 ? r.heads : r.kv_heads) * kKeyDim;
      float sum = whole ? load_l2(r.norm_sums + 2 * b.token + f) : 0.0f;
#pragma unroll
      for (int w = 0; w < kWarps && !whole; ++w) sum += squares[f][w];
      factor[f] = rsqrtf(sum / static_cast<float>(columns) + r.norm_eps);
    }
  }
};

}  // namespace minimo::cuda
