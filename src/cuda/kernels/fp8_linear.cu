// A block takes 256 rows of W and up to 64 or 96 tokens: weights are wgmma's A operand, expanded in registers from the
// tiles of weight_tiles.h, tokens are B in shared memory. Few tokens an expert then cost little padding: N follows them
// in steps of 16.
//
// Many tokens: two warpgroups of 128 rows (two products of 64 rows each); few: four of 64 rows, whose latencies hide each
// other. While one group's products run, others promote theirs to float32 registers with their scales (every 64 of K for
// 4 bits, 128 for FP8). No product runs across the loop's end: the compiler would serialise them. One thread of a last
// warpgroup copies activations in bulk. Weights come by asynchronous copies of each warp for itself, a ring that runs on
// into the next tile; blocks are persistent.
//
// 4 bits: a code q (0..15) is, as an e4m3 byte, q * 2^-9 exactly. W x = s (q - 8) x = 512 s (q * 2^-9) x - 8 s sum(x):
// the last term, over all groups of a row, is a small product of the scales with the activations' offsets, which starts
// the sums (mma m16n8k16 over four units: 8 groups, the offsets in two parts of bf16).
//
// The lane that wgmma wants a weight in is not the one that weight_tiles.h gives it: a lane's columns of a unit lie in
// one group, a step of wgmma must stay within one. So lanes read each other's 16 bytes: for half h of a unit lane
// (g, t) reads the words 4 (t / 2) .. + 3 of lane (g, 2 h + t % 2). The second halves of the chunks lie 32 bytes further
// on, so that eight lanes hit distinct banks. Shared memory: 5 or 6 stages of 13 KB and 4 or 7 of 33 or 18 KB.
#include "cuda/kernels/dequant.cuh"
#include "cuda/kernels/fp8_linear.cuh"
#include "cuda/kernels/wgmma.cuh"

namespace minimo::cuda {
namespace {

constexpr int kMultiprocessors = 132;
constexpr int kFewTokens = 64;  // a tile of the narrow kind
constexpr int kStagePitch = (kFp8MostTokens * 132 + 1023) / 1024 * 1024;  // values, then scales

// Wide: 2 warpgroups with 2 products of 64 rows each; narrow: 4 with 1.
template <bool kWide>
struct Groups {
  static constexpr int kProducts = kWide ? 2 : 1;
  static constexpr int kWarps = kWide ? 8 : 16;  // that multiply
  static constexpr int kThreads = kWarps * 32 + 128;
  static __device__ __forceinline__ int tile(int product) {  // of the block's 16 tiles of 16 rows
    const int warp = threadIdx.x / 32;
    return (warp / 4 * kProducts + product) * 4 + warp % 4;
  }
};

template <TileFormat kF>
struct Ring {  // of weights: a slot holds 16 tiles of one unit and their scales
  static constexpr int kSlots = kF == TileFormat::kInt4 ? 7 : 4;
  static constexpr int kChunks = UnitBytes(kF) / 512;
  static constexpr int kHalf = kChunks / 2 * 512 + 32;  // where the second half of the chunks begins
  static constexpr int kScales = 2 * kHalf - 32;
  static constexpr int kTile = kScales + (kF == TileFormat::kInt4 ? 64 : 16);
  static constexpr int kBytes = 16 * kTile;
  static constexpr int kStages = kF == TileFormat::kInt4 ? 6 : 5;
  static constexpr int kShared = kStages * kStagePitch + kSlots * kBytes + 1024;
};

struct Barriers {
  uint64_t full[8], empty[8];
};

struct TileOf {
  int row_block, expert, first, begin, end;
};

// The list of (row block, token tile), row blocks fastest: concurrent blocks share tokens.
struct Schedule {
  const Fp8LinearParams& p;
  int row_blocks, width, count;

