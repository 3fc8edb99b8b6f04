// attention_decode for a step of one token, where what counts is the way from the QKV product to the output: a cluster
// of `splits` blocks takes a KV head, a block a run of the context in chunks of 128 keys, each of eight warps the
// scores of 16 of them and then an eighth of the value's columns for all 128. So a chunk costs two barriers and the
// warps have nothing to add up. A warp's next keys are requested when its scores are there, the next values when all
// have used these. Every block stores its outputs, scaled by a largest score of its own, into the shared memory of
// those that add the splits up, each a share of the outputs, which a barrier there counts. All orders are fixed.
#include "cuda/kernels/attention_rows.cuh"

namespace minimo::cuda {
namespace {

constexpr int kWarps = kDecodeWarps, kThreads = kDecodeThreads, kChunkKeys = kWarps * kKeys;
constexpr int kPowersRow = kChunkKeys * 2 + 16;  // bytes

// An address of this block's shared memory in block `rank` of the cluster.
__device__ __forceinline__ uint32_t address_in(int rank, const void* p) {
  uint32_t address;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(address) : "r"(smem_address(p)), "r"(rank));
  return address;
}
// A store there that `barrier`, there too, counts the bytes of: so no fence has to wait for stores to the cache. In a
// cluster of several blocks alone: elsewhere it is an illegal instruction.
__device__ __forceinline__ void store_in(uint32_t address, uint32_t barrier, float x, float y) {
  asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.v2.f32 [%0], {%1, %2}, [%3];" ::"r"(address),
               "f"(x), "f"(y), "r"(barrier)
               : "memory");
}
// By one thread, before the cluster's first barrier.
__device__ __forceinline__ void expect_parts(uint64_t* barrier, int bytes) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(smem_address(barrier)) : "memory");
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(smem_address(barrier)), "r"(bytes)
               : "memory");
}
__device__ __forceinline__ void wait_for_parts(const uint64_t* barrier) {
  asm volatile(
      "{\n.reg .pred done;\nagain:\n"
      "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 done, [%0], 0;\n"
      "@!done bra again;\n}\n" ::"r"(smem_address(barrier))
      : "memory");
}

__device__ __forceinline__ void load_matrices(uint32_t (&a)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(a[0]), "=r"(a[1]), "=r"(a[2]), "=r"(a[3])
               : "r"(address)
               : "memory");
}
__device__ __forceinline__ void load_transposed(uint32_t (&b)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(b[0]), "=r"(b[1]), "=r"(b[2]), "=r"(b[3])
               : "r"(address)
               : "memory");
}

// scores[n]: of keys 8n + 2t, 8n + 2t + 1 of a tile, of queries g (0, 1) and g + 8 (2, 3).
template <int kKeyDim, int kValueDim, typename Kv>
__device__ __forceinline__ void score(const AttentionTile<kKeyDim, kValueDim>& a, const uint8_t* keys,
                                      float (&scores)[2][4]) {
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
#pragma unroll
  for (int i = 0; i < 8; ++i) scores[i / 4][i % 4] = 0;
#pragma unroll
  for (int i = 0; i < kKeyDim / 32; ++i) {
    const uint32_t first[4] = {a.q[i][0].x, a.q[i][1].x, a.q[i][0].y, a.q[i][1].y};
    const uint32_t second[4] = {a.q[i][0].z, a.q[i][1].z, a.q[i][0].w, a.q[i][1].w};
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      const Kv* row = reinterpret_cast<const Kv*>(keys + (8 * n + g) * Stage<kKeyDim, kValueDim, Kv>::kKeyRow);
      const uint4 k = NewRows<kKeyDim, kValueDim, Kv>::eight(row, 4 * i + t);
      mma_bf16(scores[n], first, k.x, k.y);
      mma_bf16(scores[n], second, k.z, k.w);
    }
  }
}

// What the blocks of a cluster leave with each of them.
template <int kValueDim>
struct Parts {
  float2 weight[kMaxSplits][16];  // of each block, per query head: the largest score, the sum of the powers
  float4 out[16 * kValueDim / 4 + kMaxSplits];  // [blocks][this block's share]
};

