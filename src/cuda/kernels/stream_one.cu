// Matrix times one token, bound by memory: stream_linear for the case that decides the time of a single sequence.
// An item is one tile of 16 rows (of one chosen expert). A block takes every gridDim.x-th item; its warps split the
// columns, and each streams its share of item after item through a ring of its own in shared memory, so that copies
// stay in flight across items. x is staged once. One barrier an item hands the warps' sums to the warp that ends it.
// - Dense weights are requested before wait_previous_kernel, expert weights as soon as the choice is known.
// - The tokens' column of the mma is the first of 8; the tensor cores are idle otherwise.
// Shared memory: warps * stages * (2056, 1152 or 4096 bytes) + 256 bytes a unit of columns for x; 8 warps (four blocks
// an SM) where there are many items, 16 (two blocks) where there are few.
#include "cuda/kernels/common.cuh"
#include "cuda/kernels/dequant.cuh"
#include "cuda/kernels/fp8_unit.cuh"
#include "cuda/kernels/stream_linear.cuh"

namespace minimo::cuda {
namespace {

constexpr int Stages(TileFormat f) { return f == TileFormat::kBf16 ? 2 : f == TileFormat::kFp8 ? 3 : 4; }
constexpr int StageBytes(TileFormat f) {  // of one warp: weights, then scales (FP8 two floats, 4 bits one pair a lane)
  return UnitBytes(f) + (f == TileFormat::kFp8 ? 16 : f == TileFormat::kInt4 ? 128 : 0);
}

// Where in its stream of units a warp is.
struct Cursor {
  int item, unit;   // unit of all (kFusedDown: of all experts in turn)
  int slot, column; // kFusedDown: the expert and the unit within it
  const uint8_t* weights;
  const uint8_t* scales;
};

// The walk of one warp over its share [begin, end) of the units of every item of its block.
struct Walk {
  const LinearParams& p;
  int begin, end, unit_bytes, scale_bytes;
  int my_expert;  // lane k: the k-th chosen expert