  __device__ explicit Schedule(const Fp8LinearParams& params, int dense_width) : p(params), width(dense_width) {
    row_blocks = (p.shape.tiles + 15) / 16;
    const int token_tiles = p.tiles != nullptr ? load_l2(p.num_tiles) : (p.tokens + width - 1) / width;
    count = row_blocks * token_tiles;
  }
  __device__ TileOf at(int i) const {
    const int q = i / row_blocks, row_block = i % row_blocks;
    if (p.tiles == nullptr) return {row_block, 0, q * width, q * width, min((q + 1) * width, p.tokens)};
    const int4 t = __ldcg(reinterpret_cast<const int4*>(p.tiles) + q);
    return {row_block, t.x, t.y, t.z, t.w};
  }
};

__device__ __forceinline__ int columns_of(const TileOf& t) { return (t.end - t.first + 15) / 16 * 16; }

// Requests weights unit by unit, tile after tile, for this warp alone.
template <TileFormat kF, bool kWide>
struct WeightCursor {
  static constexpr int kProducts = Groups<kWide>::kProducts;
  const Fp8LinearParams& p;
  const Schedule& schedule;
  int tile, unit = 0, slot = 0;
  const uint8_t* weights[kProducts];
  const uint8_t* scales[kProducts];
  uint8_t* ring;

  __device__ WeightCursor(const Fp8LinearParams& params, const Schedule& s, uint8_t* slots)
      : p(params), schedule(s), tile(blockIdx.x), ring(slots) {
    start();
  }
  __device__ __forceinline__ void start() {
    if (tile >= schedule.count) return;
    const TileOf t = schedule.at(tile);
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int m = 0; m < kProducts; ++m) {
      const int64_t at = int64_t{min(t.row_block * 16 + Groups<kWide>::tile(m), p.shape.tiles - 1)} * p.shape.units;
      weights[m] = p.weights + t.expert * p.expert_weight_bytes + at * UnitBytes(kF) + lane * 16;
      scales[m] = p.scales + t.expert * p.expert_scale_bytes + at * UnitScaleBytes(kF, p.shape.group_cols) + lane * 4;
    }
  }
  __device__ __forceinline__ void request() {
    using R = Ring<kF>;
    if (tile < schedule.count) {
      const int lane = threadIdx.x % 32, scale_bytes = UnitScaleBytes(kF, p.shape.group_cols);
#pragma unroll
      for (int m = 0; m < kProducts; ++m) {
        uint8_t* to = ring + slot * R::kBytes + Groups<kWide>::tile(m) * R::kTile;
#pragma unroll
        for (int c = 0; c < R::kChunks; ++c) {
          copy_async16(to + c * 512 + (c >= R::kChunks / 2 ? 32 : 0) + lane * 16, weights[m] + c * 512);
        }
        if (lane * 4 < scale_bytes) copy_async4(to + R::kScales + lane * 4, scales[m]);
        weights[m] += UnitBytes(kF);
        scales[m] += scale_bytes;
      }
      if (++unit == p.shape.units) {
        unit = 0;
        tile += gridDim.x;
        start();
      }
    }
    copy_commit();
    slot = slot + 1 == R::kSlots ? 0 : slot + 1;
  }
};

// A for 64 of K of one tile: [step of 32][register].
template <TileFormat kF>
__device__ __forceinline__ void load_weights(const uint8_t* tile, int half, uint32_t (&a)[2][4]) {
  using R = Ring<kF>;
  const int lane = threadIdx.x % 32, t = lane % 4;
  const uint8_t* from = tile + t / 2 * R::kHalf + (lane - t + 2 * half + t % 2) * 16;
  if constexpr (kF == TileFormat::kInt4) {
    const uint4 w = *reinterpret_cast<const uint4*>(from);
    const uint32_t words[4] = {w.x, w.y, w.z, w.w};
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      a[j / 2][j % 2 * 2] = words[j] & 0x0f0f0f0f;
      a[j / 2][j % 2 * 2 + 1] = (words[j] >> 4) & 0x0f0f0f0f;
    }
  } else {
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const uint4 w = *reinterpret_cast<const uint4*>(from + j * 512);
      a[j][0] = __byte_perm(w.x, w.y, 0x6240), a[j][1] = __byte_perm(w.x, w.y, 0x7351);
      a[j][2] = __byte_perm(w.z, w.w, 0x6240), a[j][3] = __byte_perm(w.z, w.w, 0x7351);
    }
  }
}

// The scales of rows g and g + 8 of a tile for a half of the unit.
template <TileFormat kF>
__device__ __forceinline__ float2 load_scales(const uint8_t* tile, int half, int group_cols) {
  const uint8_t* from = tile + Ring<kF>::kScales;
  if constexpr (kF == TileFormat::kFp8) return *reinterpret_cast<const float2*>(from);
  const int group = group_cols == 64 ? half : 0;
  const uint32_t pair = *reinterpret_cast<const uint32_t*>(from + group * 32 + threadIdx.x % 32 / 4 * 4);
  return {__uint_as_float(pair << 16) * 512.0f, __uint_as_float(pair & 0xffff0000) * 512.0f};
}