// A block's share of the outputs in fours: i = rank + ranks * slot, of the first `ranks` blocks, a power of two.
template <int kValueDim>
struct Share {
  int splits, shift, slots;
  __device__ __forceinline__ Share(int group, int all, int log) : splits(all), shift(log) {
    slots = (group * kValueDim / 4 + (1 << shift) - 1) >> shift;
  }
  __device__ __forceinline__ int ranks() const { return 1 << shift; }
  __device__ __forceinline__ int bytes(int group) const { return splits * (slots * 16 + group * 8); }  // each gets
};

template <int kValueDim>
__device__ __forceinline__ void add_splits(const AttentionParams& p, const HeadRun& b,
                                           const Share<kValueDim>& share, int rank, const Parts<kValueDim>& parts) {
  constexpr int kAtOnce = 8;
  const int64_t out = int64_t{b.token} * p.out_stride + b.kv_head * b.group * kValueDim;
#pragma unroll 1
  for (int at = threadIdx.x; at < share.slots * 4; at += kThreads) {
    const int slot = at / 4, i = rank + (slot << share.shift), row = i / (kValueDim / 4);
    if (row >= b.group) continue;
    const float sink = p.sinks != nullptr ? __ldg(p.sinks + b.kv_head * b.group + row) * kLog2E : -INFINITY;
    float top = sink, sum = 0;
#pragma unroll 1
    for (int from = 0; from < share.splits; from += kAtOnce) {
#pragma unroll
      for (int s = 0; s < kAtOnce; ++s) top = fmaxf(top, parts.weight[min(from + s, share.splits - 1)][row].x);
    }
    float total = exp2f(sink - top);
#pragma unroll 1
    for (int from = 0; from < share.splits; from += kAtOnce) {
#pragma unroll
      for (int s = 0; s < kAtOnce; ++s) {
        const int split = min(from + s, share.splits - 1);
        const float2 weight = parts.weight[split][row];
        const float f = from + s < share.splits ? exp2f(weight.x - top) : 0.0f;
        total += f * weight.y;
        sum += f * reinterpret_cast<const float*>(parts.out + split * share.slots + slot)[at % 4];
      }
    }
    static_cast<float*>(p.out)[out + 4 * i + at % 4] = __fdividef(sum, total);
  }
}

