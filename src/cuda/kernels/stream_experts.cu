// The chosen experts' products for a batch: 132 persistent blocks share the (expert, tile of 16 rows) items of the whole
// list evenly, wherever experts begin and end. Within a block 16 warps share the pieces (256 columns of a tile) of a
// chunk of kChunkItems items evenly, each through a ring of its own in shared memory that runs on across chunks, experts
// and barriers, so memory never waits; at a chunk's end the warps' sums meet in shared memory, in a fixed order.
// - x of an expert's tokens is float32 and goes to shared memory once a block and expert as operands of mma:
//   4 bits: two 8-bit digits of a 16-bit fixed-point number a unit of 128 columns (stream_token.cu says how nibbles become
//     operands); a column of B is a token and a group of weights, zero elsewhere, so each accumulator has one scale.
//   FP8: halves, scaled by a power of two a unit and token.
// - More tokens an expert than kJ blocks of columns hold: its items are streamed again for the rest.
#include "cuda/kernels/common.cuh"
#include "cuda/kernels/stream_experts.cuh"
#include "cuda/kernels/stream_x.cuh"

namespace minimo::cuda {
namespace {

constexpr int kWarps = 16;
constexpr int kThreads = kWarps * 32;
constexpr int kBlocks = 132;
constexpr int kChunkItems = 12;
constexpr int kMostExperts = 256;
constexpr int kMostSmem = (227 << 10) - 3072;

constexpr int kPieceUnits = 2;  // what a warp takes at a time
constexpr int PieceBytes(TileFormat f) { return kPieceUnits * UnitBytes(f); }
constexpr int Stages(TileFormat f) { return f == TileFormat::kInt4 ? 3 : 2; }
// With the scales: 4 bits up to [4 groups][8][2] bf16 a unit, FP8 two floats.
constexpr int StageBytes(TileFormat f) { return PieceBytes(f) + (f == TileFormat::kInt4 ? kPieceUnits * 128 : 16); }
constexpr int kTokenX = 272;  // bytes of a token's unit: 256, and 16 so that tokens fall into other banks
constexpr int InfoBytes(TileFormat f) { return f == TileFormat::kInt4 ? 96 : 32; }
// Tokens in the 8 columns of B.
__host__ __device__ constexpr int TokensABlock(TileFormat f, int group_cols) {
  return f == TileFormat::kInt4 ? 8 * group_cols / kUnitCols : 8;
}

// The order of the block's work: active experts within its range of items, passes over their tokens, chunks of items.
struct Place {
  int chunk;               // first item
  int first, end;          // items of the expert in the block's range
  int pass, passes, entry; // entry of the active list
};

struct Order {
  int begin_item, end_item, tiles, tokens_a_pass;
  const int* offsets;  // shared

  __device__ __forceinline__ void expert(Place& at, int item) const {
    at.chunk = at.first = item;
    at.pass = 0;
    if (item >= end_item) return;
    at.entry = item / tiles;
    at.end = min(end_item, (at.entry + 1) * tiles);
    at.passes = (offsets[at.entry + 1] - offsets[at.entry] + tokens_a_pass - 1) / tokens_a_pass;
  }
  __device__ __forceinline__ bool done(const Place& at) const { return at.chunk >= end_item; }
  __device__ __forceinline__ void next(Place& at) const {
    at.chunk += kChunkItems;
    if (at.chunk < at.end) return;
    if (++at.pass < at.passes) {
      at.chunk = at.first;
    } else {
      expert(at, at.end);
    }
  }
};

struct Cursor {
  Place at;
  int piece, end, column;
  int tile;
  const uint8_t* weights;
  const uint8_t* scales;
};

template <TileFormat kF>
struct Walk {
  const ExpertsParams& p;
  Order order;
  const int* active;  // shared
  int scale_bytes;  // a piece
  int tile_pieces;

