// One token a sequence: a block takes one KV head of one token and one of `splits` runs of the context; its four warps
// take tiles of 16 keys in turn, each with a ring of two of its own. The query heads of the group are the rows of the
// mma. Past keys are requested before wait_previous_kernel: only the newest tile depends on this step. The last block
// of a token and head adds the splits up, in order.
#include "cuda/kernels/attention.cuh"
#include "cuda/kernels/attention_tile.cuh"
#include "cuda/kernels/kv_address.cuh"

namespace minimo::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kKeys = 16;  // a tile
constexpr float kLog2E = 1.4426950408889634f;

template <int kKeyDim, int kValueDim>
struct Stage {
  using Tile = AttentionTile<kKeyDim, kValueDim>;
  static constexpr int kBytes = kKeys * (Tile::kKeyRow + Tile::kValueRow);
};

// Requests 16 keys and values from `first` on; rows at or beyond `end` become zeros.
template <int kKeyDim, int kValueDim>
__device__ __forceinline__ void request_tile(const AttentionParams& p, uint8_t* stage, int table, int ring, int kv_head,
                                             int first, int end) {
  using Tile = AttentionTile<kKeyDim, kValueDim>;
  const int lane = threadIdx.x % 32;
  const int mine = min(first + lane % kKeys, end - 1);
  const int64_t key_at = cache_row(p.k, table, p.meta.block_tables, ring, mine, kv_head);
  const int64_t value_at = cache_row(p.v, table, p.meta.block_tables, ring, mine, kv_head);
  constexpr int kKeyPieces = kKeyDim / 8, kValuePieces = kValueDim / 8;
#pragma unroll
  for (int i = 0; i < kKeys * kKeyPieces / 32; ++i) {
    const int at = i * 32 + lane, row = at / kKeyPieces, piece = at % kKeyPieces;
    const bf16* from = static_cast<const bf16*>(p.k.data) + __shfl_sync(0xffffffffu, key_at, row) + 8 * piece;
    copy_async16_or_zero(stage + row * Tile::kKeyRow + 16 * piece, from, first + row < end);
  }
  uint8_t* values = stage + kKeys * Tile::kKeyRow;
#pragma unroll
  for (int i = 0; i < kKeys * kValuePieces / 32; ++i) {
    const int at = i * 32 + lane, row = at / kValuePieces, piece = at % kValuePieces;
    const bf16* from = static_cast<const bf16*>(p.v.data) + __shfl_sync(0xffffffffu, value_at, row) + 8 * piece;
    copy_async16_or_zero(values + row * Tile::kValueRow + 16 * piece, from, first + row < end);
  }
}

// Adds the splits of one token and KV head and writes its heads.
template <int kValueDim>
__device__ void merge_splits(const AttentionParams& p, int token, int kv_head, int group, float (*factor)[16]) {
  const int64_t base = (int64_t{token} * p.kv_heads + kv_head) * p.splits;
  // 8 lanes a row: each takes every eighth split.
  const int row_of_lane = threadIdx.x / 8, lane8 = threadIdx.x % 8;
  if (row_of_lane < group) {
    const int head = kv_head * group + row_of_lane;
    constexpr int kEach = kMaxSplits / 8;
    float most[kEach], sum[kEach];
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const int s = lane8 + 8 * i;
      const int64_t at = (base + s) * 16 + row_of_lane;
      most[i] = s < p.splits ? load_l2(p.partial_max + at) : -INFINITY;
      sum[i] = s < p.splits ? load_l2(p.partial_sum + at) : 0.0f;
    }
    const float sink = p.sinks != nullptr ? __ldg(p.sinks + head) * kLog2E : -INFINITY;
    float top = sink;
#pragma unroll
    for (int i = 0; i < kEach; ++i) top = fmaxf(top, most[i]);
    const unsigned lanes = 0xffu << (threadIdx.x & 24);
#pragma unroll
    for (int offset = 4; offset > 0; offset >>= 1) top = fmaxf(top, __shfl_xor_sync(lanes, top, offset));
    float total = 0;
#pragma unroll
    for (int i = 0; i < kEach; ++i) most[i] = exp2f(most[i] - top), total += most[i] * sum[i];
#pragma unroll
    for (int offset = 4; offset > 0; offset >>= 1) total += __shfl_xor_sync(lanes, total, offset);
    total += exp2f(sink - top);
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      if (lane8 + 8 * i < p.splits) factor[lane8 + 8 * i][row_of_lane] = most[i] / total;
    }
  }
  __syncthreads();
  bf16* out = static_cast<bf16*>(p.out) + int64_t{token} * p.out_stride + kv_head * group * kValueDim;
  for (int i = threadIdx.x; i < group * kValueDim / 4; i += kWarps * 32) {
    const int row = i / (kValueDim / 4), c = i % (kValueDim / 4);
    float4 sum = {0, 0, 0, 0};
#pragma unroll 8
    for (int s = 0; s < p.splits; ++s) {
      const float4 v = load_l2(reinterpret_cast<const float4*>(p.partial + ((base + s) * 16 + row) * kValueDim) + c);
      const float f = factor[s][row];
      sum.x += f * v.x, sum.y += f * v.y, sum.z += f * v.z, sum.w += f * v.w;
    }
    reinterpret_cast<uint2*>(out)[i] = {pack_bf16(sum.x, sum.y), pack_bf16(sum.z, sum.w)};
  }
}

