// One token a sequence, from the QKV product to the heads' outputs: QK norm, RoPE, the cache write and attention. A
// cluster of `splits` blocks takes one KV head of one token, each block a run of the context; its four or six warps
// take tiles of 16 keys in turn, each with a ring of its own, whose rows it finds a tile ahead. The query heads of the
// group are the rows of the mma. Past keys are requested before wait_previous_kernel, sines and cosines computed; the
// newest key and value go from the block that makes them to the cache and straight into the last tile. The blocks of a
// cluster add up their splits through shared memory, each a share of the outputs, in a fixed order. For a bf16 cache
// where the steps' own blocks fill the device; else attention_stream.cu.
#include "cuda/kernels/attention_run.cuh"
#include "cuda/kernels/attention_tile.cuh"

namespace minimo::cuda {
namespace {

constexpr int kKeys = 16;  // a tile
constexpr int kMostHalf = 128;  // pairs that are rotated

// Of a warp: kDepth stages of copied rows.
template <int kKeyDim, int kValueDim, int kDepth>
struct Stage {
  using Tile = AttentionTile<kKeyDim, kValueDim>;
  static constexpr int kKeyRow = Tile::kKeyRow, kValueRow = Tile::kValueRow;
  static constexpr int kBytes = kKeys * (kKeyRow + kValueRow);
  static constexpr int kWarpBytes = kDepth * kBytes;
};

// Where one sequence's rows of a KV head lie: row_of(position) rows of K, and of V, from their starts.
struct Rows {
  const int* blocks;  // null: a ring
  int ring, kv_heads, kv_head, rows;

  __device__ __forceinline__ int row_of(int position) const {
    const int block = blocks == nullptr ? ring : blocks[position / rows];
    return (block * kv_heads + kv_head) * rows + position % rows;
  }
};

// Requests 16 keys and values from `first` on, lane i % 16 knowing the row of each; those at or beyond `end` become
// zeros.
template <typename Stage, int kKeyDim, int kValueDim>
__device__ __forceinline__ void request_tile(const AttentionParams& p, uint8_t* stage, int mine, int first, int end) {
  const int lane = threadIdx.x % 32;
  constexpr int kPiece = kKvPiece<bf16>, kKeyPieces = kKeyDim / kPiece, kValuePieces = kValueDim / kPiece;
#pragma unroll
  for (int i = 0; i < kKeys * kKeyPieces / 32; ++i) {
    const int at = i * 32 + lane, row = at / kKeyPieces, piece = at % kKeyPieces;
    const int64_t source = __shfl_sync(0xffffffffu, mine, row);
    const bf16* from = static_cast<const bf16*>(p.k.data) + source * kKeyDim + kPiece * piece;
    copy_async16_or_zero(stage + row * Stage::kKeyRow + 16 * piece, from, first + row < end);
  }
  uint8_t* values = stage + kKeys * Stage::kKeyRow;
#pragma unroll
  for (int i = 0; i < kKeys * kValuePieces / 32; ++i) {
    const int at = i * 32 + lane, row = at / kValuePieces, piece = at % kValuePieces;
    const int64_t source = __shfl_sync(0xffffffffu, mine, row);
    const bf16* from = static_cast<const bf16*>(p.v.data) + source * kValueDim + kPiece * piece;
    copy_async16_or_zero(values + row * Stage::kValueRow + 16 * piece, from, first + row < end);
  }
}

// The group's queries and, in the block that has the newest position, its key and value: from the QKV product to rows
// in shared memory, and to the cache.
template <int kKeyDim, int kValueDim, int kWarps>
struct NewRows {
  static constexpr int kThreads = kWarps * 32;
  static constexpr int kRow = kKeyDim * 2 + 16;  // bytes
  uint8_t query[16 * kRow];                      // zeros beyond the group
  alignas(16) bf16 key[kKeyDim], value[kValueDim];
  float sine[kMostHalf], cosine[kMostHalf];
  float squares[2][kWarps];

  __device__ __forceinline__ void prepare(const RopeParams& r, const HeadRun& b) {
    for (int i = threadIdx.x; i < 16 * kRow / 4; i += kThreads) reinterpret_cast<uint32_t*>(query)[i] = 0;
    for (int i = threadIdx.x; i < r.rotary_dim / 2; i += kThreads) {
      sincosf(static_cast<float>(b.position) * __ldg(r.inverse_frequency + i), sine + i, cosine + i);
    }
    if (r.q_norm == nullptr) return;
    for (int i = threadIdx.x * 32; i < b.group * kKeyDim; i += kThreads * 32) {
      prefetch_l2(r.q_norm + b.kv_head * b.group * kKeyDim + i);
    }
    if (threadIdx.x * 32 < kKeyDim) prefetch_l2(r.k_norm + b.kv_head * kKeyDim + threadIdx.x * 32);
  }