  __device__ __forceinline__ void place(Cursor& c) const {
    const int64_t expert = active[c.at.entry], at = int64_t{c.tile} * tile_pieces + c.column;
    const int lane = threadIdx.x % 32;
    c.weights = p.weights + expert * p.expert_weight_bytes + at * PieceBytes(kF) + lane * 16;
    c.scales = p.scales + expert * p.expert_scale_bytes + at * scale_bytes + lane * (kF == TileFormat::kInt4 ? 16 : 4);
  }
  __device__ __forceinline__ void enter(Cursor& c) const {  // the chunk at c.at, or the next with pieces for this warp
    const int warp = threadIdx.x / 32;
    for (; !order.done(c.at); order.next(c.at)) {
      const int pieces = min(kChunkItems, c.at.end - c.at.chunk) * tile_pieces;
      c.piece = pieces * warp / kWarps, c.end = pieces * (warp + 1) / kWarps;
      if (c.piece == c.end) continue;
      const int item = c.piece / tile_pieces;
      c.column = c.piece - item * tile_pieces;
      c.tile = c.at.chunk + item - c.at.entry * order.tiles;
      place(c);
      return;
    }
  }
  __device__ __forceinline__ void advance(Cursor& c) const {
    ++c.piece, ++c.column;
    c.weights += PieceBytes(kF), c.scales += scale_bytes;  // tiles of an expert follow one another
    if (c.piece == c.end) order.next(c.at), enter(c);
  }
  __device__ __forceinline__ void request(uint8_t* stage, const Cursor& c) const {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int n = 0; n < PieceBytes(kF) / 512; ++n) copy_async16(stage + n * 512 + lane * 16, c.weights + n * 512);
    if constexpr (kF == TileFormat::kInt4) {
      if (lane * 16 < scale_bytes) copy_async16(stage + PieceBytes(kF) + lane * 16, c.scales);
    } else {
      if (lane < 2 * kPieceUnits) copy_async4(stage + PieceBytes(kF) + lane * 4, c.scales);
    }
  }
};

// x of `count` slots from `first` on. [unit][block of columns]: tokens of kTokenX bytes; then the info of the blocks:
// 4 bits [4 lanes]{start of the high digits' two columns, of the low ones'}, then the scales of the 8 columns.
template <TileFormat kF>
__device__ __forceinline__ void stage_x(const ExpertsParams& p, uint8_t* x, int blocks, int first, int count) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int tokens_a_block = TokensABlock(kF, p.shape.group_cols), all = blocks * tokens_a_block;
  const int block_bytes = tokens_a_block * kTokenX + InfoBytes(kF);
#pragma unroll 2
  for (int i = warp; i < p.shape.units * all; i += kWarps) {
    const int unit = i / all, token = i - unit * all, block = token / tokens_a_block;
    const int in_block = token - block * tokens_a_block, column = unit * kUnitCols + lane * 4;
    float4 v = {0, 0, 0, 0};
    if (token < count && column < p.cols) {
      const int row = p.gate_up ? load_l2(p.slot_token + first + token) : first + token;
      v = load_l2(reinterpret_cast<const float4*>(p.input + int64_t{row} * p.input_stride + column));
      if (p.gate_up) {
        const float4 w = __ldg(reinterpret_cast<const float4*>(p.norm_weight + column));
        const float norm = rsqrtf(load_l2(p.token_squares + row) / static_cast<float>(p.cols) + p.norm_eps);
        v = {v.x * w.x * norm, v.y * w.y * norm, v.z * w.z * norm, v.w * w.w * norm};
      }
    }
    uint8_t* to = x + (unit * blocks + block) * block_bytes;
    uint8_t* info = to + tokens_a_block * kTokenX;
    if constexpr (kF == TileFormat::kInt4) {
      uint32_t high, low;
      const float scale = digits_of(v, high, low);
      reinterpret_cast<uint32_t*>(to + in_block * kTokenX)[lane] = high;
      reinterpret_cast<uint32_t*>(to + in_block * kTokenX + 128)[lane] = low;
      int sum_high, sum_low;
      group_sums(high, low, p.shape.group_cols, sum_high, sum_low);
      const int groups = kUnitCols / p.shape.group_cols;
      if (lane % (p.shape.group_cols / 4) == 0) {
        const int n = in_block * groups + lane / (p.shape.group_cols / 4);  // column of B
        uint32_t* start = reinterpret_cast<uint32_t*>(info + n / 2 * 16);
        start[n % 2] = kMagic - 8 * sum_high;
        start[2 + n % 2] = kMagic - 8 * sum_low;
        reinterpret_cast<float*>(info + 64)[n] = scale;
      }
    } else {
      float down;
      const float up = half_scale(most_bits_of(v), down);
      const __half2 first_two = __floats2half2_rn(v.x * up, v.y * up), last_two = __floats2half2_rn(v.z * up, v.w * up);
      __half2* half = reinterpret_cast<__half2*>(to + in_block * kTokenX) + 2 * lane;
      half[0] = first_two, half[1] = last_two;
      if (lane == 0) reinterpret_cast<float*>(info)[in_block] = down;
    }
  }
}

