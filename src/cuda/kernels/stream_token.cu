// Matrix times one token, bound by memory; each of 132 blocks, one an SM, owns a run of items (a tile of 16 rows over
// one run of columns), its 16 warps an equal share of the run's pieces each, whatever the item, so no warp waits for
// another until the run (or a chunk of kChunkItems of it) is through.
// - A warp's pieces come through a ring of its own in shared memory (100 KB a block): requested before
//   wait_previous_kernel where the matrix is known, so memory works while the previous kernel drains.
// - x is float32. Every block builds it from its parts (residual, the partial sums of the split product before) and
//   writes it to shared memory as operands of mma, in the eight columns of which one token would leave seven idle:
//   4 bits: two 8-bit digits of a 16-bit fixed-point number a group of 128 columns; groups of weights have columns of
//     their own, so one integer accumulator serves the whole unit and scales are applied to it in float32.
//     A nibble is an integer operand after one LOP3: the low one of a byte as it is (its offset of 8 goes into the
//     accumulator's start), the high one times 16. The start is 1.5 * 2^23 as bits, so that the integer sum read as a
//     float needs no conversion.
//   FP8: a half and the half that is left of the rest, scaled by a power of two a unit; the weights become halves by
//     one conversion of two neighbouring bytes, which are rows g and g + 8 of one column: B has x in the even rows for
//     one and in the odd rows for the other, in columns of their own.
//   bf16: three bf16 terms.
//   So products are as exact as float32 ones, near enough (1e-5 a unit for 4 bits, 1e-7 otherwise).
// - Instructions a warp and KB of weights: about 85 in 4 bits, 75 in FP8.
#include "cuda/kernels/choose.cuh"
#include "cuda/kernels/common.cuh"
#include "cuda/kernels/stream_token.cuh"
#include "cuda/kernels/stream_token_unit.cuh"

namespace minimo::cuda {
namespace {

constexpr int kWarps = 16;
constexpr int kThreads = kWarps * 32;
constexpr int kBlocks = 132;     // multiprocessors of an H100 and an H200
constexpr int kChunkItems = 12;  // between two sums over the warps
constexpr int kMostSmem = (227 << 10) - 4096;

// Division by a constant of the launch, for dividends and divisors below 2^16.
struct Divisor {
  uint32_t value, factor;
  Divisor() = default;
  __host__ explicit Divisor(int v) : value(v), factor(v == 1 ? 0 : 0xffffffffu / v + 1) {}
  __device__ __forceinline__ int quotient(int x) const { return factor == 0 ? x : __umulhi(x, factor); }
};

struct Shape {  // of the work
  Divisor tiles;         // of one matrix
  Divisor units;         // of one matrix
  Divisor item_pieces;
  int tile_pieces;       // of one matrix
  int item_choices;      // kDown: of one split
  int items;
  int x_units;           // of one split
};

// Where in its stream of pieces a warp is.
struct Cursor {
  int chunk;          // first item of the chunk
  int piece, end;     // of the chunk's pieces
  int column;         // the piece within its item
  int turn, tile;     // of the item: split or choice, and tile
  int choice, left;   // kDown: the choice within the split, pieces left of it
  const uint8_t* weights;
  const uint8_t* scales;
};

template <TileFormat kF, OneMode kMode>
struct Walk {
  const OneParams& p;
  const Shape& shape;
  int end_item;       // of the block
  int scale_bytes;    // a piece
  int my_expert;      // lane k: the k-th chosen expert

