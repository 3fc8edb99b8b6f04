// One token a sequence, from the QKV product to the heads' outputs: QK norm, RoPE, the cache write and attention. A
// cluster of `splits` blocks takes one KV head of one token, each block a run of the context; its warps take tiles
// of keys in turn, each with a ring of its own (attention_stream.cuh), whose rows it finds a tile ahead. The first
// tiles are requested before wait_previous_kernel, sines and cosines computed; the newest key and value go from the
// block that makes them to the cache and straight into the last tile. The blocks of a cluster add up their splits
// through shared memory, each a share of the outputs, in a fixed order.
#include "cuda/kernels/attention_newest.cuh"

namespace minimo::cuda {
namespace {

constexpr int kDepth = 2;  // tiles of a ring
constexpr int kMultiprocessors = 132;

// Where one sequence's rows of a KV head lie: row_of(position) rows of K, and of V, from their starts.
struct Rows {
  const int* blocks;  // null: a ring
  int ring, kv_heads, kv_head, rows;
  float inverse;  // of rows

  __device__ __forceinline__ Rows(const AttentionParams& p, const HeadRun& b)
      : blocks(p.k.ring ? nullptr : p.meta.block_tables + load_l2(p.meta.block_table + b.token)),
        ring(p.k.ring ? load_l2(p.meta.ring + b.token) : 0), kv_heads(p.kv_heads), kv_head(b.kv_head), rows(p.k.rows),
        inverse(1.0f / static_cast<float>(p.k.rows)) {}
  __device__ __forceinline__ int row_of(int position) const {
    const int at = static_cast<int>((static_cast<float>(position) + 0.5f) * inverse);  // exact below 2^21 positions
    const int block = blocks == nullptr ? ring : load_l2(blocks + at);
    return (block * kv_heads + kv_head) * rows + position - at * rows;
  }
};

// What warps have of a block's run of the context, then in the first's place what all have together: per query the
// largest score, the sum of the powers, the outputs.
template <int kValueDim, int kQueries, int kWarps>
struct RunResult {
  static constexpr int kRow = kValueDim + 4;  // spread over the banks
  float most[kWarps][kQueries], total[kWarps][kQueries];
  alignas(16) float out[kWarps][kQueries][kRow];