// sums[block][i]: row g (i = 0, 1) and g + 8 (2, 3), columns 2t and 2t + 1 of the block.
template <int kJ>
__device__ __forceinline__ void multiply_int4(const uint8_t* stage, const uint8_t* scales, uint32_t x, uint32_t x_stride, uint32_t info,
                                              uint32_t block_bytes, int blocks, int2 pair_at, uint32_t flip,
                                              float (&sums)[kJ][4]) {
  const int lane = threadIdx.x % 32, t = lane % 4;
  uint32_t a[4][4];
#pragma unroll
  for (int c = 0; c < 2; ++c) {
    const uint4 w = reinterpret_cast<const uint4*>(stage)[c * 32 + lane];
    operands_of(w.x, w.y, flip, a[2 * c]);
    operands_of(w.z, w.w, flip, a[2 * c + 1]);
  }
  const uint32_t* pairs = reinterpret_cast<const uint32_t*>(scales);
  const uint32_t pair0 = pairs[pair_at.x], pair1 = pairs[pair_at.y];
  const float scale[4] = {__uint_as_float(pair0 << 16), __uint_as_float(pair1 << 16),
                          __uint_as_float(pair0 & 0xffff0000) * 0.0625f, __uint_as_float(pair1 & 0xffff0000) * 0.0625f};
#pragma unroll
  for (int j = 0; j < kJ; ++j) {
    if (j >= blocks) break;
    const uint4 start = load_shared(info + j * block_bytes + t * 16);
    const float2 x_scale = load_shared_float2(info + j * block_bytes + 64 + t * 8);
    uint32_t high[4] = {start.x, start.y, kMagic, kMagic}, low[4] = {start.z, start.w, kMagic, kMagic};
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      const uint4 h = load_shared(x + j * x_stride + c * 16), l = load_shared(x + j * x_stride + 128 + c * 16);
      mma_int8(high, a[2 * c], h.x, h.y);
      mma_int8(low, a[2 * c], l.x, l.y);
      mma_int8(high, a[2 * c + 1], h.z, h.w);
      mma_int8(low, a[2 * c + 1], l.z, l.w);
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float magic = __uint_as_float(kMagic);
      const float sum = (__uint_as_float(high[i]) - magic) * 256.0f + (__uint_as_float(low[i]) - magic);
      sums[j][i] += sum * (scale[i] * (i % 2 == 0 ? x_scale.x : x_scale.y));
    }
  }
}

// A word of FP8 (bytes 0, 2 of row g, 1, 3 of row g + 8) as pairs of halves.
__device__ __forceinline__ void half_rows_of(uint32_t word, uint32_t& row_g, uint32_t& row_g8) {
  halves_of(__byte_perm(word, 0, 0x3120), row_g, row_g8);
}