// sums += part * scale of the rows * scale of the token. `scales`: of the tile's first token.
template <int kN>
__device__ __forceinline__ void promote(const float (&part)[kN / 2], const uint8_t* scales, float2 scale,
                                        float (&sums)[kN / 2]) {
  const int t = threadIdx.x % 4;
#pragma unroll
  for (int j = 0; j < kN / 8; ++j) {
    const float2 x = *reinterpret_cast<const float2*>(scales + (4 * j + t) * 8);
    sums[4 * j] = fmaf(part[4 * j] * x.x, scale.x, sums[4 * j]);
    sums[4 * j + 1] = fmaf(part[4 * j + 1] * x.y, scale.x, sums[4 * j + 1]);
    sums[4 * j + 2] = fmaf(part[4 * j + 2] * x.x, scale.y, sums[4 * j + 2]);
    sums[4 * j + 3] = fmaf(part[4 * j + 3] * x.y, scale.y, sums[4 * j + 3]);
  }
}

// 4 bits: sums = the rows' scales times the tokens' offsets.
template <int kProducts, int kN, bool kWide>
__device__ __forceinline__ void add_offsets(const Fp8LinearParams& p, const TileOf& where,
                                            float (&sums)[kProducts][kN / 2]) {
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const int groups = kUnitCols / p.shape.group_cols;
  const uint32_t* scales[kProducts];
#pragma unroll
  for (int m = 0; m < kProducts; ++m) {
    const int tile = min(where.row_block * 16 + Groups<kWide>::tile(m), p.shape.tiles - 1);
    scales[m] = reinterpret_cast<const uint32_t*>(p.scales + where.expert * p.expert_scale_bytes) +
                int64_t{tile} * p.shape.units * groups * 8 + g;
  }
  const uint2* offsets = p.x.offsets + where.first + g;
#pragma unroll 2
  for (int u = t; u < p.shape.units + t; u += 4) {
    const bool live = u < p.shape.units;
    uint32_t a[kProducts][4] = {};
    if (live) {
#pragma unroll
      for (int m = 0; m < kProducts; ++m) {
        const uint32_t first = __ldg(scales[m] + u * groups * 8), second = __ldg(scales[m] + (u * groups + groups - 1) * 8);
        a[m][0] = a[m][2] = __byte_perm(first, second, 0x5410);
        a[m][1] = a[m][3] = __byte_perm(first, second, 0x7632);
      }
    }
#pragma unroll
    for (int j = 0; j < kN / 8; ++j) {
      const uint2 b = live ? __ldcg(offsets + int64_t{u} * p.x.rows + 8 * j) : uint2{0, 0};
#pragma unroll
      for (int m = 0; m < kProducts; ++m) {
        mma_bf16(*reinterpret_cast<float(*)[4]>(&sums[m][4 * j]), a[m], b.x, b.y);
      }
    }
  }
}

// Starts 64 of K; kFirst: of a new sum.
template <int kN, bool kFirst>
__device__ __forceinline__ void start_half(float (&d)[kN / 2], const uint32_t (&a)[2][4], uint64_t operand) {
  if constexpr (kFirst) {
    WgmmaE4m3<kN>::first(d, a[0], operand);
  } else {
    WgmmaE4m3<kN>::next(d, a[0], operand);
  }
  WgmmaE4m3<kN>::next(d, a[1], operand + 2);
}

// This lane's row g of tokens 2 t and 2 t + 1 becomes rows g, g + 1 of one token: 2 t for even g, 2 t + 1 for odd.
__device__ __forceinline__ uint32_t pair_rows(float first_token, float second_token) {
  const bool odd = threadIdx.x % 32 / 4 % 2 != 0;
  const float other = __shfl_xor_sync(0xffffffffu, odd ? first_token : second_token, 4);
  return odd ? pack_bf16(other, second_token) : pack_bf16(first_token, other);
}