  template <typename Stream>
  __device__ __forceinline__ void put(const Stream& a) {
    const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int q = 0; q < kQueries / 4; ++q) {
      const int b = q / 2, i = q % 2, query = 8 * b + 2 * t + i;
      if (g == 0) most[warp][query] = a.most[b][i], total[warp][query] = a.sum[b][i];
#pragma unroll
      for (int j = 0; j < kValueDim / 16; ++j) {
        *reinterpret_cast<float2*>(&out[warp][query][a.column(j)]) = {a.out[b][j][i], a.out[b][j][i + 2]};
      }
    }
  }
  // Between barriers.
  __device__ __forceinline__ void add_warps(int group) {
    for (int at = threadIdx.x; at < group * (kValueDim / 4); at += kWarps * 32) {
      const int query = at / (kValueDim / 4), four = at % (kValueDim / 4);
      float top = most[0][query];
#pragma unroll
      for (int w = 1; w < kWarps; ++w) top = fmaxf(top, most[w][query]);
      float4 sum = {0, 0, 0, 0};
      float powers = 0;
#pragma unroll
      for (int w = 0; w < kWarps; ++w) {
        const float keep = most[w][query] == -INFINITY ? 0.0f : exp2f(most[w][query] - top);
        const float4 v = reinterpret_cast<const float4*>(out[w][query])[four];
        sum.x += keep * v.x, sum.y += keep * v.y, sum.z += keep * v.z, sum.w += keep * v.w;
        powers += keep * total[w][query];
      }
      reinterpret_cast<float4*>(out[0][query])[four] = sum;
      if (four == 0) whole_most[query] = top, whole_total[query] = powers;
    }
  }
  __device__ __forceinline__ float most_of(int query) const { return whole_most[query]; }
  __device__ __forceinline__ float total_of(int query) const { return whole_total[query]; }
  __device__ __forceinline__ const float* out_of(int query) const { return out[0][query]; }
  float whole_most[kQueries], whole_total[kQueries];
};

template <int kKeyDim, int kValueDim, typename Kv, typename Product, int kQueries, int kWarps>
__global__ void __launch_bounds__(kWarps * 32, kWarps == 4 ? 3 : 2)
    attention_decode(const AttentionParams p, const RopeParams r) {
  using Stream = AttentionStream<kKeyDim, kValueDim, Kv, kQueries / 8>;
  using Result = RunResult<kValueDim, kQueries, kWarps>;
  constexpr int kKeys = Stream::kKeys, kThreads = kWarps * 32;
  extern __shared__ __align__(128) uint8_t smem[];  // rings, then Result
  __shared__ NewestToken<kKeyDim, kValueDim, Kv, Product, kQueries, kThreads> rows;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4;
  const int split = blockIdx.x, splits = gridDim.x;
  // The step's positions and tables were copied before its first kernel.
  const HeadRun b = {static_cast<int>(blockIdx.z), static_cast<int>(blockIdx.y), p.heads / p.kv_heads,
                     load_l2(p.meta.position + blockIdx.z), split == splits - 1};
  const int begin = p.window > 0 ? max(0, b.position - p.window + 1) : 0, end = b.position + 1;
  const Rows in_cache(p, b);
  const int tiles = (end - begin + kKeys - 1) / kKeys;
  const int first_tile = tiles * split / splits, last_tile = tiles * (split + 1) / splits;
  uint8_t* ring = smem + warp * kDepth * Stream::kTileBytes;
  // This lane's row of a tile; a row that exists is 0 or more.
  const auto find = [&](int tile) {
    return in_cache.row_of(max(0, min(begin + min(tile, last_tile - 1) * kKeys + lane % kKeys, b.position - 1)));
  };
  const auto request = [&](int tile, int stage, int row) {
    if (tile < last_tile) {
      Stream::request(ring + stage * Stream::kTileBytes, p.k.data, p.v.data, row, b.position - begin - tile * kKeys);
    }
    copy_commit();
  };
  int next_row = find(first_tile + warp);
#pragma unroll
  for (int i = 0; i < kDepth; ++i) {
    const int row = next_row;
    next_row = find(first_tile + warp + (i + 1) * kWarps);
    request(first_tile + warp + i * kWarps, i, row);
  }
  rows.prepare(r, b);
  wait_previous_kernel();
  rows.make(r, b, p.scale * kLog2E);
  __syncthreads();
  allow_next_kernel();  // only now: its requests for weights would hold up ours
  if (b.newest) rows.to_cache(r, b);

  Stream a;
  a.clear();
  int stage = 0;
#pragma unroll 1
  for (int tile = first_tile + warp; tile < last_tile; tile += kWarps) {
    const int row = next_row;
    next_row = find(tile + (kDepth + 1) * kWarps);
    uint8_t* here = ring + stage * Stream::kTileBytes;
    copy_wait<kDepth - 1>();
    __syncwarp();
    if (tile == tiles - 1) {
      Stream::put_newest(here, rows.key, rows.value, b.position - begin - tile * kKeys);
      __syncwarp();
    }
    typename Stream::Scores scores;
    a.score(here, rows.query, scores);
    if (tile == tiles - 1) {
#pragma unroll
      for (int h = 0; h < Stream::kHalves; ++h) {
#pragma unroll
        for (int i = 0; i < kQueries / 2; ++i) {
          if (begin + tile * kKeys + 16 * h + g + i % 4 / 2 * 8 >= end) scores[h][i / 4][i % 4] = -INFINITY;
        }
      }
    }
    a.exponentiate(scores);
    a.add(here, scores);
    __syncwarp();
    request(tile + kDepth * kWarps, stage, row);
    stage = stage + 1 == kDepth ? 0 : stage + 1;
  }
  a.finish();

  copy_wait<0>();
  __syncthreads();
  auto& result = *reinterpret_cast<Result*>(smem);
  result.put(a);
  __syncthreads();
  result.add_warps(b.group);
  const auto cluster = cooperative_groups::this_cluster();
  cluster.sync();
  merge_splits<kValueDim>(p, b, &result, kThreads);
  if (splits > 1) cluster.sync();  // the others read this block's result
}

template <int kKeyDim, int kValueDim, typename Kv, typename Product, int kQueries, int kWarps>
cudaError_t LaunchWarps(const AttentionParams& p, const RopeParams& r, cudaStream_t stream) {
  constexpr int kRings = kWarps * kDepth * AttentionStream<kKeyDim, kValueDim, Kv, kQueries / 8>::kTileBytes;
  constexpr int kResult = static_cast<int>(sizeof(RunResult<kValueDim, kQueries, kWarps>));
  constexpr int kSmem = kRings > kResult ? kRings : kResult;
  const auto kernel = attention_decode<kKeyDim, kValueDim, Kv, Product, kQueries, kWarps>;
  static const cudaError_t configured[] = {
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSmem),
      cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1)};
  for (const cudaError_t e : configured) {
    if (e != cudaSuccess) return e;
  }
  return LaunchCluster(kernel, dim3(p.splits, p.kv_heads, p.tokens), dim3(kWarps * 32), p.splits, kSmem, stream, p, r);
}

