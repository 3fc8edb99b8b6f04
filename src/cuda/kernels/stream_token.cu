// Matrix times one token, bound by memory; each of 132 blocks, one an SM, owns a run of items (a tile of 16 rows over
// one run of columns), its 16 warps an equal share of the run's pieces each, whatever the item, so no warp waits for
// another until the run (or a chunk of kChunkItems of it) is through.
// - A warp's pieces come through a ring of its own in shared memory (100 KB a block): requested before
//   wait_previous_kernel where the matrix is known, so memory works while the previous kernel drains.
// - x is float32. Every block builds it from its parts (residual, the partial sums of the split product before) and
//   writes it to shared memory as operands of mma, in the eight columns of which one token would leave seven idle
//   (for gate/up of experts blocks of router_one do that, once for all):
//   4 bits: two 8-bit digits of a 16-bit fixed-point number a group of 128 columns; groups of weights have columns of
//     their own, so one integer accumulator serves the whole unit and scales are applied to it in float32.
//     A nibble is an integer operand after one LOP3: the low one of a byte as it is (its offset of 8 goes into the
//     accumulator's start), the high one times 16. The start is 1.5 * 2^23 as bits, so that the integer sum read as a
//     float needs no conversion.
//   FP8: four terms of e4m3, each 2^-4 of the one before, scaled by a power of two a unit. Four warps take four units
//     together, as the 64 rows of a wgmma whose operands are both in shared memory: weights are never in a register.
//     Each unit meets its own x in four of its 16 columns.
//   bf16: three bf16 terms.
//   So products are as exact as float32 ones, near enough (1e-5 a unit for 4 bits, 1e-4 for FP8, whose products are
//   added with 14 bits, 1e-7 for bf16).
// - Instructions a warp and KB of weights: about 80. Four warps share a scheduler, so what each of them runs before the
//   first product (x, first requests) costs four times its length.
#include "cuda/kernels/choose.cuh"
#include "cuda/kernels/common.cuh"
#include "cuda/kernels/stream_token.cuh"
#include "cuda/kernels/stream_token_rows.cuh"

