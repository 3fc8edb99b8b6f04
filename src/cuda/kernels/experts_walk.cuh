// The order of work within the batch's experts kernel (stream_experts.cu): which items and passes a block has, how a
// warp requests its weights ahead, how x of an expert's tokens comes to shared memory.
#pragma once

#include "cuda/kernels/common.cuh"
#include "cuda/kernels/expert_rows.cuh"
#include "cuda/kernels/stream_experts.cuh"
#include "cuda/kernels/stream_x.cuh"
#include "cuda/kernels/wgmma.cuh"

namespace minimo::cuda::experts {

inline constexpr int kWarps = 16;
inline constexpr int kThreads = kWarps * 32;
inline constexpr int kBlocks = 132;
inline constexpr int kMostExperts = 256;
inline constexpr int kMostSmem = (227 << 10) - 4608;
inline constexpr int kMostBlocks = 2;                // of 8 tokens, the columns of mma
inline constexpr int kMostTokens = 8 * kMostBlocks;  // a pass
inline constexpr int kMostStages = 3;                // of a warp's ring; 2 where x needs the room

template <TileFormat kF>
struct Config {
  static constexpr bool kInt4 = kF == TileFormat::kInt4;
  static constexpr int kTiles = kInt4 ? 2 : 1;  // an item; two share what a lane reads of x
  static constexpr int kScaleBytes = kInt4 ? 64 : 8;  // of a tile and unit, at most
  static constexpr int kStageBytes = kTiles * UnitBytes(kF) + (kInt4 ? kTiles * kScaleBytes : 16);
};

inline constexpr int kMostRounds = 512;  // passes of all experts over their tokens
// Of a block, known from its start: it has a part of at most kMostRounds / kBlocks + 2 rounds.
inline constexpr int kMostSlots = 128;
static_assert(kMostSlots >= (kMostRounds / kBlocks + 2) * kMostTokens);

// A run of a block's items that belong to one round: an expert and a pass over its tokens. base: the round's first
// item.
struct Segment {
  int first, end, base, entry, pass;
};

struct Plan {
  int begin_item, end_item, items;  // items: of a round
  int most_tokens;                  // a pass
  const int* offsets;               // shared
  const uint16_t* rounds;           // shared: entry of the active list + 256 * pass

  __device__ __forceinline__ Segment at(int item) const {
    if (item >= end_item) return {item, end_item, item, 0, 0};
    const int round = item / items, what = rounds[round];
    return {item, min(end_item, (round + 1) * items), round * items, what % 256, what / 256};
  }
  __device__ __forceinline__ int first_slot(const Segment& s) const { return offsets[s.entry] + s.pass * most_tokens; }
  __device__ __forceinline__ int count(const Segment& s) const {
    return min(most_tokens, offsets[s.entry + 1] - first_slot(s));
  }
  __device__ __forceinline__ bool done(const Segment& s) const { return s.first >= end_item; }
  __device__ __forceinline__ void next(Segment& s) const { s = at(s.end); }
};

__device__ __forceinline__ void arrive_warp(uint64_t* barrier) {
  __syncwarp();
  if (threadIdx.x % 32 == 0) barrier_arrive(barrier);
}

// What all of a block's warps know. kSplit: warps of a group.
template <TileFormat kF, int kSplit>
struct Block {
  using C = Config<kF>;
  static constexpr int kGroups = kWarps / kSplit;
  const ExpertsParams& p;
  Plan plan;
  const int* active;  // shared
  int group, part;    // where this warp stands
  int scale_bytes;
  uint8_t* ring;   // this warp's
  float4* red;     // this group's [kSplit][tiles x blocks of tokens][32]
  ExpertRow row;   // of x
  uint8_t* x;      // [buffers][most_tokens] rows
  uint8_t* raw;    // down: [most_tokens][units x 128] floats on their way to rows
  int buffers, first_slot;
  const uint32_t* slots;  // [kMostSlots] from first_slot on: gate/up their tokens, down their weights as bits
  uint64_t *full, *empty;  // [buffers]

  __device__ __forceinline__ uint8_t* buffer(int index) const {
    return x + index % buffers * plan.most_tokens * row.bytes();
  }

  // The first item at or after `from` that falls to this group.
  __device__ __forceinline__ int mine(int from) const {
    return from + ((group - (from - plan.begin_item)) & (kGroups - 1));
  }
};

// A warp's way through its requests.
template <TileFormat kF, int kSplit>
struct Cursor {
  using C = Config<kF>;
  Segment s;
  int item, unit;
  const uint8_t* weights;
  const uint8_t* scales;
  uint64_t policy;