template <int kKeyDim, int kValueDim>
__global__ void __launch_bounds__(kWarps * 32) attention_decode(const AttentionParams p) {
  using Tile = AttentionTile<kKeyDim, kValueDim>;
  constexpr int kStageBytes = Stage<kKeyDim, kValueDim>::kBytes;
  extern __shared__ __align__(16) uint8_t smem[];
  __shared__ float warp_most[kWarps][16], warp_total[kWarps][16];
  __shared__ float factor[kMaxSplits][16];
  __shared__ bool last;
  const int split = blockIdx.x, kv_head = blockIdx.y, token = blockIdx.z;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const int group = p.heads / p.kv_heads;
  // The step's positions and tables were copied before its first kernel.
  const int position = load_l2(p.meta.position + token);
  const int begin = p.window > 0 ? max(0, position - p.window + 1) : 0, end = position + 1;
  const int table = p.k.ring ? 0 : load_l2(p.meta.block_table + token);
  const int ring = p.k.ring ? load_l2(p.meta.ring + token) : 0;
  const int tiles = (end - begin + kKeys - 1) / kKeys;
  const int first_tile = tiles * split / p.splits, last_tile = tiles * (split + 1) / p.splits;
  uint8_t* stages = smem + warp * 2 * kStageBytes;
  const auto request = [&](int tile, int stage) {
    request_tile<kKeyDim, kValueDim>(p, stages + stage * kStageBytes, table, ring, kv_head, begin + tile * kKeys, end);
  };
  const auto is_past = [&](int tile) { return begin + (tile + 1) * kKeys <= position; };

  const int tile0 = first_tile + warp, tile1 = tile0 + kWarps;
  if (tile0 < last_tile && is_past(tile0)) request(tile0, 0);
  if (tile1 < last_tile && is_past(tile1)) request(tile1, 1);
  copy_commit();
  allow_next_kernel();
  wait_previous_kernel();
  if (tile0 < last_tile && !is_past(tile0)) request(tile0, 0);
  copy_commit();
  if (tile1 < last_tile && !is_past(tile1)) request(tile1, 1);
  copy_commit();

  Tile a;
  a.clear();
  const bf16* q = static_cast<const bf16*>(p.q) + (int64_t{token} * p.heads + kv_head * group) * kKeyDim;
  a.load_query(g < group ? q + g * kKeyDim : nullptr, g + 8 < group ? q + (g + 8) * kKeyDim : nullptr);
  int stage = 0;
  for (int tile = tile0; tile < last_tile; tile += kWarps) {
    copy_wait<1>();
    __syncwarp();
    const uint8_t* keys = stages + stage * kStageBytes;
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
    if (tile + 2 * kWarps < last_tile) request(tile + 2 * kWarps, stage);
    copy_commit();
    stage ^= 1;
  }
  a.finish();

  // The warps' sums, in order, through shared memory.
  if (t == 0) {
    warp_most[warp][g] = a.most[0], warp_most[warp][g + 8] = a.most[1];
    warp_total[warp][g] = a.sum[0], warp_total[warp][g + 8] = a.sum[1];
  }
  copy_wait<0>();
  __syncthreads();
  float* sums = reinterpret_cast<float*>(smem);  // [warps][16][kValueDim]
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int row = g + 8 * r;
    float most = warp_most[0][row];
#pragma unroll
    for (int w = 1; w < kWarps; ++w) most = fmaxf(most, warp_most[w][row]);
    const float keep = most == -INFINITY ? 0.0f : exp2f(a.most[r] - most);
    float2* to = reinterpret_cast<float2*>(sums + (warp * 16 + row) * kValueDim + 2 * t);
#pragma unroll
    for (int i = 0; i < kValueDim / 8; ++i) to[4 * i] = {a.out[i][2 * r] * keep, a.out[i][2 * r + 1] * keep};
  }
  __syncthreads();
  const int64_t at = (int64_t{token} * p.kv_heads + kv_head) * p.splits + split;
  for (int i = threadIdx.x; i < group * kValueDim / 4; i += kWarps * 32) {
    float4 sum = {0, 0, 0, 0};
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      const float4 v = reinterpret_cast<const float4*>(sums + w * 16 * kValueDim)[i];
      sum.x += v.x, sum.y += v.y, sum.z += v.z, sum.w += v.w;
    }
    reinterpret_cast<float4*>(p.partial + at * 16 * kValueDim)[i] = sum;
  }
  if (threadIdx.x < group) {
    const int row = threadIdx.x;
    float most = warp_most[0][row], total = 0;
    for (int w = 1; w < kWarps; ++w) most = fmaxf(most, warp_most[w][row]);
    for (int w = 0; w < kWarps; ++w) {
      if (warp_most[w][row] != -INFINITY) total += exp2f(warp_most[w][row] - most) * warp_total[w][row];
    }
    p.partial_max[at * 16 + row] = most;
    p.partial_sum[at * 16 + row] = total;
  }
  __threadfence();
  __syncthreads();
  int* counter = p.counters + token * p.kv_heads + kv_head;
  if (threadIdx.x == 0) last = atomicAdd(counter, 1) == p.splits - 1;
  __syncthreads();
  if (!last) return;
  __threadfence();
  if (threadIdx.x == 0) *counter = 0;
  merge_splits<kValueDim>(p, token, kv_head, group, factor);
}