  __device__ __forceinline__ void place(Cursor& c) const {
    int column = c.column;
    int64_t expert = 0;
    if constexpr (kMode == OneMode::kDense) {
      column += c.turn * static_cast<int>(shape.item_pieces.value);
    } else if constexpr (kMode == OneMode::kGateUp) {
      expert = __shfl_sync(0xffffffffu, my_expert, c.turn);
    } else {
      column = shape.tile_pieces - c.left;
      expert = __shfl_sync(0xffffffffu, my_expert, c.turn * shape.item_choices + c.choice);
    }
    const int at = c.tile * shape.tile_pieces + column, lane = threadIdx.x % 32;
    c.weights = p.weights + expert * p.expert_weight_bytes + int64_t{at} * PieceBytes(kF) + lane * 16;
    c.scales = p.scales + expert * p.expert_scale_bytes + int64_t{at} * scale_bytes;
    if constexpr (kF == TileFormat::kInt4) {
      const int group = min(lane % 4, kUnitCols / p.shape.group_cols - 1);
      c.scales += (group * 8 + lane / 4) * 4;
    } else {
      c.scales += lane % 2 * 4;
    }
  }
  __device__ __forceinline__ bool done(const Cursor& c) const { return c.chunk >= end_item; }
  // The place of the next piece.
  __device__ __forceinline__ void settle(Cursor& c) const {
    const int pieces_an_item = shape.item_pieces.value, warp = threadIdx.x / 32;
    if (c.piece == c.end) {
      do {
        c.chunk += kChunkItems;
        if (done(c)) return;
        const int pieces = min(kChunkItems, end_item - c.chunk) * pieces_an_item;
        c.piece = pieces * warp / kWarps, c.end = pieces * (warp + 1) / kWarps;
      } while (c.piece == c.end);
      const int item = shape.item_pieces.quotient(c.piece);
      c.column = c.piece - item * pieces_an_item;
      c.turn = shape.tiles.quotient(c.chunk + item);
      c.tile = c.chunk + item - c.turn * static_cast<int>(shape.tiles.value);
      if constexpr (kMode == OneMode::kDown) {
        c.choice = 0, c.left = shape.tile_pieces - c.column;
        while (c.left <= 0) ++c.choice, c.left += shape.tile_pieces;
      }
    } else if (c.column == pieces_an_item) {
      c.column = 0;
      if (++c.tile == static_cast<int>(shape.tiles.value)) c.tile = 0, ++c.turn;
      if constexpr (kMode == OneMode::kDown) c.choice = 0, c.left = shape.tile_pieces;
    } else if (kMode == OneMode::kDown && c.left == 0) {
      ++c.choice, c.left = shape.tile_pieces;
    } else {
      return;
    }
    place(c);
  }
  __device__ __forceinline__ void step(Cursor& c) const {
    ++c.piece, ++c.column;
    c.weights += PieceBytes(kF), c.scales += scale_bytes;
    if constexpr (kMode == OneMode::kDown) --c.left;
  }
};

template <TileFormat kF>
__device__ __forceinline__ void request_piece(uint8_t* stage, const Cursor& c) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int n = 0; n < PieceBytes(kF) / 512; ++n) copy_async16(stage + n * 512 + lane * 16, c.weights + n * 512);
  if constexpr (kF == TileFormat::kInt4) copy_async4(stage + PieceBytes(kF) + lane * 4, c.scales);
  if constexpr (kF == TileFormat::kFp8) {
    if (lane < 2) copy_async4(stage + PieceBytes(kF) + lane * 4, c.scales);
  }
}

__device__ __forceinline__ float4 load4(const OneParams& p, int64_t at) {
  if (!p.input_bf16) return load_l2(reinterpret_cast<const float4*>(static_cast<const float*>(p.input) + at));
  const uint2 v = __ldcg(reinterpret_cast<const uint2*>(static_cast<const bf16*>(p.input) + at));
  return {__uint_as_float(v.x << 16), __uint_as_float(v.x & 0xffff0000), __uint_as_float(v.y << 16),
          __uint_as_float(v.y & 0xffff0000)};
}
__device__ __forceinline__ void add4(float4& x, float4 y) { x.x += y.x, x.y += y.y, x.z += y.z, x.w += y.w; }

__device__ __forceinline__ float expert_logit(const ChoiceParams& p) {  // of expert threadIdx.x
  return threadIdx.x < p.experts ? load_l2(p.logits + threadIdx.x) : 0.0f;
}

