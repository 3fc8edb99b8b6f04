// The chosen experts' products for a batch: 132 persistent blocks share the items (an expert's run of 16 or 32 rows) of
// the whole list evenly, wherever experts begin and end. A block's 16 warps work in groups: a group has an item, its
// warps every fourth or second unit of 128 columns of it, each through a ring of its own in shared memory that runs on
// across items, experts and barriers, so memory never waits; the warps' sums meet in shared memory, in a fixed order.
// - x of an expert's tokens comes to shared memory once a block and expert, as halves (expert_rows.cuh), while the last
//   expert's items run: a request waits some 3 us behind the weights on their way, so nothing may stand still for it.
// - An expert with more tokens than x has room for is streamed again for the rest: once more in the list, so that
//   blocks stay even.
// Shared memory: rings 16 warps * 2 or 3 stages * 2 KB, sums 8 KB for each 8 tokens and tile of an item, the rest x:
// twice 8 tokens of up to 4096 columns, or once up to 16. experts_lists.cuh has what there is to do, experts_walk.cuh
// its order, experts_multiply.cuh the arithmetic.
#include <algorithm>

#include "cuda/kernels/experts_lists.cuh"
#include "cuda/kernels/experts_multiply.cuh"
#include "cuda/kernels/experts_walk.cuh"
#include "cuda/kernels/stream_experts.cuh"