template <int kKeyDim, int kValueDim>
cudaError_t LaunchOne(const AttentionParams& p, cudaStream_t stream) {
  constexpr int kRing = kWarps * 2 * Stage<kKeyDim, kValueDim>::kBytes, kSums = kWarps * 16 * kValueDim * 4;
  constexpr int kSmem = kRing > kSums ? kRing : kSums;
  static const cudaError_t configured = cudaFuncSetAttribute(attention_decode<kKeyDim, kValueDim>,
                                                             cudaFuncAttributeMaxDynamicSharedMemorySize, kSmem);
  if (configured != cudaSuccess) return configured;
  return Launch(attention_decode<kKeyDim, kValueDim>, dim3(p.splits, p.kv_heads, p.tokens), dim3(kWarps * 32), kSmem,
                stream, p);
}

}  // namespace

bool HasFastAttention(int heads, int kv_heads, int head_dim, int v_head_dim) {
  return heads / kv_heads <= 16 && v_head_dim == 128 && (head_dim == 128 || head_dim == 192);
}

cudaError_t LaunchAttentionDecode(const AttentionParams& p, cudaStream_t stream) {
  return p.head_dim == 128 ? LaunchOne<128, 128>(p, stream) : LaunchOne<192, 128>(p, stream);
}

}  // namespace minimo::cuda