  // At item, or the next segment that has one for us.
  __device__ __forceinline__ void settle(const Block<kF, kSplit>& b) {
    while (item >= s.end) {
      b.plan.next(s);
      if (b.plan.done(s)) return;
      item = b.mine(s.first);
    }
    unit = b.part;
    const int lane = threadIdx.x % 32, tile = (item - s.base) * C::kTiles;
    const int64_t expert = b.active[s.entry], at = int64_t{tile} * b.p.shape.units + unit;
    weights = b.p.weights + expert * b.p.expert_weight_bytes + at * UnitBytes(kF) + lane * 16;
    scales = b.p.scales + expert * b.p.expert_scale_bytes + at * b.scale_bytes;
  }
  __device__ __forceinline__ void begin(const Block<kF, kSplit>& b) {
    s = b.plan.at(b.plan.begin_item);
    item = b.part < b.p.shape.units ? b.mine(s.first) : b.plan.end_item;
    if (b.part >= b.p.shape.units) s.first = b.plan.end_item;
    if (!b.plan.done(s)) settle(b);
  }
  __device__ __forceinline__ void request(const Block<kF, kSplit>& b, int stage) {
    if (b.plan.done(s)) return;
    const int lane = threadIdx.x % 32;
    uint8_t* to = b.ring + stage * C::kStageBytes;
    const int units = b.p.shape.units, tile_bytes = units * UnitBytes(kF);
#pragma unroll
    for (int m = 0; m < C::kTiles; ++m) {
#pragma unroll
      for (int c = 0; c < UnitBytes(kF) / 512; ++c) {
        const int swizzled = lane ^ (C::kInt4 ? 2 * c : c % 2 * 2);
        copy_weights16(to + m * UnitBytes(kF) + c * 512 + swizzled * 16, weights + m * tile_bytes + c * 512, policy);
      }
    }
    uint8_t* scales_to = to + C::kTiles * UnitBytes(kF);
    if constexpr (C::kInt4) {
      const int pieces = b.scale_bytes / 16, m = lane / pieces, piece = lane % pieces * 16;
      if (m < C::kTiles) {
        copy_weights16(scales_to + m * C::kScaleBytes + piece, scales + m * units * b.scale_bytes + piece, policy);
      }
    } else {
      if (lane < 2) copy_async4(scales_to + lane * 4, scales + lane * 4);
    }
    unit += kSplit;
    weights += kSplit * UnitBytes(kF), scales += kSplit * b.scale_bytes;
    if (unit >= units) {
      item += b.kGroups;
      settle(b);
    }
  }
};

// x of the block's segment `index` comes to buffer index % buffers; a warp brings at most one token's. request_x: its
// copies are part of the next group.
template <TileFormat kF, int kSplit>
__device__ __forceinline__ void request_x(const Block<kF, kSplit>& b, const Segment& s, int index) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  if (b.plan.done(s) || warp >= b.plan.count(s)) return;
  if (index >= b.buffers) barrier_wait(b.empty + index % b.buffers, (index / b.buffers - 1) % 2);
  const int slot = b.plan.first_slot(s) + warp, known = slot - b.first_slot;
  const uint8_t* from;
  uint8_t* to;
  int pieces;
  if (b.p.gate_up) {
    from = b.p.rows + int64_t{b.slots[known]} * b.row.bytes();
    to = b.buffer(index) + warp * b.row.bytes();
    pieces = b.row.bytes() / 16;
  } else {
    from = reinterpret_cast<const uint8_t*>(b.p.input + int64_t{slot} * b.p.input_stride);
    to = b.raw + warp * b.row.units * (4 * kUnitCols);
    pieces = b.p.cols / 4;
  }
  for (int i = lane; i < pieces; i += 32) copy_async16(to + 16 * i, from + 16 * i);
}

// After its copies: all warps may use it once each has arrived.
template <TileFormat kF, int kSplit>
__device__ __forceinline__ void finish_x(const Block<kF, kSplit>& b, const Segment& s, int index, bool landed) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  if (b.plan.done(s)) return;
  if (warp < b.plan.count(s)) {
    if (!landed) copy_commit(), copy_wait<0>();
    __syncwarp();
    if (!b.p.gate_up) {
      const float4* raw = reinterpret_cast<const float4*>(b.raw + warp * b.row.units * (4 * kUnitCols));
      uint8_t* row = b.buffer(index) + warp * b.row.bytes();
      const int fours = b.row.units * kUnitCols / 4, used = b.p.cols / 4;
      uint32_t most = 0;
#pragma unroll 4
      for (int i = lane; i < used; i += 32) most = max(most, magnitude_bits(raw[i]));
      float down;
      const float up = half_scale(__reduce_max_sync(0xffffffffu, most), down);
#pragma unroll 4
      for (int i = lane; i < fours; i += 32) {
        put_four(b.row, row, i, i < used ? raw[i] : float4{0, 0, 0, 0}, up);
      }
      if (lane == 0) {
        const int known = b.plan.first_slot(s) + warp - b.first_slot;
        *reinterpret_cast<float*>(row + b.row.factor()) = down * __uint_as_float(b.slots[known]);
      }
    }
  }
  arrive_warp(b.full + index % b.buffers);
}

}  // namespace minimo::cuda::experts