template <int kKeyDim, int kValueDim, typename Kv>
__global__ void __launch_bounds__(kThreads, 2) attention_one(const __grid_constant__ AttentionParams p,
                                                          const __grid_constant__ RopeParams r, int shift) {
  using Tile = AttentionTile<kKeyDim, kValueDim>;
  using Rows = Stage<kKeyDim, kValueDim, Kv>;
  using New = NewRows<kKeyDim, kValueDim, Kv>;
  constexpr int kWarpColumns = kValueDim / kWarps;
  static_assert(kWarpColumns == 16);
  extern __shared__ __align__(16) uint8_t smem[];
  __shared__ __align__(16) New rows;
  __shared__ __align__(16) Parts<kValueDim> parts;
  __shared__ __align__(16) uint8_t powers[16 * kPowersRow];
  __shared__ float warp_most[kWarps][16];
  __shared__ __align__(8) uint64_t parts_there;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const int split = blockIdx.x, splits = gridDim.x;
  const Share<kValueDim> share(p.heads / p.kv_heads, splits, shift);
  const bool alone = splits == 1;
  if (threadIdx.x == 0 && !alone) expect_parts(&parts_there, share.bytes(p.heads / p.kv_heads));
  asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");  // the cluster's blocks are here
  // The step's positions and tables were copied before its first kernel.
  const HeadRun b = {static_cast<int>(blockIdx.z), static_cast<int>(blockIdx.y), p.heads / p.kv_heads,
                         load_l2(p.meta.position + blockIdx.z), split == splits - 1};
  const int begin = p.window > 0 ? max(0, b.position - p.window + 1) : 0, end = b.position + 1;
  const int table = p.k.ring ? 0 : load_l2(p.meta.block_table + b.token);
  const int ring = p.k.ring ? load_l2(p.meta.ring + b.token) : 0;
  const int tiles = (end - begin + kKeys - 1) / kKeys;
  const int first_tile = tiles * split / splits, last_tile = tiles * (split + 1) / splits;
  uint8_t* keys = smem + warp * Rows::kWarpBytes;
  uint8_t* values = keys + Rows::kValues;
  const auto request_keys = [&](int tile) {
    if (tile < last_tile) {
      request_rows<kKeyDim, Kv>(p.k, p.meta.block_tables, keys, Rows::kKeyRow, table, ring, b.kv_head,
                                begin + tile * kKeys, b.position);
    }
    copy_commit();
  };
  const auto request_values = [&](int tile) {
    if (tile < last_tile) {
      request_rows<kValueDim, Kv>(p.v, p.meta.block_tables, keys + Rows::kCopied, Rows::kCopiedRow, table, ring,
                                  b.kv_head, begin + tile * kKeys, b.position);
    }
    copy_commit();
  };
  request_keys(first_tile + warp);
  request_values(first_tile + warp);
  uint4* newest = newest_in_cache<kKeyDim, kValueDim, Kv>(r, b);
  typename New::Held held;
  rows.prepare(r, b, held);
  asm volatile("barrier.cluster.wait.aligned;" ::: "memory");
  wait_previous_kernel();
  rows.make(r, b, held);
  __syncthreads();
  rows.to_cache(newest);

  Tile a;
  a.load_query_shared(rows.query, New::kRow);
  float out[kWarpColumns / 8][4] = {}, total[4] = {}, most[2] = {-INFINITY, -INFINITY};  // rows g and g + 8
#pragma unroll 1
  for (int chunk = first_tile; chunk < last_tile; chunk += kWarps) {
    const int tile = chunk + warp, count = min(kWarps, last_tile - chunk);
    const int newest_row = tile == tiles - 1 ? b.position - begin - tile * kKeys : -1;
    float scores[2][4], best[2] = {-INFINITY, -INFINITY};
    copy_wait<1>();
    __syncwarp();
    if (tile < last_tile) {
      if (newest_row >= 0) rows.key_to_tile(keys, newest_row);
      __syncwarp();
      score<kKeyDim, kValueDim, Kv>(a, keys, scores);
    }
#pragma unroll
    for (int n = 0; n < 2; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int at = begin + tile * kKeys + 8 * n + 2 * t + i % 2;
        scores[n][i] = tile < last_tile && at < end ? scores[n][i] * (p.scale * kLog2E) : -INFINITY;
        best[i / 2] = fmaxf(best[i / 2], scores[n][i]);
      }
    }
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      best[h] = fmaxf(best[h], __shfl_xor_sync(0xffffffffu, best[h], 1));
      best[h] = fmaxf(best[h], __shfl_xor_sync(0xffffffffu, best[h], 2));
      if (t == 0) warp_most[warp][g + 8 * h] = best[h];
    }
    __syncthreads();
    request_keys(tile + kWarps);
    copy_wait<1>();
    __syncwarp();
    if (tile < last_tile) {
      if constexpr (Rows::kWiden) {
        widen_rows<kValueDim>(keys + Rows::kCopied, kKeys, values, Rows::kValueRow, lane, 32);
        __syncwarp();
      }
      if (newest_row >= 0) rows.value_to_tile(values, newest_row);
    }
    if constexpr (Rows::kWiden) request_values(tile + kWarps);
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int row = g + 8 * h;
      float base = most[h];
#pragma unroll
      for (int w = 0; w < kWarps; ++w) base = fmaxf(base, warp_most[w][row]);
      const float keep = exp2f(most[h] - base);  // a chunk has a key: base is a number
      most[h] = base;