  __device__ __forceinline__ void make(const RopeParams& r, const HeadRun& b) {
    constexpr int kHeld = 4;  // pairs of columns a thread and round
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const float* row = r.qkv + int64_t{b.token} * r.qkv_stride;
    const bool normed = r.q_norm != nullptr;
    const bool summed = normed && r.norm_sums != nullptr;  // of several ranks: the sums are whole
    if (normed && !summed) {  // a sum for each 16 columns of the product, q's first
      const float* sums = r.square_sums + int64_t{b.token} * r.square_sum_count;
      const int q_tiles = r.k_offset / 16, end = r.v_offset / 16;
      float q_sum = 0, k_sum = 0;
#pragma unroll 4
      for (int i = threadIdx.x; i < q_tiles; i += kThreads) q_sum += load_l2(sums + i);
      for (int i = q_tiles + threadIdx.x; i < end; i += kThreads) k_sum += load_l2(sums + i);
      q_sum = warp_sum(q_sum), k_sum = warp_sum(k_sum);
      if (lane == 0) squares[0][warp] = q_sum, squares[1][warp] = k_sum;
    }
    // A pair is columns (i, i + rotary_dim / 2) of a head, or two neighbours beyond the rotary part; the group's query
    // heads first, then the key.
    constexpr int kPairs = kKeyDim / 2;
    const int half = r.rotary_dim / 2, all = (b.group + (b.newest ? 1 : 0)) * kPairs;
    float factor[2] = {1, 1};
    for (int from = 0; from < all; from += kHeld * kThreads) {
      float x[kHeld], y[kHeld], wx[kHeld], wy[kHeld];
#pragma unroll
      for (int n = 0; n < kHeld; ++n) {
        const int at = from + n * kThreads + static_cast<int>(threadIdx.x), head = at / kPairs, pair = at % kPairs;
        if (at >= all) continue;
        const bool is_key = head == b.group;
        const int i = pair < half ? pair : 2 * pair, j = pair < half ? pair + half : 2 * pair + 1;
        const int start = (is_key ? b.kv_head : b.kv_head * b.group + head) * kKeyDim;
        const float* source = row + (is_key ? r.k_offset : 0) + start;
        x[n] = load_l2(source + i), y[n] = load_l2(source + j);
        const float* norm = is_key ? r.k_norm : r.q_norm;
        wx[n] = normed ? __ldg(norm + start + i) : 1.0f, wy[n] = normed ? __ldg(norm + start + j) : 1.0f;
      }
      if (from == 0) {
        __syncthreads();  // sums, sines, zeros
#pragma unroll
        for (int f = 0; f < 2 && normed; ++f) {
          const int heads = f == 0 ? r.heads : r.kv_heads;
          const int columns = summed ? (f == 0 ? r.whole_q : r.whole_k) : heads * kKeyDim;
          float sum = summed ? load_l2(r.norm_sums + 2 * b.token + f) : 0.0f;
#pragma unroll
          for (int w = 0; w < kWarps && !summed; ++w) sum += squares[f][w];
          factor[f] = rsqrtf(sum / static_cast<float>(columns) + r.norm_eps);
        }
      }
#pragma unroll
      for (int n = 0; n < kHeld; ++n) {
        const int at = from + n * kThreads + static_cast<int>(threadIdx.x), head = at / kPairs, pair = at % kPairs;
        if (at >= all) continue;
        const bool is_key = head == b.group;
        const int i = pair < half ? pair : 2 * pair, j = pair < half ? pair + half : 2 * pair + 1;
        const float f = is_key ? factor[1] : factor[0], c = pair < half ? cosine[pair] : 1.0f;
        const float s = pair < half ? sine[pair] : 0.0f, u = x[n] * f * wx[n], v = y[n] * f * wy[n];
        bf16* to = reinterpret_cast<bf16*>(query + head * kRow);
        if (is_key) {
          store(key + i, u * c - v * s), store(key + j, v * c + u * s);
        } else {
          store(to + i, u * c - v * s), store(to + j, v * c + u * s);
        }
      }
    }
    if (!b.newest) return;
    for (int c = threadIdx.x; c < kValueDim; c += kThreads) {
      store(value + c, load_l2(row + r.v_offset + b.kv_head * kValueDim + c) * r.value_scale);
    }
  }

