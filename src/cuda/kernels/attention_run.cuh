// What the kernels of decode attention share: a block's run of a context, its newest row on the way to the cache, the
// outputs of the runs that a cluster has cut a context into.
#pragma once

#include <cooperative_groups.h>

#include "cuda/kernels/attention.cuh"
#include "cuda/kernels/kv_address.cuh"
#include "cuda/kernels/kv_element.cuh"
#include "cuda/kernels/split_unit.cuh"
#include "cuda/weight_tiles.h"

namespace minimo::cuda {

// A block's run of the context of one KV head, known before it waits.
struct HeadRun {
  int token, kv_head, group, position;
  bool newest;  // the block whose run ends with the token's own position
};

__device__ __forceinline__ void prefetch_l2(const void* p) { asm volatile("prefetch.global.L2 [%0];" ::"l"(p)); }

// The newest key and value, in shared memory, to the cache; 16 bytes a thread.
template <int kKeyDim, int kValueDim, typename Kv>
__device__ __forceinline__ void newest_to_cache(const Kv* key, const Kv* value, const RopeParams& r,
                                                const HeadRun& b) {
  constexpr int kKeyPieces = kKeyDim / kKvPiece<Kv>, kValuePieces = kValueDim / kKvPiece<Kv>;
  const int piece = threadIdx.x;
  if (piece < kKeyPieces) {
    Kv* to = static_cast<Kv*>(r.k.data) + cache_row(r.k, r.meta, b.token, b.position, b.kv_head);
    reinterpret_cast<uint4*>(to)[piece] = reinterpret_cast<const uint4*>(key)[piece];
  } else if (piece - kKeyPieces < kValuePieces) {
    Kv* to = static_cast<Kv*>(r.v.data) + cache_row(r.v, r.meta, b.token, b.position, b.kv_head);
    reinterpret_cast<uint4*>(to)[piece - kKeyPieces] = reinterpret_cast<const uint4*>(value)[piece - kKeyPieces];
  }
}
// The same in two steps.
// Where in the cache this thread's 16 bytes of the newest key or value go; null: it has none. Known before the product,
// and found by three loads, one after the other.
template <int kKeyDim, int kValueDim, typename Kv>
__device__ __forceinline__ uint4* newest_in_cache(const RopeParams& r, const HeadRun& b) {
  constexpr int kKeyPieces = kKeyDim / kKvPiece<Kv>, kValuePieces = kValueDim / kKvPiece<Kv>;
  const int piece = threadIdx.x;
  if (!b.newest || piece >= kKeyPieces + kValuePieces) return nullptr;
  const KvView& view = piece < kKeyPieces ? r.k : r.v;
  Kv* row = static_cast<Kv*>(view.data) + cache_row(view, r.meta, b.token, b.position, b.kv_head);
  return reinterpret_cast<uint4*>(row) + (piece < kKeyPieces ? piece : piece - kKeyPieces);
}
template <int kKeyDim, typename Kv>
__device__ __forceinline__ void newest_to_cache(const Kv* key, const Kv* value, uint4* to) {
  constexpr int kKeyPieces = kKeyDim / kKvPiece<Kv>;
  const int piece = threadIdx.x;
  if (to == nullptr) return;
  *to = piece < kKeyPieces ? reinterpret_cast<const uint4*>(key)[piece]
                           : reinterpret_cast<const uint4*>(value)[piece - kKeyPieces];
}

// This block's share of the cluster's outputs, whole rows, the splits added in order. Result: of each row the largest
// score, the sum of the powers and kValueDim outputs, 16-byte aligned.
template <int kValueDim, typename Result>
__device__ __forceinline__ void merge_splits(const AttentionParams& p, const HeadRun& b, Result* mine, int threads) {
  const auto cluster = cooperative_groups::this_cluster();
  const int splits = cluster.num_blocks(), rank = cluster.block_rank();
  const int64_t out = int64_t{b.token} * p.out_stride + b.kv_head * b.group * kValueDim;
  const int rows = (b.group - rank + splits - 1) / splits;
  static_assert(kValueDim == kUnitCols);  // a warp has a row
  for (int at = threadIdx.x; at < rows * (kValueDim / 4); at += threads) {
    const int row = rank + splits * (at / (kValueDim / 4)), c = at % (kValueDim / 4), i = row * (kValueDim / 4) + c;
    const float sink = p.sinks != nullptr ? __ldg(p.sinks + b.kv_head * b.group + row) * kLog2E : -INFINITY;
    float most[kMaxSplits], top = sink, total = 0;
    float4 value[kMaxSplits];
#pragma unroll
    for (int s = 0; s < kMaxSplits; ++s) {
      if (s >= splits) break;
      const Result* run = cluster.map_shared_rank(mine, s);
      most[s] = run->most_of(row);
      value[s] = *reinterpret_cast<const float4*>(run->out_of(row) + 4 * c);
      top = fmaxf(top, most[s]);
    }
    float4 sum = {0, 0, 0, 0};
#pragma unroll
    for (int s = 0; s < kMaxSplits; ++s) {
      if (s >= splits) break;
      const float f = exp2f(most[s] - top);
      total += f * cluster.map_shared_rank(mine, s)->total_of(row);
      sum.x += f * value[s].x, sum.y += f * value[s].y, sum.z += f * value[s].z, sum.w += f * value[s].w;
    }
    const float scale = 1.0f / (total + exp2f(sink - top));
    sum = {sum.x * scale, sum.y * scale, sum.z * scale, sum.w * scale};
    if (p.out_f32) {
      reinterpret_cast<float4*>(static_cast<float*>(p.out) + out)[i] = sum;
    } else {
      const uint2 bits = {pack_bf16(sum.x, sum.y), pack_bf16(sum.z, sum.w)};
      if (p.split.data != nullptr) {
        put_split(p.split, p.tokens, b.token, b.kv_head * b.group + row, bits);
      } else {
        reinterpret_cast<uint2*>(static_cast<bf16*>(p.out) + out)[i] = bits;
      }
    }
  }
}

}  // namespace minimo::cuda