template <int kJ>
__device__ __forceinline__ void multiply_fp8(const uint8_t* stage, const uint8_t* scales, uint32_t x, uint32_t info,
                                             uint32_t block_bytes, int blocks, float (&sums)[kJ][4]) {
  const int lane = threadIdx.x % 32, t = lane % 4;
  uint32_t a[8][4];
#pragma unroll
  for (int c = 0; c < 4; ++c) {
    const uint4 w = reinterpret_cast<const uint4*>(stage)[c * 32 + lane];
    half_rows_of(w.x, a[2 * c][0], a[2 * c][1]);
    half_rows_of(w.y, a[2 * c][2], a[2 * c][3]);
    half_rows_of(w.z, a[2 * c + 1][0], a[2 * c + 1][1]);
    half_rows_of(w.w, a[2 * c + 1][2], a[2 * c + 1][3]);
  }
  const float2 scale = *reinterpret_cast<const float2*>(scales);
#pragma unroll
  for (int j = 0; j < kJ; ++j) {
    if (j >= blocks) break;
    const float2 x_scale = load_shared_float2(info + j * block_bytes + t * 8);
    float d[2][4] = {};
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      const uint4 b = load_shared(x + j * block_bytes + c * 16);
      mma_half(d[0], a[2 * c], b.x, b.y);
      mma_half(d[1], a[2 * c + 1], b.z, b.w);
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      sums[j][i] += (d[0][i] + d[1][i]) * ((i < 2 ? scale.x : scale.y) * (i % 2 == 0 ? x_scale.x : x_scale.y));
    }
  }
}