// What the results are added to or multiplied with, read before anything is written: otherwise every read would wait for
// the one before.
template <Epilogue kE, int kN>
__device__ __forceinline__ void prepare(const Fp8LinearParams& p, const TileOf& where, int tile, float (&sums)[kN / 2]) {
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
#pragma unroll
  for (int i = 0; i < kN / 2; ++i) {
    const int token = where.first + i / 4 * 8 + 2 * t + i % 2, row = tile * kTileRows + g + i % 4 / 2 * 8;
    if (kE == Epilogue::kSlot && i % 4 < 2) {
      const float weight = load_l2(p.slot_weight + min(token, where.end - 1));
      sums[i] *= weight;
      sums[i + 2] *= weight;
    }
    if (kE == Epilogue::kResidual && token < where.end && row < p.out_rows) {
      sums[i] += load_l2(p.residual + int64_t{token} * p.out_rows + row);
    }
  }
}

// Rows of one tile (16) of one warp, tokens 8 j + 2 t and the next: v[0..3] as wgmma leaves them.
template <Epilogue kE>
__device__ __forceinline__ void emit(const Fp8LinearParams& p, const TileOf& where, int tile, int j,
                                     const float (&v)[4]) {
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const int token = where.first + 8 * j + 2 * t;
  if constexpr (kE == Epilogue::kSwiGlu || kE == Epilogue::kSlot) {
    const int mine = token + g % 2;
    const bool live = mine >= where.begin && mine < where.end;
    uint32_t* to = reinterpret_cast<uint32_t*>(static_cast<bf16*>(p.out_x) + int64_t{mine} * p.out_x_stride);
    if constexpr (kE == Epilogue::kSwiGlu) {
      const uint32_t pair = pair_rows(v[0] / (1.0f + __expf(-v[0])) * v[2], v[1] / (1.0f + __expf(-v[1])) * v[3]);
      const int row = tile * 8 + g / 2 * 2;
      if (live && row < p.out_rows) to[row / 2] = pair;
    } else {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const uint32_t pair = pair_rows(v[2 * half], v[2 * half + 1]);
        const int row = tile * kTileRows + 8 * half + g / 2 * 2;
        if (live && row < p.out_rows) to[row / 2] = pair;
      }
    }
  } else {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const bool live = token + i < where.end;
      float squares = 0;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = tile * kTileRows + 8 * half + g;
        const float value = v[2 * half + i];
        if (!live || row >= p.out_rows) continue;
        if (kE == Epilogue::kResidual) {
          p.residual[int64_t{token + i} * p.out_rows + row] = value;
          if (p.next_norm != nullptr) {
            store(static_cast<bf16*>(p.next_x) + int64_t{token + i} * p.next_x_stride + row, value * __ldg(p.next_norm + row));
          }
        } else {
          p.out[int64_t{token + i} * p.out_stride + row] = value;
        }
        squares += value * value;
      }
      if (p.next_square_sums != nullptr) {
#pragma unroll
        for (int offset = 4; offset < 32; offset <<= 1) squares += __shfl_xor_sync(0xffffffffu, squares, offset);
        if (g == 0 && live && tile < p.shape.tiles) p.next_square_sums[int64_t{token + i} * p.shape.tiles + tile] = squares;
      }
    }
  }
}

// Where a consumer stands in the rings.
struct Position {
  int stage = 0, phase = 0, slot = 0;
};