// x of units [first, first + x_units) of all (kDown: of the choices' one after the other): rounds of kHeld units a
// warp, whose loads are all on their way before the first is used.
template <TileFormat kF, OneMode kMode>
struct XRows {
  // With kGateUp the first warps make the choice meanwhile.
  static constexpr int kFirstWarp = kMode == OneMode::kGateUp ? kChoiceWarps : 0, kStagers = kWarps - kFirstWarp;
  static constexpr int kHeld = kMode == OneMode::kDense ? 2 : 3, kRound = kHeld * kStagers;
  static constexpr int kHeldParts = kMode == OneMode::kDown ? 1 : 2;  // partial sums that are requested at once
  const OneParams& p;
  const Shape& shape;
  int first;
  float my_weight;  // kDown: lane k has that of choice k
  float4 norm[kHeld], input[kHeld], part[kHeld][kHeldParts];

  __device__ __forceinline__ int first_unit() const { return static_cast<int>(threadIdx.x) / 32 - kFirstWarp; }
  __device__ __forceinline__ int choice_of(int u) const {
    return kMode == OneMode::kDown ? shape.units.quotient(first + u) : 0;
  }
  __device__ __forceinline__ int column_of(int u) const {
    return (first + u - choice_of(u) * p.shape.units) * kUnitCols + threadIdx.x % 32 * 4;
  }
  __device__ __forceinline__ bool live(int u) const { return u >= 0 && u < shape.x_units && column_of(u) < p.cols; }

  __device__ __forceinline__ void load_norm(int from) {  // known ahead
    if constexpr (kMode != OneMode::kDown) {
#pragma unroll
      for (int i = 0; i < kHeld; ++i) {
        norm[i] = {1, 1, 1, 1};
        const int u = from + i * kStagers;
        if (p.norm_weight != nullptr && live(u)) {
          norm[i] = __ldg(reinterpret_cast<const float4*>(p.norm_weight + column_of(u)));
        }
      }
    }
  }
  __device__ __forceinline__ void load(int from) {
#pragma unroll
    for (int i = 0; i < kHeld; ++i) {
      const int u = from + i * kStagers;
      const bool here = live(u);
      const int column = column_of(u);
      input[i] = {0, 0, 0, 0};
      if (here) input[i] = load4(p, int64_t{choice_of(u)} * p.input_stride + column);
      if constexpr (kMode != OneMode::kDown) {
#pragma unroll
        for (int k = 0; k < kHeldParts; ++k) {
          part[i][k] = {0, 0, 0, 0};
          const float* from_part = p.partial + int64_t{k} * p.partial_stride + column;
          if (here && k < p.partials) part[i][k] = load_l2(reinterpret_cast<const float4*>(from_part));
        }
      }
    }
  }
  // Returns this thread's sum of squares.
  __device__ __forceinline__ float stage(uint8_t* x, int from) const {
    float squares = 0;
#pragma unroll
    for (int i = 0; i < kHeld; ++i) {
      const int u = from + i * kStagers;
      if (u >= shape.x_units) break;
      float4 v = input[i], w = norm[i];
      if constexpr (kMode == OneMode::kDown) {
        w.x = w.y = w.z = w.w = __shfl_sync(0xffffffffu, my_weight, choice_of(u));
      } else {
#pragma unroll
        for (int k = 0; k < kHeldParts; ++k) {
          if (k < p.partials) add4(v, part[i][k]);
        }
        if (p.partials > kHeldParts && live(u)) {
#pragma unroll 1
          for (int k = kHeldParts; k < p.partials; ++k) {
            add4(v, load_l2(reinterpret_cast<const float4*>(p.partial + int64_t{k} * p.partial_stride + column_of(u))));
          }
        }
        if (p.sum_out != nullptr && live(u) && ((first + u) & 127) == static_cast<int>(blockIdx.x)) {
          *reinterpret_cast<float4*>(p.sum_out + column_of(u)) = v;
        }
        squares += v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w;
      }
      stage_unit<kF>(x + u * UnitXBytes(kF), {v.x * w.x, v.y * w.y, v.z * w.z, v.w * w.w}, p.shape.group_cols);
    }
    return squares;
  }
};