template <TileFormat kF, int kJ>
__global__ void __launch_bounds__(kThreads, 1) stream_experts(const ExpertsParams p) {
  constexpr int kStages = Stages(kF);
  constexpr int kSums = kJ * 8 * 16;  // of one item: columns x rows
  extern __shared__ __align__(16) uint8_t smem[];
  __shared__ __align__(16) uint8_t zeros[256];
  __shared__ int active[kMostExperts], offsets[kMostExperts + 1];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const int units = p.shape.units, tiles = p.shape.tiles;
  const int tokens_a_block = TokensABlock(kF, p.shape.group_cols), columns_a_token = 8 / tokens_a_block;
  const int block_bytes = tokens_a_block * kTokenX + InfoBytes(kF);
  uint8_t* ring = smem + warp * kStages * StageBytes(kF);
  float* red = reinterpret_cast<float*>(smem + kWarps * kStages * StageBytes(kF));  // [warps][2 items][column][row]
  uint8_t* x = reinterpret_cast<uint8_t*>(red + kWarps * 2 * kSums);
  if (threadIdx.x < 64) reinterpret_cast<uint32_t*>(zeros)[threadIdx.x] = 0;

  // The lists: gate/up after the router; down starts early, when gate/up has passed its wait and the router is through.
  if (p.gate_up) {
    wait_previous_kernel();
    allow_next_kernel();
  }
  const int num_active = load_l2(p.num_active);
  if (threadIdx.x < num_active) active[threadIdx.x] = load_l2(p.active + threadIdx.x);
  if (threadIdx.x <= num_active) offsets[threadIdx.x] = load_l2(p.offsets + threadIdx.x);
  __syncthreads();
  const int64_t items = int64_t{num_active} * tiles;
  const int tile_pieces = units / kPieceUnits;
  Walk<kF> walk = {p, {}, active, kPieceUnits * UnitScaleBytes(kF, p.shape.group_cols), tile_pieces};
  walk.order = {static_cast<int>(items * blockIdx.x / gridDim.x), static_cast<int>(items * (blockIdx.x + 1) / gridDim.x),
                tiles, kJ * tokens_a_block, offsets};
  const Order& order = walk.order;
  Cursor ahead;
  order.expert(ahead.at, order.begin_item);
  walk.enter(ahead);
  const auto request = [&](int stage) {
    if (!order.done(ahead.at)) {
      walk.request(ring + stage * StageBytes(kF), ahead);
      walk.advance(ahead);
    }
    copy_commit();
  };
#pragma unroll 1
  for (int i = 0; i < kStages; ++i) request(i);
  if (!p.gate_up) {
    allow_next_kernel();
    wait_previous_kernel();
  }

  const uint32_t flip = NibbleFlip();
  // Of the scales (rows g and g + 8) of the groups that this lane's two columns belong to.
  const int2 pair_at = {2 * t % columns_a_token * 8 + g, (2 * t + 1) % columns_a_token * 8 + g};
  const int unit_scale_bytes = UnitScaleBytes(kF, p.shape.group_cols);
  Place at;
  int stage = 0;
  for (order.expert(at, order.begin_item); !order.done(at); order.next(at)) {
    const int first = offsets[at.entry] + at.pass * order.tokens_a_pass;
    const int count = min(order.tokens_a_pass, offsets[at.entry + 1] - first);
    const int blocks = (count + tokens_a_block - 1) / tokens_a_block;
    if (at.chunk == at.first) {
      stage_x<kF>(p, x, blocks, first, count);
      __syncthreads();
    }
    // Where this lane finds its share of B: zeros where its columns of weights belong to another group.
    uint32_t lane_x, unit_stride, block_stride;
    if constexpr (kF == TileFormat::kInt4) {
      const int groups = kUnitCols / p.shape.group_cols;
      const bool live = g % groups == 32 * t / p.shape.group_cols;
      lane_x = live ? smem_address(x) + g / groups * kTokenX + t * 32 : smem_address(zeros);
      unit_stride = live ? blocks * block_bytes : 0, block_stride = live ? block_bytes : 0;
    } else {
      lane_x = smem_address(x) + g * kTokenX + t * 64;
      unit_stride = blocks * block_bytes, block_stride = block_bytes;
    }
    const uint32_t info = smem_address(x) + tokens_a_block * kTokenX, info_stride = blocks * block_bytes;

    const int here = min(kChunkItems, at.end - at.chunk), pieces = here * tile_pieces;
    const int begin = pieces * warp / kWarps, end = pieces * (warp + 1) / kWarps;
    int column = begin % tile_pieces, slot = 0;
    float sums[kJ][4] = {};
    for (int piece = begin; piece < end; ++piece) {
      copy_wait<kStages - 1>();
      __syncwarp();  // the scales were copied by other lanes
      const uint8_t* from = ring + stage * StageBytes(kF);
#pragma unroll
      for (int u = 0; u < kPieceUnits; ++u) {
        const int unit = column * kPieceUnits + u;
        const uint8_t* weights = from + u * UnitBytes(kF);
        if constexpr (kF == TileFormat::kInt4) {
          multiply_int4<kJ>(weights, from + PieceBytes(kF) + u * unit_scale_bytes, lane_x + unit * unit_stride, block_stride,
                            info + unit * info_stride, block_bytes, blocks, pair_at, flip, sums);
        } else {
          multiply_fp8<kJ>(weights, from + PieceBytes(kF) + u * 8, lane_x + unit * unit_stride, info + unit * info_stride,
                           block_bytes, blocks, sums);
        }
      }
      __syncwarp();
      request(stage);
      stage = stage + 1 == kStages ? 0 : stage + 1;
      ++column;
      if (column != tile_pieces && piece + 1 != end) continue;
      float* to = red + (warp * 2 + slot) * kSums + g;
#pragma unroll
      for (int j = 0; j < kJ; ++j) {
        if (j >= blocks) break;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          to[(j * 8 + 2 * t + i % 2) * 16 + i / 2 * 8] = sums[j][i];
          sums[j][i] = 0;
        }
      }
      column = 0, ++slot;
    }
    __syncthreads();
    // Sums over the warps and over the columns of a token.
    const int first_tile = at.chunk - at.entry * tiles;
    for (int o = threadIdx.x; o < here * count * 16; o += kThreads) {
      const int item = o / 16 / count, token = o / 16 - item * count, i = o % 16;
      float y = 0;
      for (int w = item * tile_pieces * kWarps / pieces; w < kWarps; ++w) {
        const int from = pieces * w / kWarps, to = pieces * (w + 1) / kWarps;
        if (from >= (item + 1) * tile_pieces) break;
        if (from == to || to <= item * tile_pieces) continue;
        const float* part = red + (w * 2 + item - from / tile_pieces) * kSums + i;
        for (int n = 0; n < columns_a_token; ++n) y += part[(token * columns_a_token + n) * 16];
      }
      const int tile = first_tile + item, out_slot = first + token;
      if (p.gate_up) {
        const float up = __shfl_down_sync(0xffffu << (threadIdx.x & 16), y, 8);
        const int row = tile * 8 + i;
        if (i < 8 && row < p.out_rows) p.out[int64_t{out_slot} * p.out_stride + row] = y / (1.0f + __expf(-y)) * up;
      } else {
        const int row = tile * kTileRows + i;
        if (row < p.out_rows) p.out[int64_t{out_slot} * p.out_stride + row] = y * load_l2(p.slot_weight + out_slot);
      }
    }
    __syncthreads();
  }
}