template <TileFormat kF, Epilogue kE, bool kWide, int kN>
__device__ __forceinline__ void run_tile(const Fp8LinearParams& p, const TileOf& where, WeightCursor<kF, kWide>& cursor,
                                         const uint8_t* stages, Barriers& barriers, Position& at) {
  using R = Ring<kF>;
  constexpr int kProducts = Groups<kWide>::kProducts;
  constexpr int kSteps = kF == TileFormat::kInt4 ? 2 : 1;  // promotions a unit
  const int lane = threadIdx.x % 32;
  float sums[kProducts][kN / 2] = {};
  if constexpr (kF == TileFormat::kInt4) add_offsets<kProducts, kN, kWide>(p, where, sums);
#pragma unroll 1
  for (int u = 0; u < p.shape.units; ++u) {
    copy_wait<R::kSlots - 2>();
    barrier_wait(&barriers.full[at.stage], at.phase);
    __syncwarp();
    const uint8_t* x = stages + at.stage * kStagePitch;
    const uint8_t* weights = cursor.ring + at.slot * R::kBytes;
    const uint64_t operand = swizzled_operand(smem_address(x));
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      float part[kProducts][kN / 2];
      float2 scale[kProducts];
#pragma unroll
      for (int m = 0; m < kProducts; ++m) {
        const uint8_t* tile = weights + Groups<kWide>::tile(m) * R::kTile;
        uint32_t a[2 / kSteps][2][4];
#pragma unroll
        for (int h = 0; h < 2 / kSteps; ++h) load_weights<kF>(tile, step + h, a[h]);
        scale[m] = load_scales<kF>(tile, step, p.shape.group_cols);
        wgmma_fence();
        start_half<kN, true>(part[m], a[0], operand + 4 * step);
        if constexpr (kSteps == 1) start_half<kN, false>(part[m], a[1], operand + 4);
        wgmma_commit();
      }
      if (step + 1 == kSteps) cursor.request();
      if constexpr (kProducts == 2) {
        wgmma_wait<1>(part[0]);
        promote<kN>(part[0], x + kN * 128, scale[0], sums[0]);
      }
      wgmma_wait<0>(part[kProducts - 1]);
      promote<kN>(part[kProducts - 1], x + kN * 128, scale[kProducts - 1], sums[kProducts - 1]);
    }
    __syncwarp();
    if (lane == 0) barrier_arrive(&barriers.empty[at.stage]);
    at.slot = at.slot + 1 == R::kSlots ? 0 : at.slot + 1;
    if (++at.stage == R::kStages) at.stage = 0, at.phase ^= 1;
  }
#pragma unroll
  for (int m = 0; m < kProducts; ++m) {
    const int tile = where.row_block * 16 + Groups<kWide>::tile(m);
    prepare<kE, kN>(p, where, tile, sums[m]);
#pragma unroll
    for (int j = 0; j < kN / 8; ++j) {
      emit<kE>(p, where, tile, j, {sums[m][4 * j], sums[m][4 * j + 1], sums[m][4 * j + 2], sums[m][4 * j + 3]});
    }
  }
}

// One thread: activations of every tile, unit after unit.
template <TileFormat kF>
__device__ __forceinline__ void copy_activations(const Fp8LinearParams& p, const Schedule& schedule, uint8_t* stages,
                                                 Barriers& barriers) {
  int stage = 0, phase = 1;
  for (int i = blockIdx.x; i < schedule.count; i += gridDim.x) {
    const TileOf t = schedule.at(i);
    const int columns = columns_of(t);
    for (int u = 0; u < p.shape.units; ++u) {
      barrier_wait(&barriers.empty[stage], phase);
      barrier_expect(&barriers.full[stage], columns * 132);
      const int64_t row = int64_t{u} * p.x.rows + t.first;
      uint8_t* to = stages + stage * kStagePitch;
      bulk_copy(to, p.x.values + row * 128, columns * 128, &barriers.full[stage]);
      bulk_copy(to + columns * 128, p.x.scales + row, columns * 4, &barriers.full[stage]);
      if (++stage == Ring<kF>::kStages) stage = 0, phase ^= 1;
    }
  }
}