namespace minimo::cuda {
namespace {

using namespace token;

constexpr int kMostSmem = (227 << 10) - 4096;

__device__ __forceinline__ float norm_of(const OneParams& p, const float* squares) {  // [warps]
  float sum = 0;
#pragma unroll
  for (int w = 0; w < kWarps; ++w) sum += squares[w];
  return rsqrtf(__fdividef(sum, static_cast<float>(p.cols)) + p.norm_eps);
}

// Clears the sums of this warp, `red`: [items of a chunk][warps][16].
__device__ __forceinline__ void clear_sums(float* red, int items) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
#pragma unroll 1
  for (int i = lane; i < items * 16; i += 32) red[(i / 16 * kWarps + warp) * 16 + i % 16] = 0;
  __syncwarp();
}

__device__ __forceinline__ int first_item(const Shape& shape, unsigned block) {
  return static_cast<int>(int64_t{shape.items} * block / kBlocks);
}

__device__ __forceinline__ float row_sum(float x) {  // over the four lanes of a row
  x += __shfl_xor_sync(0xffffffffu, x, 1);
  return x + __shfl_xor_sync(0xffffffffu, x, 2);
}

// Requests as many pieces as there are stages.
template <TileFormat kF, OneMode kMode, typename Request>
__device__ __forceinline__ void fill(const Walk<kF, kMode>& walk, const Ring<kF>& ring, Cursor& ahead,
                                     const Request& request) {
  constexpr int kStages = Ring<kF>::kStages, kTeam = Team<kF>::kSize;
  walk.settle(ahead);
  // Not kDown: what it requests at once holds up the gate/up block on its SM, which is about to end.
  if constexpr (kMode != OneMode::kDown) {
    if (walk.in_a_row(ahead, kStages)) {
#pragma unroll
      for (int i = 0; i < kStages; ++i) {
        request_piece<kF>(ring.weights(i), ring.scales(i), ahead.weights + i * kTeam * PieceBytes(kF),
                          ahead.scales + i * kTeam * walk.scale_bytes);
        copy_commit();
      }
      return walk.step(ahead, kStages);
    }
  }
#pragma unroll 1
  for (int i = 0; i < kStages; ++i) request(i);
}

// The sums over the warps of items [first, first + count), and what becomes of them.
__device__ __forceinline__ void finish_items(const OneParams& p, const Shape& shape, const float* red, int first,
                                             int count, const float* squares) {
  const float norm = p.norm_weight != nullptr ? norm_of(p, squares) : 1.0f;
  for (int o = threadIdx.x; o < PadTo(count * 16, 32); o += kThreads) {
    const int item = first + o / 16, i = o % 16, turn = shape.tiles.quotient(item), tile = item - turn * p.shape.tiles;
    const bool live = o / 16 < count;
    float y = 0;
    if (live) {
#pragma unroll
      for (int w = 0; w < kWarps; ++w) y += red[(o / 16 * kWarps + w) * 16 + i];
    }
    y *= norm;
    if (p.epilogue == OneEpilogue::kSwiGlu) {
      const float up = __shfl_down_sync(0xffffffffu, y, 8);
      const int row = tile * 8 + i;
      if (live && i < 8 && row < p.out_rows) {
        p.out[int64_t{turn} * p.out_stride + row] = __fdividef(y, 1.0f + __expf(-y)) * up;
      }
      continue;
    }
    const int row = tile * kTileRows + i;
    if (!live || row >= p.out_rows) y = 0;
    if (live && row < p.out_rows) p.out[int64_t{turn} * p.out_stride + row] = y;
    if (p.squares == nullptr) continue;
    float square = y * y;
#pragma unroll
    for (int offset = 8; offset > 0; offset >>= 1) square += __shfl_xor_sync(0xffffffffu, square, offset);
    if (live && i == 0) p.squares[tile] = square;
  }
}

template <TileFormat kF, OneMode kMode>
__global__ void __launch_bounds__(kThreads, 2) stream_token(const __grid_constant__ OneParams p,
                                                            const __grid_constant__ Shape shape) {
  constexpr int kStages = Stages(kF);
  extern __shared__ __align__(16) uint8_t unaligned[];
  // Not by the array's own alignment: that would cost every kernel of this file, and gate/up and down their places
  // beside each other.
  uint8_t* smem = kF == TileFormat::kFp8 ? unaligned + (0u - smem_address(unaligned)) % kSwizzled : unaligned;
  __shared__ __align__(16) uint8_t zeros[64];
  __shared__ float squares[kWarps];
  __shared__ OneChoice choice;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int begin_item = first_item(shape, blockIdx.x);
  Walk<kF, kMode> walk = {p, shape, first_item(shape, blockIdx.x + 1), UnitScaleBytes(kF, p.shape.group_cols),
                           static_cast<int>(kept(Team<kF>::part())), 0};
  const int item_pieces = shape.item_pieces.value;
  const Ring<kF> ring(smem);
  uint8_t* x = smem + Ring<kF>::kBytes;
  float* red = reinterpret_cast<float*>(x + shape.x_places * UnitXBytes(kF));  // [items of a chunk][warps][16]

  if (threadIdx.x < 16) reinterpret_cast<uint32_t*>(zeros)[threadIdx.x] = 0;
  const int first_split = kMode == OneMode::kGateUp ? 0 : shape.tiles.quotient(begin_item);
  const LaneX mine_x = lane_x<kF>(x, shape.x_places, zeros, p.shape.group_cols);

  Cursor ahead = {};
  ahead.chunk = begin_item - kChunkItems;
  const auto request = [&](int stage) {
    walk.settle(ahead);
    if (!walk.done(ahead)) {
      if (walk.mine(ahead)) request_piece<kF>(ring.weights(stage), ring.scales(stage), ahead.weights, ahead.scales);
      walk.step(ahead);
    }
    copy_commit();
  };
  clear_sums(red, min(kChunkItems, walk.end_item - begin_item));
  if constexpr (kMode == OneMode::kGateUp) {
    const int wanted = begin_item < walk.end_item ? shape.tiles.quotient(walk.end_item - 1) + 1 : 0;
    walk.settle(ahead);  // of expert 0
    wait_previous_kernel();
    for (int i = threadIdx.x * 16; i < shape.x_places * UnitXBytes(kF); i += kThreads * 16) {
      copy_async16(x + i, p.operands + i);
    }
    copy_commit();
    if (warp == 0) choose_by_keys<false>(p.choice, wanted, choice);
    if (warp == 1 && lane < kWarps) squares[lane] = lane == 0 ? load_l2(p.square_sum) : 0.0f;
    copy_wait<0>();
    if constexpr (kF == TileFormat::kFp8) fence_async_reads();
    __syncthreads();
    walk.my_expert = choice.expert[lane];
    if (!walk.done(ahead)) walk.place(ahead);
    const bool last = blockIdx.x == kBlocks - 1;  // it needs them all
    if (last && threadIdx.x < p.choice.top_k && p.choice.expert_load != nullptr) {
      p.choice.expert_load[walk.my_expert] += 1;
    }
    fill(walk, ring, ahead, request);
  } else {
    XRows<kF, kMode> rows = {p, shape, first_split * shape.x_units, 1.0f};
    rows.load_norm(rows.first_unit());
    if constexpr (kMode == OneMode::kDown) {
      // The gate/up kernel let us start only after the router had finished.
      if (warp == 0) choose_by_keys<true>(p.choice, p.choice.top_k, choice);
      __syncthreads();
      walk.my_expert = choice.expert[lane];
      rows.my_weight = choice.weight[lane];
    }
    fill(walk, ring, ahead, request);
    wait_previous_kernel();
    rows.load(rows.first_unit());
    if constexpr (kMode == OneMode::kDense) allow_next_kernel();
    float mine = rows.stage_all(x);
    if (p.norm_weight != nullptr) {
      mine = warp_sum(mine);
      if (lane == 0) squares[warp] = mine;
    }
    __syncthreads();
  }
  // Only now: the next kernel's first requests for weights would hold up x, which all here wait for.
  if constexpr (kMode != OneMode::kDense) allow_next_kernel();

  int stage = 0;
#pragma unroll 1
  for (int chunk = begin_item; chunk < walk.end_item; chunk += kChunkItems) {
    const int count = min(kChunkItems, walk.end_item - chunk), pieces = count * item_pieces;
    if (chunk != begin_item) clear_sums(red, count);
    const int begin = Team<kF>::first_piece(pieces), end = Team<kF>::end_piece(pieces);
    int item = shape.item_pieces.quotient(begin), column = begin - item * item_pieces;
    float sums[2] = {0, 0};
#pragma unroll 1
    for (int piece = begin; piece < end; ++piece) {
      if constexpr (kF == TileFormat::kFp8) {
        copy_wait<kStages - 1>();
        fence_async_reads();
        Team<kF>::sync();
        float d[8];
        start_products(ring.team(stage), mine_x, column, d);
        const float2 scale = scales_of(ring.scales(stage), mine_x, column);
        walk.settle(ahead);
        wgmma_wait<0>(d);
        Team<kF>::sync();
        request(stage);
        add_products(scale, walk.part, d, sums);
      } else {
        copy_wait<kStages - 1>();
        multiply_piece<kF>(ring.weights(stage), ring.scales(stage), mine_x, column, sums);
        request(stage);
      }
      stage = stage + 1 == kStages ? 0 : stage + 1;
      ++column;
      if (column != item_pieces && piece + 1 != end) continue;
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        sums[r] = row_sum(sums[r]);
        if (lane % 4 == 0) red[(item * kWarps + warp) * 16 + lane / 4 + 8 * r] = sums[r];
        sums[r] = 0;
      }
      column = 0, ++item;
    }
    __syncthreads();
    finish_items(p, shape, red, chunk, count, squares);
    if (chunk + kChunkItems < walk.end_item) __syncthreads();
  }
}