// The sums over the warps of items [first, first + count), and what becomes of them.
__device__ __forceinline__ void finish_items(const OneParams& p, const Shape& shape, const float* red, int first,
                                             int count, float norm) {
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
      if (live && i < 8 && row < p.out_rows) p.out[int64_t{turn} * p.out_stride + row] = y / (1.0f + __expf(-y)) * up;
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
  extern __shared__ __align__(16) uint8_t smem[];
  __shared__ __align__(16) uint8_t zeros[64];
  __shared__ float squares[kWarps];
  __shared__ Choice choice;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int begin_item = static_cast<int>(int64_t{shape.items} * blockIdx.x / kBlocks);
  Walk<kF, kMode> walk = {p, shape, static_cast<int>(int64_t{shape.items} * (blockIdx.x + 1) / kBlocks),
                          UnitScaleBytes(kF, p.shape.group_cols), 0};
  const int item_pieces = shape.item_pieces.value;
  uint8_t* ring = smem + warp * kStages * StageBytes(kF);
  uint8_t* x = smem + kWarps * kStages * StageBytes(kF);
  float* red = reinterpret_cast<float*>(x + shape.x_units * UnitXBytes(kF));  // [items of a chunk][warps][16]

  if (threadIdx.x < 16) reinterpret_cast<uint32_t*>(zeros)[threadIdx.x] = 0;
  const int first_split = kMode == OneMode::kGateUp ? 0 : shape.tiles.quotient(begin_item);
  XRows<kF, kMode> rows = {p, shape, first_split * shape.x_units, 1.0f};
  float bias = 0;
  if (kMode != OneMode::kDense && p.choice.bias != nullptr && threadIdx.x < p.choice.experts) {
    bias = __ldg(p.choice.bias + threadIdx.x);
  }
  const LaneX mine_x = lane_x<kF>(x, zeros, p.shape.group_cols);

  Cursor ahead = {};
  ahead.chunk = begin_item - kChunkItems;
  const auto request = [&](int stage) {
    walk.settle(ahead);
    if (!walk.done(ahead)) {
      request_piece<kF>(ring + stage * StageBytes(kF), ahead);
      walk.step(ahead);
    }
    copy_commit();
  };
  const auto fill = [&] {
#pragma unroll 1
    for (int i = 0; i < kStages; ++i) request(i);
  };
  float mine = 0;
  const auto stage_x = [&] {  // the first round is on its way
#pragma unroll 1
    for (int from = rows.first_unit();;) {
      mine += rows.stage(x, from);
      from += rows.kRound;
      if (from >= shape.x_units) break;
      rows.load_norm(from);
      rows.load(from);
    }
  };
  rows.load_norm(rows.first_unit());
  if constexpr (kMode == OneMode::kGateUp) {
    // Half of the warps choose, the others stage x. The experts' weights are requested only then: what goes through
    // shared memory stands behind their requests until data come.
    wait_previous_kernel();
    if (warp < kChoiceWarps) {
      choose_one<kChoiceWarps * 32>(p.choice, expert_logit(p.choice), bias, choice);
    } else {
      rows.load(rows.first_unit());
      stage_x();
    }
    __syncthreads();
    walk.my_expert = choice.expert[lane];
    if (blockIdx.x == 0 && threadIdx.x < p.choice.top_k && p.choice.expert_load != nullptr) {
      p.choice.expert_load[walk.my_expert] += 1;
    }
    fill();
  } else {
    if constexpr (kMode == OneMode::kDown) {
      // The gate/up kernel let us start only after the router had finished.
      if (warp < kChoiceWarps) choose_one<kChoiceWarps * 32>(p.choice, expert_logit(p.choice), bias, choice);
      __syncthreads();
      walk.my_expert = choice.expert[lane];
      rows.my_weight = weight_of(p.choice, choice);
    }
    fill();
    wait_previous_kernel();
    rows.load(rows.first_unit());
    stage_x();
  }
  if (p.norm_weight != nullptr) {
    mine = warp_sum(mine);
    if (lane == 0) squares[warp] = mine;
  }
  __syncthreads();
  // Only now: the next kernel's first requests for weights would hold up x, which all here wait for.
  allow_next_kernel();
  float norm = 1;
  if (p.norm_weight != nullptr) {
    norm = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) norm += squares[w];
    norm = rsqrtf(norm / static_cast<float>(p.cols) + p.norm_eps);
  }

  int stage = 0;