template <TileFormat kF>
int SmemOf(const ExpertsParams& p, int blocks) {
  const int block_bytes = TokensABlock(kF, p.shape.group_cols) * kTokenX + InfoBytes(kF);
  return kWarps * Stages(kF) * StageBytes(kF) + kWarps * 2 * blocks * 8 * 16 * 4 + p.shape.units * blocks * block_bytes;
}

template <TileFormat kF, int kJ>
cudaError_t LaunchBlocks(const ExpertsParams& p, cudaStream_t stream) {
  static const cudaError_t configured =
      cudaFuncSetAttribute(stream_experts<kF, kJ>, cudaFuncAttributeMaxDynamicSharedMemorySize, kMostSmem);
  if (configured != cudaSuccess) return configured;
  return Launch(stream_experts<kF, kJ>, dim3(kBlocks), dim3(kThreads), SmemOf<kF>(p, kJ), stream, p);
}

template <TileFormat kF>
cudaError_t LaunchFormat(const ExpertsParams& p, cudaStream_t stream) {
  // Most experts should need one pass: twice the tokens that an expert has on average.
  const int tokens_a_block = TokensABlock(kF, p.shape.group_cols);
  const int wanted = (p.tokens / 16 + tokens_a_block) / tokens_a_block;
  if (wanted > 2 && SmemOf<kF>(p, 4) <= kMostSmem) return LaunchBlocks<kF, 4>(p, stream);
  if (wanted > 1 && SmemOf<kF>(p, 2) <= kMostSmem) return LaunchBlocks<kF, 2>(p, stream);
  return LaunchBlocks<kF, 1>(p, stream);
}

}  // namespace

bool CanStreamExperts(const ExpertsParams& p) {
  if (p.experts > kMostExperts || p.shape.units % kPieceUnits != 0) return false;
  if (p.shape.format == TileFormat::kInt4) return SmemOf<TileFormat::kInt4>(p, 1) <= kMostSmem;
  if (p.shape.format == TileFormat::kFp8) return SmemOf<TileFormat::kFp8>(p, 1) <= kMostSmem;
  return false;
}

cudaError_t LaunchStreamExperts(const ExpertsParams& p, cudaStream_t stream) {
  return p.shape.format == TileFormat::kInt4 ? LaunchFormat<TileFormat::kInt4>(p, stream)
                                             : LaunchFormat<TileFormat::kFp8>(p, stream);
}

}  // namespace minimo::cuda
