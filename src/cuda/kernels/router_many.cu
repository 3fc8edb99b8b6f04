// Router scores and choices of many tokens, then their order by expert. Every factor is the sum of two bf16 numbers,
// and three of the four products are taken (the fourth is 2^-18 of the first): near enough to float32 where activations
// are e4m3.
//
// A cluster takes 128 tokens x 256 experts, each of its blocks a run of columns; a warpgroup 64 tokens, which are
// wgmma's A operand in registers. The weights, with the norm's folded in, come by bulk copies in chunks of 64 columns:
// [first, rest][256 experts][128 bytes, swizzled], 16 columns in the order 0 1 4 5 8 9 12 13 2 3 6 7 10 11 14 15, so
// that a lane's four columns of x stand side by side. The blocks leave their sums in shared memory, each then adds and
// chooses for its share of the tokens.
#include <climits>

#include "cuda/kernels/choice_lists.cuh"
#include "cuda/kernels/choose.cuh"
#include "cuda/kernels/cluster.cuh"
#include "cuda/kernels/router.cuh"
#include "cuda/kernels/wgmma.cuh"
#include "cuda/kernels/wgmma_bf16.cuh"

namespace minimo::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;
constexpr int kColumns = 64, kSteps = kColumns / 16;
constexpr int kPart = kRouterExperts * 128, kChunk = 2 * kPart, kStages = 3;
constexpr int kPitch = kRouterExperts + 8;  // of the sums: rows 8 banks apart
constexpr int kShared = kStages * kChunk + 1024;
static_assert(kRouterTokens * kPitch * 4 <= kStages * kChunk);

struct Halves {
  uint32_t first, rest;
};
__device__ __forceinline__ Halves split(float x, float y) {
  const uint32_t first = pack_bf16(x, y);
  return {first, pack_bf16(x - __uint_as_float(first << 16), y - __uint_as_float(first & 0xffff0000))};
}

struct Barriers {
  uint64_t full[kStages], empty[kStages];
};

// Half a chunk of this warp's x as wgmma's A operand.
struct Operand {
  uint32_t first[kSteps / 2][4], rest[kSteps / 2][4];
};

// This warp's 16 tokens times the chunks [begin, end). While one half's products run the next one's operand is made,
// and the two after it are on their way.
__device__ __forceinline__ void multiply(const RouterParams& p, int first_token, int begin, int end,
                                         const uint8_t* stages, Barriers& barriers, float (&sums)[2][64]) {
  constexpr int kHalf = kSteps / 2;
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const int token = first_token + threadIdx.x / 32 * 16 + g;
  float4 x[2][kHalf][2];
  const auto load = [&](int half, float4 (&to)[kHalf][2]) {
#pragma unroll
    for (int s = 0; s < kHalf; ++s) {
      const int column = half * (kColumns / 2) + 16 * s + 4 * t;
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const bool inside = token + 8 * r < p.tokens && column < p.hidden;
        const float* from = p.residual + int64_t{token + 8 * r} * p.hidden + column;
        to[s][r] = inside ? load_l2(reinterpret_cast<const float4*>(from)) : float4{0, 0, 0, 0};
      }
    }
  };
  Operand a[2];
  const auto convert = [&](const float4 (&from)[kHalf][2], Operand& to) {
#pragma unroll
    for (int s = 0; s < kHalf; ++s) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const Halves low = split(from[s][r].x, from[s][r].y), high = split(from[s][r].z, from[s][r].w);
        to.first[s][r] = low.first, to.first[s][r + 2] = high.first;
        to.rest[s][r] = low.rest, to.rest[s][r + 2] = high.rest;
      }
    }
  };
  load(2 * begin, x[0]);
  load(2 * begin + 1, x[1]);
  convert(x[0], a[0]);
  load(2 * begin + 2, x[0]);