template <TileFormat kF, Epilogue kE, bool kWide>
__global__ void __launch_bounds__(Groups<kWide>::kThreads, 1)
    fp8_linear(const __grid_constant__ Fp8LinearParams p, int dense_width) {
  using R = Ring<kF>;
  constexpr int kWarps = Groups<kWide>::kWarps;
  extern __shared__ uint8_t smem[];
  __shared__ Barriers barriers;
  uint8_t* stages = smem + (1024 - smem_address(smem) % 1024) % 1024;
  if (threadIdx.x == 0) {
    for (int i = 0; i < R::kStages; ++i) {
      barrier_init(&barriers.full[i], 1);
      barrier_init(&barriers.empty[i], kWarps);
    }
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
  }
  __syncthreads();
  if (threadIdx.x >= kWarps * 32) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 24;");
    wait_previous_kernel();
    const Schedule schedule(p, dense_width);
    if (threadIdx.x == kWarps * 32) copy_activations<kF>(p, schedule, stages, barriers);
  } else {
    if constexpr (kWide) {
      asm volatile("setmaxnreg.inc.sync.aligned.u32 240;");
    } else {
      asm volatile("setmaxnreg.inc.sync.aligned.u32 112;");
    }
    if (p.tiles != nullptr) wait_previous_kernel();  // else the weights are known: request them before
    const Schedule schedule(p, dense_width);
    WeightCursor<kF, kWide> cursor(p, schedule, stages + R::kStages * kStagePitch);
#pragma unroll 1
    for (int i = 0; i < R::kSlots - 1; ++i) cursor.request();
    allow_next_kernel();
    if (p.tiles == nullptr) wait_previous_kernel();
    Position at;
    for (int i = blockIdx.x; i < schedule.count; i += gridDim.x) {
      const TileOf t = schedule.at(i);
      switch (columns_of(t) / 16) {
        case 1: run_tile<kF, kE, kWide, 16>(p, t, cursor, stages, barriers, at); break;
        case 2: run_tile<kF, kE, kWide, 32>(p, t, cursor, stages, barriers, at); break;
        case 3: run_tile<kF, kE, kWide, 48>(p, t, cursor, stages, barriers, at); break;
        case 4: run_tile<kF, kE, kWide, 64>(p, t, cursor, stages, barriers, at); break;
        case 5: run_tile<kF, kE, kWide, kWide ? 80 : kFewTokens>(p, t, cursor, stages, barriers, at); break;
        default: run_tile<kF, kE, kWide, kWide ? 96 : kFewTokens>(p, t, cursor, stages, barriers, at); break;
      }
    }
  }
}

// Tokens a tile of a dense product: fewest rounds of the device, each as long as its tile is wide.
int DenseWidth(int tokens, int row_blocks) {
  int best = kFp8MostTokens;
  int64_t least = INT64_MAX;
  for (int width = kFp8MostTokens; width >= 32; width -= 16) {
    const int64_t tiles = int64_t{row_blocks} * ((tokens + width - 1) / width);
    const int64_t cost = (tiles + kMultiprocessors - 1) / kMultiprocessors * (width + 16);
    if (cost < least) least = cost, best = width;
  }
  return best;
}

template <TileFormat kF, Epilogue kE, bool kWide>
cudaError_t LaunchOne(const Fp8LinearParams& p, cudaStream_t stream) {
  constexpr int kShared = Ring<kF>::kShared;
  static const cudaError_t configured =
      cudaFuncSetAttribute(fp8_linear<kF, kE, kWide>, cudaFuncAttributeMaxDynamicSharedMemorySize, kShared);
  if (configured != cudaSuccess) return configured;
  return Launch(fp8_linear<kF, kE, kWide>, dim3(kMultiprocessors), dim3(Groups<kWide>::kThreads), kShared, stream, p,
                p.tiles != nullptr ? 0 : DenseWidth(p.tokens, (p.shape.tiles + 15) / 16));
}

template <TileFormat kF, Epilogue kE>
cudaError_t LaunchExperts(const Fp8LinearParams& p, cudaStream_t stream) {
  const bool few = p.tiles != nullptr && p.tile_tokens <= kFewTokens;
  return few ? LaunchOne<kF, kE, false>(p, stream) : LaunchOne<kF, kE, true>(p, stream);
}

}  // namespace

int Fp8TileTokens(int64_t slots, int experts) {
  return slots <= int64_t{experts} * 44 ? kFewTokens : kFp8MostTokens;  // most experts' fit one narrow tile
}

cudaError_t LaunchFp8Linear(const Fp8LinearParams& p, cudaStream_t stream) {
  const bool int4 = p.shape.format == TileFormat::kInt4;
  switch (p.epilogue) {
    case Epilogue::kStore: return LaunchOne<TileFormat::kFp8, Epilogue::kStore, true>(p, stream);
    case Epilogue::kResidual: return LaunchOne<TileFormat::kFp8, Epilogue::kResidual, true>(p, stream);
    case Epilogue::kSwiGlu:
      return int4 ? LaunchExperts<TileFormat::kInt4, Epilogue::kSwiGlu>(p, stream)
                  : LaunchExperts<TileFormat::kFp8, Epilogue::kSwiGlu>(p, stream);
    default:
      return int4 ? LaunchExperts<TileFormat::kInt4, Epilogue::kSlot>(p, stream)
                  : LaunchExperts<TileFormat::kFp8, Epilogue::kSlot>(p, stream);
  }
}

}  // namespace minimo::cuda