#pragma unroll
      for (int i = 0; i < kWarpColumns / 8; ++i) out[i][2 * h] *= keep, out[i][2 * h + 1] *= keep;
      total[2 * h] *= keep;
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        *reinterpret_cast<uint32_t*>(powers + row * kPowersRow + (warp * kKeys + 8 * n + 2 * t) * 2) =
            pack_bf16(exp2f(scores[n][2 * h] - base), exp2f(scores[n][2 * h + 1] - base));
      }
    }
    __syncthreads();
    const uint32_t lane_powers = smem_address(powers + lane % 16 * kPowersRow + lane / 16 * 16);
    const uint32_t lane_values = smem_address(smem + Rows::kValues + lane % 16 * Rows::kValueRow +
                                              warp * kWarpColumns * 2 + lane / 16 * 16);
#pragma unroll
    for (int k = 0; k < kWarps; ++k) {
      if (k >= count) break;
      constexpr uint32_t kOnes = 0x3f803f80;
      uint32_t power[4], v[4];
      load_matrices(power, lane_powers + k * kKeys * 2);
      load_transposed(v, lane_values + k * Rows::kWarpBytes);
      mma_bf16(out[0], power, v[0], v[1]);
      mma_bf16(out[1], power, v[2], v[3]);
      mma_bf16(total, power, kOnes, kOnes);
    }
    if (chunk + kWarps >= last_tile) break;
    __syncthreads();  // all have read the values
    if constexpr (!Rows::kWiden) request_values(tile + kWarps);
  }

#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int row = g + 8 * h;
    if (row >= b.group) continue;
#pragma unroll
    for (int i = 0; i < kWarpColumns / 8; ++i) {
      const int column = warp * kWarpColumns + 8 * i + 2 * t, four = row * (kValueDim / 4) + column / 4;
      const float4* to = parts.out + split * share.slots + (four >> share.shift);
      const int rank = four & (share.ranks() - 1);
      if (alone) {
        reinterpret_cast<float2*>(parts.out + four)[column % 4 / 2] = {out[i][2 * h], out[i][2 * h + 1]};
        continue;
      }
      store_in(address_in(rank, to) + column % 4 * 4, address_in(rank, &parts_there), out[i][2 * h], out[i][2 * h + 1]);
    }
    if (alone && warp == 0 && t == 0) parts.weight[0][row] = {most[h], total[2 * h]};
#pragma unroll 1
    for (int to = warp * 4 + t; !alone && to < share.ranks(); to += kThreads / 8) {
      store_in(address_in(to, &parts.weight[split][row]), address_in(to, &parts_there), most[h], total[2 * h]);
    }
  }
  if (split >= share.ranks()) return;
  if (alone) {
    __syncthreads();
  } else {
    wait_for_parts(&parts_there);
  }
  add_splits(p, b, share, split, parts);
}

template <int kKeyDim, int kValueDim, typename Kv>
cudaError_t LaunchOne(const AttentionParams& p, const RopeParams& r, cudaStream_t stream) {
  constexpr int kSmem = kWarps * Stage<kKeyDim, kValueDim, Kv>::kWarpBytes;
  const auto kernel = attention_one<kKeyDim, kValueDim, Kv>;
  static const cudaError_t configured[] = {
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSmem),
      cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1)};
  for (const cudaError_t e : configured) {
    if (e != cudaSuccess) return e;
  }
  int shift = 0;
  while (2 << shift <= p.splits) ++shift;
  const dim3 grid(p.splits, p.kv_heads, p.tokens);
  return LaunchCluster(kernel, grid, dim3(kThreads), p.splits, kSmem, stream, p, r, shift);
}

}  // namespace

cudaError_t LaunchAttentionOne(const AttentionParams& p, const RopeParams& r, cudaStream_t stream) {
  if (p.k.element_bytes == 1) {
    return p.head_dim == 128 ? LaunchOne<128, 128, e4m3>(p, r, stream) : LaunchOne<192, 128, e4m3>(p, r, stream);
  }
  return p.head_dim == 128 ? LaunchOne<128, 128, bf16>(p, r, stream) : LaunchOne<192, 128, bf16>(p, r, stream);
}

}  // namespace minimo::cuda