  __device__ __forceinline__ void to_cache(const RopeParams& r, const HeadRun& b) const {
    newest_to_cache<kKeyDim, kValueDim>(key, value, r, b);
  }
  // One warp: row `row` of a tile.
  __device__ __forceinline__ void to_tile(uint8_t* stage, int row) const {
    using Tile = AttentionTile<kKeyDim, kValueDim>;
    const int lane = threadIdx.x % 32;
    if (lane < kKeyDim / 8) {
      reinterpret_cast<uint4*>(stage + row * Tile::kKeyRow)[lane] = reinterpret_cast<const uint4*>(key)[lane];
    }
    if (lane < kValueDim / 8) {
      uint8_t* values = stage + kKeys * Tile::kKeyRow;
      reinterpret_cast<uint4*>(values + row * Tile::kValueRow)[lane] = reinterpret_cast<const uint4*>(value)[lane];
    }
  }
};

// What a block's run of the context gives: per query head the largest score, the sum of the powers, the outputs.
template <int kValueDim>
struct RunResult {
  float most[16], total[16];
  float out[16][kValueDim];

  __device__ __forceinline__ float most_of(int row) const { return most[row]; }
  __device__ __forceinline__ float total_of(int row) const { return total[row]; }
  __device__ __forceinline__ const float* out_of(int row) const { return out[row]; }
};

template <int kValueDim, int kWarps>
constexpr int kSumBytes = kWarps * 16 * kValueDim * 4;  // of the warps, where the rings were; RunResult behind

// The warps' sums, in order, through shared memory, where the rings were. Has barriers inside; one must follow. Warp,
// g and t: the thread's.
template <int kKeyDim, int kValueDim, int kWarps>
__device__ __forceinline__ RunResult<kValueDim>& add_warps(const AttentionTile<kKeyDim, kValueDim>& a, int group,
                                                           int warp, int g, int t, uint8_t* smem,
                                                           float (&warp_most)[kWarps][16],
                                                           float (&warp_total)[kWarps][16]) {
  if (t == 0) {
    warp_most[warp][g] = a.most[0], warp_most[warp][g + 8] = a.most[1];
    warp_total[warp][g] = a.sum[0], warp_total[warp][g + 8] = a.sum[1];
  }
  copy_wait<0>();
  __syncthreads();
  float* sums = reinterpret_cast<float*>(smem);  // [warps][16][kValueDim]
  auto& result = *reinterpret_cast<RunResult<kValueDim>*>(smem + kSumBytes<kValueDim, kWarps>);
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int row = g + 8 * h;
    float most = warp_most[0][row];
#pragma unroll
    for (int w = 1; w < kWarps; ++w) most = fmaxf(most, warp_most[w][row]);
    const float keep = most == -INFINITY ? 0.0f : exp2f(a.most[h] - most);
    float2* to = reinterpret_cast<float2*>(sums + (warp * 16 + row) * kValueDim + 2 * t);
#pragma unroll
    for (int i = 0; i < kValueDim / 8; ++i) to[4 * i] = {a.out[i][2 * h] * keep, a.out[i][2 * h + 1] * keep};
  }
  __syncthreads();
  for (int i = threadIdx.x; i < group * kValueDim / 4; i += kWarps * 32) {
    float4 sum = {0, 0, 0, 0};
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      const float4 v = reinterpret_cast<const float4*>(sums + w * 16 * kValueDim)[i];
      sum.x += v.x, sum.y += v.y, sum.z += v.z, sum.w += v.w;
    }
    reinterpret_cast<float4*>(result.out)[i] = sum;
  }
  if (threadIdx.x < group) {
    const int row = threadIdx.x;
    float most = warp_most[0][row], total = 0;
    for (int w = 1; w < kWarps; ++w) most = fmaxf(most, warp_most[w][row]);
    for (int w = 0; w < kWarps; ++w) {
      if (warp_most[w][row] != -INFINITY) total += exp2f(warp_most[w][row] - most) * warp_total[w][row];
    }
    result.most[row] = most;
    result.total[row] = total;
  }
  return result;
}