namespace minimo::cuda {
namespace {

using namespace experts;

template <int kSplit>
__device__ __forceinline__ void group_barrier(int group) {
  asm volatile("bar.sync %0, %1;" ::"r"(group + 1), "n"(kSplit * 32) : "memory");
}

// The group's sums of an item to the outputs.
template <int kN, TileFormat kF, int kSplit>
__device__ __forceinline__ void write_item(const Block<kF, kSplit>& b, int tile, int first, int count,
                                           const uint8_t* x) {
  using C = Config<kF>;
  const ExpertsParams& p = b.p;
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  for (int r = b.part; r < C::kTiles * kN; r += kSplit) {
    const int m = r / kN, n = r % kN;
    if (tile + m >= p.shape.tiles) break;
    float4 sum = b.red[r * 32 + lane];
    for (int w = 1; w < kSplit; ++w) {
      const float4 v = b.red[(w * C::kTiles * kN + r) * 32 + lane];
      sum.x += v.x, sum.y += v.y, sum.z += v.z, sum.w += v.w;
    }
    constexpr float kSecond = C::kInt4 ? 0.0625f : 1.0f;
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const int token = 8 * n + 2 * t + e;
      if (token >= count) break;
      const float f = *reinterpret_cast<const float*>(x + token * b.row.bytes() + b.row.factor());
      const float y0 = (e == 0 ? sum.x : sum.y) * f, y1 = (e == 0 ? sum.z : sum.w) * (f * kSecond);
      float* out = p.out + int64_t{first + token} * p.out_stride;
      if (p.gate_up) {
        const int row = (tile + m) * 8 + g;
        if (row < p.out_rows) out[row] = y0 / (1.0f + __expf(-y0)) * y1;
      } else {
        const int row = (tile + m) * kTileRows + g;
        if (row < p.out_rows) out[row] = y0;
        if (row + 8 < p.out_rows) out[row + 8] = y1;
      }
    }
  }
}

// At most `most` of the group's items of a segment, from `item` on. Returns how many.
template <int kStages, int kN, TileFormat kF, int kSplit>
__device__ __forceinline__ int run_items(const Block<kF, kSplit>& b, Cursor<kF, kSplit>& ahead, int& stage,
                                         const Segment& s, const uint8_t* x, int& item, int most) {
  using C = Config<kF>;
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, units = b.p.shape.units;
  uint32_t row[kN], start[kN][2];
#pragma unroll
  for (int n = 0; n < kN; ++n) {
    const auto address = [&](int token) {
      return smem_address(x) + min(8 * n + token, b.plan.most_tokens - 1) * b.row.bytes();
    };
    row[n] = address(g) + t * (C::kInt4 ? 32 : 16);
    start[n][0] = address(2 * t) + b.row.starts(), start[n][1] = address(2 * t + 1) + b.row.starts();
  }
  const int second_group = b.scale_bytes == 64 ? 32 : 0;
  int done = 0;
  for (; item < s.end && done < most; item += b.kGroups, ++done) {
    float sums[C::kTiles][kN][4] = {};
    for (int unit = b.part; unit < units; unit += kSplit) {
      copy_wait<kStages - 1>();
      __syncwarp();  // shares and scales were copied by other lanes
      const uint8_t* from = b.ring + stage * C::kStageBytes;
      uint32_t at[kN], start_at[kN][2];
#pragma unroll
      for (int n = 0; n < kN; ++n) {
        at[n] = row[n] + unit * (2 * kUnitCols);
        start_at[n][0] = start[n][0] + unit * 16, start_at[n][1] = start[n][1] + unit * 16;
      }
      if constexpr (C::kInt4) {
        multiply_int4<kN>(from, at, start_at, second_group, sums);
      } else {
        multiply_fp8<kN>(from, at, sums);
      }
      __syncwarp();
      ahead.request(b, stage);
      copy_commit();
      stage = stage + 1 == kStages ? 0 : stage + 1;
    }
    group_barrier<kSplit>(b.group);  // the last item's sums have been read
#pragma unroll
    for (int m = 0; m < C::kTiles; ++m) {
#pragma unroll
      for (int n = 0; n < kN; ++n) {
        const float(&v)[4] = sums[m][n];
        b.red[((b.part * C::kTiles + m) * kN + n) * 32 + lane] = {v[0], v[1], v[2], v[3]};
      }
    }
    group_barrier<kSplit>(b.group);
    write_item<kN>(b, (item - s.base) * C::kTiles, b.plan.first_slot(s), b.plan.count(s), x);
  }
  return done;
}

struct Layout {
  int most_tokens, buffers, stages;
  int x, raw, red;  // byte offsets
  int bytes;
};

ExpertRow RowOf(const ExpertsParams& p) { return {p.shape.units, p.shape.format == TileFormat::kInt4}; }

// Two buffers if they take 8 tokens, else as many tokens in one as go into it.
template <TileFormat kF, int kN>
Layout LayoutOf(const ExpertsParams& p) {
  using C = Config<kF>;
  Layout l;
  const int row = RowOf(p).bytes(), raw = p.gate_up ? 0 : p.shape.units * 4 * kUnitCols;
  l.buffers = kN == 1 ? 2 : 1;
  for (l.stages = kMostStages;; --l.stages) {
    l.red = kWarps * l.stages * C::kStageBytes;
    l.x = l.red + kWarps * C::kTiles * kN * 512;
    l.most_tokens = std::min(8 * kN, (kMostSmem - l.x) / (l.buffers * row + raw));
    if (l.most_tokens == 8 * kN || l.stages == 2) break;
  }
  l.raw = l.x + l.buffers * l.most_tokens * row;
  l.bytes = l.raw + l.most_tokens * raw;
  return l;
}

template <TileFormat kF>
bool FitsSharedMemory(const ExpertsParams& p) {
  return LayoutOf<kF, 1>(p).most_tokens >= 8 && LayoutOf<kF, 2>(p).most_tokens >= 8;
}

// kN: 8 tokens each; experts with no more than 8 do without the second.
template <TileFormat kF, int kStages, int kN, int kSplit>
__global__ void __launch_bounds__(kThreads, 1)
    stream_experts(const __grid_constant__ ExpertsParams p, const Layout layout) {
  using C = Config<kF>;
  extern __shared__ __align__(128) uint8_t smem[];
  __shared__ Lists lists;
  __shared__ uint64_t full[2], empty[2];
  const int warp = threadIdx.x / 32;

  const bool makes = p.chosen != nullptr;
  const TokenMasks masks(p, smem + layout.red);
  if (makes) masks.clear();
  if (threadIdx.x < 2) barrier_init(full + threadIdx.x, kWarps), barrier_init(empty + threadIdx.x, kWarps);
  // Gate/up comes after the router; down starts early, when gate/up has passed its wait and the router is through.
  if (p.gate_up) {
    wait_previous_kernel();
    allow_next_kernel();
  }
  HeldChoices choices;
  if (makes) {
    choices.load(p);
    make_lists(p, choices, masks, layout.most_tokens, lists);
  } else {
    read_lists(p, layout.most_tokens, lists);
  }
  const int items = (p.shape.tiles + C::kTiles - 1) / C::kTiles;
  const int64_t all = int64_t{lists.num_rounds} * items;
  Block<kF, kSplit> b = {p, {}, lists.active};
  b.plan = {static_cast<int>(all * blockIdx.x / gridDim.x), static_cast<int>(all * (blockIdx.x + 1) / gridDim.x), items,
            layout.most_tokens, lists.offsets, lists.rounds};
  b.group = warp / kSplit, b.part = warp % kSplit;
  b.scale_bytes = UnitScaleBytes(kF, p.shape.group_cols);
  b.ring = smem + warp * kStages * C::kStageBytes;
  b.red = reinterpret_cast<float4*>(smem + layout.red) + b.group * kSplit * C::kTiles * kN * 32;
  b.row = {p.shape.units, C::kInt4};
  b.x = smem + layout.x, b.raw = smem + layout.raw, b.buffers = layout.buffers;
  b.slots = lists.slots, b.full = full, b.empty = empty;
  Segment s = b.plan.at(b.plan.begin_item);
  b.first_slot = b.plan.done(s) ? 0 : b.plan.first_slot(s);
  // x stands in the memory's queue before most of the weights, or it would wait for them.
  Cursor<kF, kSplit> ahead;
  ahead.policy = weights_policy();
  ahead.begin(b);
  ahead.request(b, 0);
  if (makes) {
    place_choices(p, choices, masks, b.first_slot, lists);
  } else {
    read_slots(p, b.first_slot, lists);
  }
  __syncthreads();
  if (p.gate_up) request_x(b, s, 0);
  copy_commit();
#pragma unroll 1
  for (int i = 1; i < kStages; ++i) ahead.request(b, i), copy_commit();
  if (p.gate_up) {
    copy_wait<kStages - 1>();
  } else {
    allow_next_kernel();
    wait_previous_kernel();
    request_x(b, s, 0);
  }
  finish_x(b, s, 0, p.gate_up);
  int stage = 0;
  for (int index = 0; !b.plan.done(s); ++index) {
    Segment next = s;
    b.plan.next(next);
    const uint8_t* x = b.buffer(index);
    barrier_wait(full + index % layout.buffers, index / layout.buffers % 2);
    int item = b.mine(s.first);
    // With two buffers the next segment's x is requested behind the first item and has come two items later.
#pragma unroll 1
    for (int phase = layout.buffers == 2 ? 0 : 2; phase < 3; ++phase) {
      const int most = phase == 2 ? b.plan.items : phase + 1;
      int done;
      if (kN == 1 || b.plan.count(s) <= 8) {
        done = run_items<kStages, 1>(b, ahead, stage, s, x, item, most);
      } else {
        done = run_items<kStages, kN>(b, ahead, stage, s, x, item, most);
      }
      if (phase == 0) request_x(b, next, index + 1);
      if (phase == 1) finish_x(b, next, index + 1, done * ((p.shape.units - b.part + kSplit - 1) / kSplit) > kStages);
    }
    arrive_warp(empty + index % layout.buffers);
    if (layout.buffers == 1) {
      request_x(b, next, index + 1);
      finish_x(b, next, index + 1, false);
    }
    s = next;
  }
}

template <TileFormat kF, int kStages, int kN, int kSplit>
cudaError_t LaunchSplit(const ExpertsParams& p, const Layout& layout, cudaStream_t stream) {
  const auto kernel = stream_experts<kF, kStages, kN, kSplit>;
  static const cudaError_t configured =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kMostSmem);
  if (configured != cudaSuccess) return configured;
  return Launch(kernel, dim3(kBlocks), dim3(kThreads), layout.bytes, stream, p, layout);
}