#pragma unroll 1
  for (int c = begin; c < end; ++c) {
    const int stage = (c - begin) % kStages;
    barrier_wait(&barriers.full[stage], (c - begin) / kStages & 1);
    const uint64_t operand = swizzled_operand(smem_address(stages + stage * kChunk));
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      wgmma_fence();
#pragma unroll
      for (int s = 0; s < kHalf; ++s) {
#pragma unroll
        for (int n = 0; n < 2; ++n) {
          const uint64_t here = operand + 2 * (half * kHalf + s) + n * (kPart / 2 / 16);
          wgmma_bf16<128>(sums[n], a[half].first[s], here, true);
          wgmma_bf16<128>(sums[n], a[half].first[s], here + kPart / 16, true);
          wgmma_bf16<128>(sums[n], a[half].rest[s], here, true);
        }
      }
      wgmma_commit();
      asm volatile("wgmma.wait_group.sync.aligned 1;" ::: "memory");  // the half before is done
      if (half == 0 && c > begin) {
        const int before = (stage + kStages - 1) % kStages;
        if (lane == 0) barrier_arrive(&barriers.empty[before]);
        if (threadIdx.x == 0 && c + kStages - 1 < end) {
          barrier_wait(&barriers.empty[before], (c - 1 - begin) / kStages & 1);
          barrier_expect(&barriers.full[before], kChunk);
          bulk_copy(const_cast<uint8_t*>(stages) + before * kChunk, p.split_weights + int64_t{c + kStages - 1} * kChunk,
                    kChunk, &barriers.full[before]);
        }
        __syncwarp();
      }
      convert(x[half ^ 1], a[half ^ 1]);
      load(2 * c + half + 3, x[half ^ 1]);
    }
  }
  wgmma_wait<0>(sums[0]);
  wgmma_wait<0>(sums[1]);
}

__global__ void __launch_bounds__(kThreads, 1) router_many(const __grid_constant__ RouterParams p, int cluster) {
  extern __shared__ uint8_t smem[];
  __shared__ Barriers barriers;
  __shared__ int counts[kRouterExperts];
  uint8_t* stages = swizzle_base(smem);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const int rank = cluster_rank(), first_token = blockIdx.x / cluster * kRouterTokens;
  const int chunks = (p.hidden + kColumns - 1) / kColumns;
  const int begin = chunks * rank / cluster, end = chunks * (rank + 1) / cluster;
  counts[threadIdx.x] = 0;
  if (threadIdx.x == 0) {
    for (int i = 0; i < kStages; ++i) {
      barrier_init(&barriers.full[i], 1);
      barrier_init(&barriers.empty[i], kWarps);
    }
    fence_async_reads();
    for (int c = begin; c < min(begin + kStages, end); ++c) {  // no earlier kernel writes weights
      uint64_t* full = &barriers.full[c - begin];
      barrier_expect(full, kChunk);
      bulk_copy(stages + (c - begin) * kChunk, p.split_weights + int64_t{c} * kChunk, kChunk, full);
    }
  }
  __syncthreads();
  allow_next_kernel();
  wait_previous_kernel();
  float sums[2][64];
#pragma unroll
  for (int i = 0; i < 128; ++i) sums[i / 64][i % 64] = 0;
  if (begin < end) multiply(p, first_token, begin, end, stages, barriers, sums);
  __syncthreads();
  float* partial = reinterpret_cast<float*>(stages);
#pragma unroll
  for (int n = 0; n < 2; ++n) {
#pragma unroll
    for (int j = 0; j < 16; ++j) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        *reinterpret_cast<float2*>(partial + (warp * 16 + g + 8 * r) * kPitch + n * 128 + 8 * j + 2 * t) = {
            sums[n][4 * j + 2 * r], sums[n][4 * j + 2 * r + 1]};
      }
    }
  }
  cluster_sync();
  const int each = (kRouterTokens + cluster - 1) / cluster;
  for (int i = warp; i < each; i += kWarps) {
    const int row = rank * each + i, token = first_token + row;
    if (row >= kRouterTokens || token >= p.tokens) break;
    float logit[kMostExpertsLane] = {};
    for (int c = 0; c < cluster; ++c) {
#pragma unroll
      for (int k = 0; k < kMostExpertsLane; ++k) logit[k] += load_peer(partial + row * kPitch + lane + 32 * k, c);
    }
    int my_expert;
    float my_weight;
    choose_token(p, token, logit, my_expert, my_weight);
    if (lane < p.top_k) atomicAdd(&counts[my_expert], 1);
  }
  __syncthreads();
  p.counts[blockIdx.x * kRouterExperts + threadIdx.x] = counts[threadIdx.x];
  cluster_sync();  // others may still read this block's sums
}