template <int kKeyDim, int kValueDim, int kWarps, int kDepth>
__global__ void __launch_bounds__(kWarps * 32, 2) attention_decode(const AttentionParams p, const RopeParams r) {
  using Tile = AttentionTile<kKeyDim, kValueDim>;
  using Stage = Stage<kKeyDim, kValueDim, kDepth>;
  extern __shared__ __align__(16) uint8_t smem[];
  __shared__ __align__(16) NewRows<kKeyDim, kValueDim, kWarps> rows;
  __shared__ float warp_most[kWarps][16], warp_total[kWarps][16];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const int split = blockIdx.x, splits = gridDim.x;
  // The step's positions and tables were copied before its first kernel.
  HeadRun b = {static_cast<int>(blockIdx.z), static_cast<int>(blockIdx.y), p.heads / p.kv_heads,
             load_l2(p.meta.position + blockIdx.z), split == splits - 1};
  const int begin = p.window > 0 ? max(0, b.position - p.window + 1) : 0, end = b.position + 1;
  const Rows in_cache = {p.k.ring ? nullptr : p.meta.block_tables + load_l2(p.meta.block_table + b.token),
                         p.k.ring ? load_l2(p.meta.ring + b.token) : 0, p.kv_heads, b.kv_head, p.k.rows};
  const int tiles = (end - begin + kKeys - 1) / kKeys;
  const int first_tile = tiles * split / splits, last_tile = tiles * (split + 1) / splits;
  uint8_t* stages = smem + warp * Stage::kWarpBytes;
  // This lane's row of a tile; a row that exists is 0 or more.
  const auto find = [&](int tile) {
    return in_cache.row_of(max(0, min(begin + min(tile, last_tile - 1) * kKeys + lane % kKeys, b.position - 1)));
  };
  const auto request = [&](int tile, int stage, int row) {
    if (tile < last_tile) {
      request_tile<Stage, kKeyDim, kValueDim>(p, stages + stage * Stage::kBytes, row, begin + tile * kKeys, b.position);
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
  rows.make(r, b);
  __syncthreads();
  allow_next_kernel();  // only now: its requests for weights would hold up ours
  if (b.newest) rows.to_cache(r, b);

  Tile a;
  a.clear();
  a.load_query_shared(rows.query, NewRows<kKeyDim, kValueDim, kWarps>::kRow);
  int stage = 0;
  for (int tile = first_tile + warp; tile < last_tile; tile += kWarps) {
    const int row = next_row;
    next_row = find(tile + (kDepth + 1) * kWarps);
    copy_wait<kDepth - 1>();
    __syncwarp();
    uint8_t* keys = stages + stage * Stage::kBytes;
    if (tile == tiles - 1) {
      rows.to_tile(keys, b.position - begin - tile * kKeys);
      __syncwarp();
    }
    float scores[2][4];
    a.score(keys, scores);
#pragma unroll
    for (int n = 0; n < 2; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int at = begin + tile * kKeys + 8 * n + 2 * t + i % 2;
        scores[n][i] = at < end ? scores[n][i] * (p.scale * kLog2E) : -INFINITY;
      }
    }
    a.add(scores, keys + kKeys * Tile::kKeyRow);
    __syncwarp();
    request(tile + kDepth * kWarps, stage, row);
    stage = stage + 1 == kDepth ? 0 : stage + 1;
  }
  a.finish();

  auto& result =
      add_warps<kKeyDim, kValueDim, kWarps>(a, b.group, warp, g, t, smem, warp_most, warp_total);
  const auto cluster = cooperative_groups::this_cluster();
  cluster.sync();
  merge_splits<kValueDim>(p, b, &result, static_cast<int>(blockDim.x));
  cluster.sync();  // the others read this block's result
}

template <int kKeyDim, int kValueDim, int kWarps, int kDepth>
cudaError_t LaunchWarps(const AttentionParams& p, const RopeParams& r, cudaStream_t stream) {
  constexpr int kRing = kWarps * Stage<kKeyDim, kValueDim, kDepth>::kWarpBytes;
  constexpr int kResult = kSumBytes<kValueDim, kWarps> + static_cast<int>(sizeof(RunResult<kValueDim>));
  constexpr int kSmem = kRing > kResult ? kRing : kResult;
  const auto kernel = attention_decode<kKeyDim, kValueDim, kWarps, kDepth>;
  static const cudaError_t configured[] = {
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSmem),
      cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1)};
  for (const cudaError_t e : configured) {
    if (e != cudaSuccess) return e;
  }
  return LaunchCluster(kernel, dim3(p.splits, p.kv_heads, p.tokens), dim3(kWarps * 32), p.splits, kSmem, stream, p, r);
}

// Two blocks fit an SM in each case: long runs want warps, short ones deep rings.
cudaError_t LaunchShape(const AttentionParams& p, const RopeParams& r, cudaStream_t stream) {
  if (p.head_dim != 128) return LaunchWarps<192, 128, 4, 2>(p, r, stream);
  return p.splits <= 2 ? LaunchWarps<128, 128, 6, 2>(p, r, stream) : LaunchWarps<128, 128, 4, 3>(p, r, stream);
}

}  // namespace

bool HasFastAttention(int heads, int kv_heads, int head_dim, int v_head_dim) {
  return heads / kv_heads <= 16 && v_head_dim == 128 && (head_dim == 128 || head_dim == 192);
}

// By measurement: short runs and an FP8 cache.
bool StreamsAttention(const AttentionParams& p) {
  return p.k.element_bytes == 1 || (p.head_dim == 128 && p.heads / p.kv_heads <= 8 && p.tokens > 1 && p.tokens <= 8);
}

cudaError_t LaunchAttentionDecode(const AttentionParams& p, const RopeParams& r, cudaStream_t stream) {
  if (StreamsAttention(p)) return LaunchAttentionStream(p, r, stream);
  return LaunchShape(p, r, stream);
}

}  // namespace minimo::cuda