// A warp should have six units of an item or more, as its end costs a group two barriers; but few tokens leave a block
// so few items that many groups would end unevenly.
template <TileFormat kF, int kStages, int kN>
cudaError_t LaunchStages(const ExpertsParams& p, const Layout& layout, cudaStream_t stream) {
  return p.shape.units >= 24 || p.tokens <= 16 ? LaunchSplit<kF, kStages, kN, 4>(p, layout, stream)
                                               : LaunchSplit<kF, kStages, kN, 2>(p, layout, stream);
}

template <TileFormat kF, int kN>
cudaError_t LaunchBlocks(const ExpertsParams& p, cudaStream_t stream) {
  const Layout layout = LayoutOf<kF, kN>(p);
  return layout.stages == kMostStages ? LaunchStages<kF, kMostStages, kN>(p, layout, stream)
                                      : LaunchStages<kF, 2, kN>(p, layout, stream);
}

template <TileFormat kF>
cudaError_t LaunchFormat(const ExpertsParams& p, cudaStream_t stream) {
  // Up to 128 tokens an expert with more than 8 is an exception (256 experts, 8 a token: 2 in 100 of them).
  return p.tokens > 128 ? LaunchBlocks<kF, 2>(p, stream) : LaunchBlocks<kF, 1>(p, stream);
}

}  // namespace

bool CanStreamExperts(const ExpertsParams& p) {
  if (p.experts > kMostExperts || p.experts + p.tokens * p.top_k / 8 > kMostRounds) return false;
  if (p.shape.format == TileFormat::kInt4) return p.shape.group_cols >= 64 && FitsSharedMemory<TileFormat::kInt4>(p);
  return p.shape.format == TileFormat::kFp8 && FitsSharedMemory<TileFormat::kFp8>(p);
}

bool CanListChoices(const ExpertsParams& p) {
  return p.tokens <= kMostListTokens && p.tokens * p.top_k <= kHeldChoices * kThreads;
}

cudaError_t LaunchStreamExperts(const ExpertsParams& p, cudaStream_t stream) {
  return p.shape.format == TileFormat::kInt4 ? LaunchFormat<TileFormat::kInt4>(p, stream)
                                             : LaunchFormat<TileFormat::kFp8>(p, stream);
}

}  // namespace minimo::cuda
