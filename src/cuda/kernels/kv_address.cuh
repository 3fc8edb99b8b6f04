// Where a token's K or V row lies.
#pragma once

#include "cuda/kernels/common.cuh"
#include "cuda/kernels/tokens.cuh"

namespace minimo::cuda {

// Element offset of the row of `position`, head `kv_head`, in the cache of the sequence that `token` belongs to.
__device__ __forceinline__ int64_t cache_row(const KvView& v, int table, const int* block_tables, int ring,
                                             int position, int kv_head) {
  const int block = v.ring ? ring : block_tables[table + position / v.rows];
  return ((int64_t{block} * v.kv_heads + kv_head) * v.rows + position % v.rows) * v.dim;
}
__device__ __forceinline__ int64_t cache_row(const KvView& v, const TokenMeta& m, int token, int position,
                                             int kv_head) {
  return cache_row(v, v.ring ? 0 : load_l2(m.block_table + token), m.block_tables, v.ring ? load_l2(m.ring + token) : 0,
                   position, kv_head);
}

}  // namespace minimo::cuda