// A block orders the choices of 128 tokens, `groups_a_block` rows of counts; all of them give the experts' borders.
__global__ void __launch_bounds__(kRouterExperts) router_order(const RouterParams p, int groups, int groups_a_block) {
  __shared__ ListScratch<kRouterTokens> scratch;
  allow_next_kernel();
  wait_previous_kernel();
  const int first = blockIdx.x * kRouterTokens, count = min(kRouterTokens, p.tokens - first);
  int total = 0, before = 0;
#pragma unroll 16
  for (int i = 0; i < groups; ++i) {
    const int n = load_l2(p.counts + i * kRouterExperts + threadIdx.x);
    total += n;
    if (i < static_cast<int>(blockIdx.x) * groups_a_block) before += n;
  }
  mark_choices(p, first, count, scratch);
  start_lists(p, total, before, blockIdx.x == 0, scratch);
  place_choices(p, first, count, scratch);
}

__global__ void split_router(const float* weights, const float* norm, int experts, int hidden, uint8_t* to) {
  const int column = blockIdx.x * kColumns + threadIdx.x % kColumns;
  const int in_step = column % 16, at = in_step % 4 / 2 * 8 + in_step / 4 * 2 + in_step % 2;  // 0..15
  const int byte = column % kColumns / 16 * 32 + at * 2;
  for (int e = threadIdx.x / kColumns; e < kRouterExperts; e += blockDim.x / kColumns) {
    const float w = e < experts && column < hidden ? weights[int64_t{e} * hidden + column] * norm[column] : 0.0f;
    const bf16 first = __float2bfloat16(w), rest = __float2bfloat16(w - __bfloat162float(first));
    uint8_t* row = to + int64_t{blockIdx.x} * kChunk + e * 128 + ((byte / 16) ^ (e % 8)) * 16 + byte % 16;
    *reinterpret_cast<bf16*>(row) = first;
    *reinterpret_cast<bf16*>(row + kPart) = rest;
  }
}

// How many clusters of each size the device has room for at once; by groups of SMs, so fewer than its SMs divided.
constexpr int kMostCluster = 8;
struct Room {
  cudaError_t error;
  int clusters[kMostCluster + 1];
};
Room FindRoom() {
  Room room = {};
  room.error = cudaFuncSetAttribute(router_many, cudaFuncAttributeMaxDynamicSharedMemorySize, kShared);
  for (int size = 1; size <= kMostCluster && room.error == cudaSuccess; ++size) {
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(size);
    config.blockDim = dim3(kThreads);
    config.dynamicSmemBytes = kShared;
    cudaLaunchAttribute attribute = {};
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim.x = size;
    attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
    config.attrs = &attribute;
    config.numAttrs = 1;
    room.error = cudaOccupancyMaxActiveClusters(&room.clusters[size], router_many, &config);
  }
  return room;
}

// The size with which `tiles` are done soonest: turns of the device, each as long as a block's chunks and its ends,
// which are worth two (4 us a chunk, H200).
int BestCluster(const Room& room, int tiles, int chunks) {
  int best = 1, least = INT_MAX;
  for (int size = 1; size <= kMostCluster; ++size) {
    if (room.clusters[size] == 0 || tiles * (size - 1) > kMostExtraBlocks) continue;
    const int turns = (tiles + room.clusters[size] - 1) / room.clusters[size];
    const int cost = turns * ((chunks + size - 1) / size + 2);
    if (cost < least) least = cost, best = size;
  }
  return best;
}

}  // namespace

cudaError_t LaunchRouterMany(const RouterParams& p, cudaStream_t stream) {
  static const Room room = FindRoom();
  if (room.error != cudaSuccess) return room.error;
  const int tiles = (p.tokens + kRouterTokens - 1) / kRouterTokens;
  const int cluster = BestCluster(room, tiles, (p.hidden + kColumns - 1) / kColumns);
  const dim3 grid(tiles * cluster);
  if (cudaError_t e = LaunchCluster(router_many, grid, dim3(kThreads), cluster, kShared, stream, p, cluster)) return e;
  return Launch(router_order, dim3(tiles), dim3(kRouterExperts), 0, stream, p, tiles * cluster, cluster);
}

cudaError_t LaunchSplitRouter(const float* weights, const float* norm_weight, int experts, int hidden, uint8_t* to,
                              cudaStream_t stream) {
  split_router<<<(hidden + kColumns - 1) / kColumns, 256, 0, stream>>>(weights, norm_weight, experts, hidden, to);
  return cudaGetLastError();
}

}  // namespace minimo::cuda