int ItemsOf(OneMode mode, const TileShape& shape, int top_k, int splits) {
  return shape.tiles * (mode == OneMode::kGateUp ? top_k : splits);
}

Shape ShapeOf(const OneParams& p) {
  const int choices = p.mode == OneMode::kDown ? p.choice.top_k : 1, team = TeamWarps(p.shape.format);
  Shape s;
  s.tiles = Divisor(p.shape.tiles);
  s.units = Divisor(p.shape.units);
  s.tile_pieces = PadTo(p.shape.units * PiecesPerUnit(p.shape.format), team) / team;
  s.item_choices = choices / p.splits;
  s.item_pieces = Divisor(s.tile_pieces * choices / p.splits);
  s.items = ItemsOf(p.mode, p.shape, p.choice.top_k, p.splits);
  // Blocks never straddle two splits: kBlocks is a multiple of every number of them.
  s.x_units = p.shape.units * choices / p.splits;
  s.x_places = team == 1 ? s.x_units : static_cast<int>(s.item_pieces.value) * team;
  return s;
}

// One block an SM, but for a down block, which finds room beside a gate/up block: all SMs have one of those by then, so
// it is one each again, and its weights are on their way while gate/up runs.
int SmemOf(const OneParams& p) {
  constexpr int kMoreThanHalf = 113 << 10;
  const TileFormat f = p.shape.format;
  const Shape s = ShapeOf(p);
  const int block_items = (s.items + kBlocks - 1) / kBlocks;
  const int chunk = block_items < kChunkItems ? block_items : kChunkItems;
  const int ring = PadTo(kWarps * Stages(f) * StageBytes(f), kSwizzled) + (f == TileFormat::kFp8 ? kSwizzled : 0);
  const int needed = ring + s.x_places * UnitXBytes(f) + chunk * kWarps * 64;
  return needed < kMoreThanHalf && p.mode != OneMode::kDown ? kMoreThanHalf : needed;
}