#pragma unroll 1
  for (int chunk = begin_item; chunk < walk.end_item; chunk += kChunkItems) {
    const int count = min(kChunkItems, walk.end_item - chunk), pieces = count * item_pieces;
#pragma unroll 1
    for (int i = lane; i < count * 16; i += 32) red[(i / 16 * kWarps + warp) * 16 + i % 16] = 0;
    __syncwarp();
    const int begin = pieces * warp / kWarps, end = pieces * (warp + 1) / kWarps;
    int item = shape.item_pieces.quotient(begin), column = begin - item * item_pieces;
    float sums[2] = {0, 0};
#pragma unroll 1
    for (int piece = begin; piece < end; ++piece) {
      copy_wait<kStages - 1>();
      if constexpr (kF == TileFormat::kFp8) __syncwarp();  // its scales were copied by two lanes
      multiply_piece<kF>(ring + stage * StageBytes(kF), mine_x, column, sums);
      if constexpr (kF == TileFormat::kFp8) __syncwarp();
      request(stage);
      stage = stage + 1 == kStages ? 0 : stage + 1;
      ++column;
      if (column != item_pieces && piece + 1 != end) continue;
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        sums[r] += __shfl_xor_sync(0xffffffffu, sums[r], 1);
        sums[r] += __shfl_xor_sync(0xffffffffu, sums[r], 2);
        if (lane % 4 == 0) red[(item * kWarps + warp) * 16 + lane / 4 + 8 * r] = sums[r];
        sums[r] = 0;
      }
      column = 0, ++item;
    }
    __syncthreads();
    finish_items(p, shape, red, chunk, count, norm);
    if (chunk + kChunkItems < walk.end_item) __syncthreads();
  }
}

int ItemsOf(OneMode mode, const TileShape& shape, int top_k, int splits) {
  return shape.tiles * (mode == OneMode::kGateUp ? top_k : splits);
}

Shape ShapeOf(const OneParams& p) {
  const int pieces_a_unit = PiecesPerUnit(p.shape.format), choices = p.mode == OneMode::kDown ? p.choice.top_k : 1;
  Shape s;
  s.tiles = Divisor(p.shape.tiles);
  s.units = Divisor(p.shape.units);
  s.tile_pieces = p.shape.units * pieces_a_unit;
  s.item_choices = choices / p.splits;
  s.item_pieces = Divisor(s.tile_pieces * choices / p.splits);
  s.items = ItemsOf(p.mode, p.shape, p.choice.top_k, p.splits);
  // Blocks never straddle two splits: kBlocks is a multiple of every number of them.
  s.x_units = p.shape.units * choices / p.splits;
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
  const int needed = kWarps * Stages(f) * StageBytes(f) + s.x_units * UnitXBytes(f) + chunk * kWarps * 64;
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

int StreamTokenSplits(OneMode mode, const TileShape& shape, int top_k) {
  if (mode == OneMode::kGateUp) return 1;
  int best = 1;
  double best_share = 0;
  for (int splits = 1; splits <= kMaxPartials; ++splits) {
    if ((mode == OneMode::kDown ? top_k : shape.units) % splits != 0) continue;
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