// As many warps as two blocks of an SM have shared memory for, unless there are blocks for three. Not in clusters:
// those of four leave 12 SMs idle (H200), so that the 64 of M2's 8 sequences would take two turns.
template <int kKeyDim, int kValueDim, typename Kv, typename Product>
cudaError_t LaunchShape(const AttentionParams& p, const RopeParams& r, cudaStream_t stream) {
  if (p.heads / p.kv_heads > 8) return LaunchWarps<kKeyDim, kValueDim, Kv, Product, 16, 5>(p, r, stream);
  if constexpr (kKeyDim == 128) {
    if (p.splits == 1 && p.tokens * p.kv_heads <= 2 * kMultiprocessors) {
      return LaunchWarps<kKeyDim, kValueDim, Kv, Product, 8, 6>(p, r, stream);
    }
    return LaunchWarps<kKeyDim, kValueDim, Kv, Product, 8, 4>(p, r, stream);
  } else {
    return LaunchWarps<kKeyDim, kValueDim, Kv, Product, 8, 5>(p, r, stream);
  }
}

template <typename Kv, typename Product>
cudaError_t LaunchProduct(const AttentionParams& p, const RopeParams& r, cudaStream_t stream) {
  return p.head_dim == 128 ? LaunchShape<128, 128, Kv, Product>(p, r, stream)
                           : LaunchShape<192, 128, Kv, Product>(p, r, stream);
}
template <typename Kv>
cudaError_t LaunchCache(const AttentionParams& p, const RopeParams& r, cudaStream_t stream) {
  return r.qkv_bf16 != nullptr ? LaunchProduct<Kv, bf16>(p, r, stream) : LaunchProduct<Kv, float>(p, r, stream);
}

}  // namespace

bool HasFastAttention(int heads, int kv_heads, int head_dim, int v_head_dim) {
  return heads / kv_heads <= 16 && v_head_dim == 128 && (head_dim == 128 || head_dim == 192);
}

cudaError_t LaunchAttentionDecode(const AttentionParams& p, const RopeParams& r, cudaStream_t stream) {
  return p.k.element_bytes == 1 ? LaunchCache<e4m3>(p, r, stream) : LaunchCache<bf16>(p, r, stream);
}

}  // namespace minimo::cuda