template <TileFormat kF, OneMode kMode>
cudaError_t LaunchMode(const OneParams& p, cudaStream_t stream) {
  static const cudaError_t configured =
      cudaFuncSetAttribute(stream_token<kF, kMode>, cudaFuncAttributeMaxDynamicSharedMemorySize, kMostSmem);
  if (configured != cudaSuccess) return configured;
  const Shape s = ShapeOf(p);
  return Launch(stream_token<kF, kMode>, dim3(kBlocks), dim3(kThreads), SmemOf(p), stream, p, s);
}

template <TileFormat kF>
cudaError_t LaunchFormat(const OneParams& p, cudaStream_t stream) {
  switch (p.mode) {
    case OneMode::kDense: return LaunchMode<kF, OneMode::kDense>(p, stream);
    case OneMode::kGateUp: return LaunchMode<kF, OneMode::kGateUp>(p, stream);
    default: return LaunchMode<kF, OneMode::kDown>(p, stream);
  }
}

}  // namespace

int StreamTokenPlaces(const OneParams& p) { return ShapeOf(p).x_places; }

int StreamTokenSplits(OneMode mode, const TileShape& shape, int top_k) {
  if (mode == OneMode::kGateUp) return 1;
  int best = 1;
  double best_share = 0;
  for (int splits = 1; splits <= kMaxPartials; ++splits) {
    const int team = mode == OneMode::kDown || splits == 1 ? 1 : TeamWarps(shape.format);
    if ((mode == OneMode::kDown ? top_k : shape.units) % (splits * team) != 0) continue;
    const int items = ItemsOf(mode, shape, top_k, splits), turns = (items + kBlocks - 1) / kBlocks;
    const double share = static_cast<double>(items) / (turns * kBlocks);
    if (share > best_share + 0.05) best = splits, best_share = share;
  }
  return best;
}

bool CanStreamToken(const OneParams& p) {
  return p.shape.format != TileFormat::kF32 && p.shape.tiles < 65536 && p.choice.top_k <= 32 && SmemOf(p) <= kMostSmem;
}

cudaError_t LaunchStreamToken(const OneParams& p, cudaStream_t stream) {
  switch (p.shape.format) {
    case TileFormat::kBf16: return LaunchFormat<TileFormat::kBf16>(p, stream);
    case TileFormat::kFp8: return LaunchFormat<TileFormat::kFp8>(p, stream);
    case TileFormat::kInt4: return LaunchFormat<TileFormat::kInt4>(p, stream);
    default: return cudaErrorInvalidValue;
  }
}

}  // namespace minimo::cuda