  __device__ __forceinline__ void place(Cursor& c) const {  // pointers of c.item, c.slot, c.column
    const bool experts = p.mode == LinearMode::kExperts, fused = p.mode == LinearMode::kFusedDown;
    const int choice = experts ? c.item / p.shape.tiles : c.slot;
    const int tile = experts ? c.item - choice * p.shape.tiles : c.item;
    const int64_t expert = experts || fused ? __shfl_sync(0xffffffffu, my_expert, choice) : 0;
    const int64_t unit = int64_t{tile} * p.shape.units + c.column;
    c.weights = p.weights + expert * p.expert_weight_bytes + unit * unit_bytes;
    c.scales = p.scales + expert * p.expert_scale_bytes + unit * scale_bytes;
  }
  __device__ __forceinline__ void start(Cursor& c, int item) const {
    c.item = item;
    c.unit = begin;
    c.slot = p.mode == LinearMode::kFusedDown ? begin / p.shape.units : 0;
    c.column = begin - c.slot * p.shape.units;
  }
  __device__ __forceinline__ void advance(Cursor& c) const {
    ++c.unit, ++c.column;
    c.weights += unit_bytes, c.scales += scale_bytes;
    if (c.unit == end) {
      start(c, c.item + gridDim.x);
      place(c);
    } else if (c.column == p.shape.units) {
      c.column = 0, ++c.slot;
      place(c);
    }
  }
};

template <TileFormat kF, int kWarps>
struct Ring {
  uint8_t* base;  // of this warp
  __device__ __forceinline__ uint8_t* stage(int i) const { return base + i * StageBytes(kF); }
  __device__ __forceinline__ void request(int i, const Cursor& c, int group_cols) const {
    const int lane = threadIdx.x % 32;
    uint8_t* to = stage(i);
#pragma unroll
    for (int n = 0; n < UnitBytes(kF) / 512; ++n) {
      copy_async16(to + n * 512 + lane * 16, c.weights + n * 512 + lane_share<kF>());
    }
    if constexpr (kF == TileFormat::kFp8) {
      if (lane < 2) copy_async4(to + UnitBytes(kF) + lane * 4, c.scales + lane * 4);
    }
    if constexpr (kF == TileFormat::kInt4) {
      copy_async4(to + UnitBytes(kF) + lane * 4, c.scales + (lane % 4 * 32 / group_cols * 8 + lane / 4) * 4);
    }
  }
};

// sums of one unit: [even, odd step] so that no mma waits for the one before.
template <TileFormat kF>
__device__ __forceinline__ void multiply_unit(const uint8_t* stage, const uint8_t* x, float (&part)[2][4]) {
  const int lane = threadIdx.x % 32;
  const uint4* weights = reinterpret_cast<const uint4*>(stage) + lane;
  uint32_t scale_g = 0, scale_g8 = 0;
  if constexpr (kF == TileFormat::kInt4) {
    const uint32_t pair = *reinterpret_cast<const uint32_t*>(stage + UnitBytes(kF) + lane * 4);
    scale_g = __byte_perm(pair, pair, 0x1010);
    scale_g8 = __byte_perm(pair, pair, 0x3232);
  }
  Fp8Steps fp8 = {};
#pragma unroll
  for (int i = 0; i < 4; ++i) {  // 8 columns a lane, two steps
    uint4 b = {0, 0, 0, 0};
    if (lane < 4) b = *(reinterpret_cast<const uint4*>(x) + 4 * lane + i);
    uint32_t a[2][4];
    if constexpr (kF == TileFormat::kBf16) {
#pragma unroll
      for (int s = 0; s < 2; ++s) {
        const uint4 w = weights[(2 * i + s) * 32];
        a[s][0] = w.x, a[s][1] = w.y, a[s][2] = w.z, a[s][3] = w.w;
      }
    } else if constexpr (kF == TileFormat::kFp8) {
      if (i % 2 == 0) fp8 = {weights[i / 2 * 32], weights[(2 + i / 2) * 32]};
#pragma unroll
      for (int s = 0; s < 2; ++s) {
        expand_fp8(word_of(fp8.top, i % 2 * 2 + s), word_of(fp8.bottom, i % 2 * 2 + s), a[s]);
      }
    } else {
      const uint2 w = *(reinterpret_cast<const uint2*>(weights + i / 2 * 32) + i % 2);
      expand_int4(w.x, scale_g, scale_g8, a[0]);
      expand_int4(w.y, scale_g, scale_g8, a[1]);
    }
    mma_bf16(part[0], a[0], b.x, b.y);
    mma_bf16(part[1], a[1], b.z, b.w);
  }
}

// Lanes 0..15: row of the tile.
__device__ __forceinline__ void finish_item(const LinearParams& p, int choice, int tile, float y, float norm,
                                            float residual, float weight) {
  const int i = threadIdx.x % 32;
  const int row = p.epilogue == Epilogue::kSwiGlu ? tile * 8 + i : tile * kTileRows + i;
  float value = 0;
  if (p.epilogue == Epilogue::kSwiGlu) {
    const float up = __shfl_down_sync(0xffffffffu, y, 8) * norm, gate = y * norm;
    if (i < 8 && row < p.out_rows) {
      store(static_cast<bf16*>(p.out_x) + int64_t{choice} * p.out_x_stride + row, gate / (1.0f + __expf(-gate)) * up);
    }
    return;
  }
  if (i < 16 && row < p.out_rows) {
    if (p.epilogue == Epilogue::kStore) {
      value = y * norm;
      p.out[row] = value;
    } else {
      value = residual + y;
      p.residual[row] = value;
      if (p.next_norm != nullptr) store(static_cast<bf16*>(p.next_x) + row, value * weight);
    }
  }
  if (p.next_square_sums != nullptr) {
    const float squares = warp_sum(value * value);
    if (i == 0) p.next_square_sums[tile] = squares;
  }
}

template <TileFormat kF, int kWarps>
__global__ void __launch_bounds__(kWarps * 32, kWarps == 8 ? 4 : 2) stream_one(const LinearParams p) {
  constexpr int kStages = Stages(kF);
  extern __shared__ __align__(16) uint8_t smem[];
  __shared__ float red[2][kWarps][16];
  __shared__ float norm_factor;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const bool fused = p.mode == LinearMode::kFusedDown, experts = p.mode == LinearMode::kExperts;
  const int all_units = fused ? p.shape.units * p.top_k : p.shape.units;
  const int items = experts ? p.shape.tiles * p.top_k : p.shape.tiles;
  Walk walk{p, all_units * warp / kWarps, all_units * (warp + 1) / kWarps, UnitBytes(kF),
            UnitScaleBytes(kF, p.shape.group_cols), 0};
  const Ring<kF, kWarps> ring{smem + warp * kStages * StageBytes(kF)};
  uint8_t* staged = smem + kWarps * kStages * StageBytes(kF);
  const bool works = walk.begin < walk.end;
  Cursor ahead = {};
  const auto request = [&](int stage) {
    if (works && ahead.item < items) {
      ring.request(stage, ahead, p.shape.group_cols);
      walk.advance(ahead);
    }
    copy_commit();
  };
  const auto fill = [&] {
    if (works) {
      walk.start(ahead, blockIdx.x);
      walk.place(ahead);
    }
#pragma unroll
    for (int i = 0; i < kStages; ++i) request(i);
  };

  float slot_weight = 1;  // kFusedDown: lane k has that of choice k
  if (experts) {
    wait_previous_kernel();
    allow_next_kernel();
    if (lane < p.top_k) walk.my_expert = load_l2(p.active + lane);
    fill();
  } else {
    // kFusedDown reads the router's choice here: the gate/up kernel let us start only after the router had finished.
    if (fused && lane < p.top_k) walk.my_expert = load_l2(p.active + lane), slot_weight = load_l2(p.slot_weight + lane);
    fill();
    allow_next_kernel();
    wait_previous_kernel();
  }
  const int x_row = !experts && !fused && p.slot_token != nullptr ? load_l2(p.slot_token) : 0;
  const uint8_t* x = static_cast<const uint8_t*>(p.x) + int64_t{x_row} * p.x_stride * 2;
  for (int i = walk.begin * 16 + lane; i < walk.end * 16; i += 32) {
    const int slot = fused ? i / 16 / p.shape.units : 0;
    copy_async16(staged + i * 16, x + int64_t{slot} * p.x_stride * 2 + (i - slot * p.shape.units * 16) * 16);
  }
  copy_commit();
  if (warp == kWarps - 1) {
    float factor = 1;
    if (p.square_sums != nullptr) {
      float sum = 0;
#pragma unroll 8
      for (int i = lane; i < p.square_sum_count; i += 32) {
        sum += load_l2(p.square_sums + int64_t{x_row} * p.square_sum_count + i);
      }
      factor = rsqrtf(warp_sum(sum) / static_cast<float>(p.norm_cols) + p.norm_eps);
    }
    if (lane == 0) norm_factor = factor;
  }

  int stage = 0, turn = 0;
  bool staged_x = false;
  for (int item = blockIdx.x; item < items; item += gridDim.x, ++turn) {
    const int choice = experts ? item / p.shape.tiles : 0, tile = item - choice * p.shape.tiles;
    const bool ends = warp == turn % kWarps;
    float residual = 0, weight = 0;
    const int row = tile * kTileRows + lane;
    if (ends && p.epilogue == Epilogue::kResidual && lane < 16 && row < p.out_rows) {
      residual = __ldcg(p.residual + row);
      if (p.next_norm != nullptr) weight = __ldg(p.next_norm + row);
    }
    float sums[2] = {0, 0};  // of rows g and g + 8, in the lanes whose t is 0
    int slot = fused ? walk.begin / p.shape.units : 0, column = walk.begin - slot * p.shape.units;
    for (int u = walk.begin; u < walk.end; ++u) {
      if (staged_x) {
        copy_wait<kStages - 1>();
      } else {
        copy_wait<0>();  // x came last
        staged_x = true;
      }
      __syncwarp();
      const uint8_t* unit = ring.stage(stage);
      float part[2][4] = {};
      multiply_unit<kF>(unit, staged + u * 256, part);
      float2 scale = {1, 1};
      if constexpr (kF == TileFormat::kFp8) scale = *reinterpret_cast<const float2*>(unit + UnitBytes(kF));
      if (fused) {
        const float w = __shfl_sync(0xffffffffu, slot_weight, slot);
        scale.x *= w, scale.y *= w;
        if (++column == p.shape.units) column = 0, ++slot;
      }
      sums[0] += scale.x * (part[0][0] + part[1][0]);
      sums[1] += scale.y * (part[0][2] + part[1][2]);
      __syncwarp();
      request(stage);
      stage = stage + 1 == kStages ? 0 : stage + 1;
    }
    float(&to)[kWarps][16] = red[turn % 2];
    if (lane % 4 == 0) to[warp][lane / 4] = sums[0], to[warp][lane / 4 + 8] = sums[1];
    __syncthreads();
    if (!ends) continue;
    float y = 0;
    if (lane < 16) {
#pragma unroll
      for (int w = 0; w < kWarps; ++w) y += to[w][lane];
    }
    finish_item(p, choice, tile, y, norm_factor, residual, weight);
  }
}

template <TileFormat kF, int kWarps>
cudaError_t LaunchWarps(const LinearParams& p, int items, int staged, cudaStream_t stream) {
  constexpr int kRing = kWarps * Stages(kF) * StageBytes(kF);
  constexpr int kMost = (227 << 10) - 4096;
  constexpr int kMultiprocessors = 132;
  static const cudaError_t configured =
      cudaFuncSetAttribute(stream_one<kF, kWarps>, cudaFuncAttributeMaxDynamicSharedMemorySize, kMost);
  if (configured != cudaSuccess) return configured;
  const int smem = kRing + staged;
  const int by_memory = (227 << 10) / (smem + 2304), by_registers = kWarps == 8 ? 4 : 2;
  const int slots = kMultiprocessors * (by_memory < by_registers ? by_memory : by_registers);
  // Equal turns: 1536 items on 528 slots are 3 turns of 512 blocks.
  const int turns = (items + slots - 1) / slots, blocks = (items + turns - 1) / turns;
  return Launch(stream_one<kF, kWarps>, dim3(blocks), dim3(kWarps * 32), smem, stream, p);
}

template <TileFormat kF>
cudaError_t LaunchFormat(const LinearParams& p, cudaStream_t stream) {
  const int items = p.shape.tiles * (p.mode == LinearMode::kExperts ? p.top_k : 1);
  const int staged = p.shape.units * (p.mode == LinearMode::kFusedDown ? p.top_k : 1) * kUnitCols * 2;
  return items <= 264 ? LaunchWarps<kF, 16>(p, items, staged, stream) : LaunchWarps<kF, 8>(p, items, staged, stream);
}

}  // namespace

bool CanStreamOne(const LinearParams& p) {
  const int units = p.shape.units * (p.mode == LinearMode::kFusedDown ? p.top_k : 1);
  return p.tokens == 1 && p.epilogue != Epilogue::kSlot && units <= 256 && p.top_k <= 32;
}

cudaError_t LaunchStreamOne(const LinearParams& p, cudaStream_t stream) {
  switch (p.shape.format) {
    case TileFormat::kBf16: return LaunchFormat<TileFormat::kBf16>(p, stream);
    case TileFormat::kFp8: return LaunchFormat<TileFormat::kFp8>(p, stream);
    case TileFormat::kInt4: return LaunchFormat<TileFormat::kInt4>(p, stream);
    default: return cudaErrorInvalidValue;
  }
}

}  // namespace minimo::cuda
