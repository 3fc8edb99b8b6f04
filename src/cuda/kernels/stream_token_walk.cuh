// Which pieces of the weights a warp of stream_token.cu takes, and their requests.
#pragma once

#include "cuda/kernels/stream_token_unit.cuh"

namespace minimo::cuda::token {

inline constexpr int kWarps = 16;
inline constexpr int kThreads = kWarps * 32;
inline constexpr int kBlocks = 132;     // multiprocessors of an H100 and an H200
inline constexpr int kSwizzled = 1024;  // what operands of wgmma are aligned to
inline constexpr int kChunkItems = 12;  // between two sums over the warps

// Warps take pieces in teams; a team's unit q of a piece is its warp q's.
template <TileFormat kF>
struct Team {
  static constexpr int kSize = TeamWarps(kF), kTeams = kWarps / kSize;
  static __device__ __forceinline__ int number() { return threadIdx.x / 32 / kSize; }
  static __device__ __forceinline__ int part() { return threadIdx.x / 32 % kSize; }
  static __device__ __forceinline__ void sync() {
    asm volatile("bar.sync %0, %1;" ::"r"(number() + 2), "n"(kSize * 32) : "memory");
  }
  static __device__ __forceinline__ int first_piece(int pieces) { return pieces * number() / kTeams; }
  static __device__ __forceinline__ int end_piece(int pieces) { return pieces * (number() + 1) / kTeams; }
};

// Where a warp's share of a stage lies: a team's shares are neighbours, scales are behind the weights.
template <TileFormat kF>
struct Ring {
  static constexpr int kStages = Stages(kF), kScaleBytes = StageBytes(kF) - PieceBytes(kF), kSize = Team<kF>::kSize;
  static constexpr int kBytes = PadTo(kWarps * kStages * StageBytes(kF), kSwizzled);
  uint32_t team_weights, lane_weights, lane_scales;  // of stage 0: the team's, this lane's first 16 bytes, its 4 bytes
  __device__ __forceinline__ explicit Ring(const uint8_t* smem) {
    const uint32_t base = smem_address(smem), warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    team_weights = kept(base + Team<kF>::number() * kStages * kSize * PieceBytes(kF));
    lane_weights = kept(team_weights + Team<kF>::part() * PieceBytes(kF) + lane * 16);
    lane_scales = kept(base + kWarps * kStages * PieceBytes(kF) + warp * kStages * kScaleBytes +
                       (kF == TileFormat::kFp8 ? lane % 2 : lane) * 4);
  }
  __device__ __forceinline__ uint32_t team(int stage) const { return team_weights + stage * kSize * PieceBytes(kF); }
  __device__ __forceinline__ uint32_t weights(int stage) const { return lane_weights + stage * kSize * PieceBytes(kF); }
  __device__ __forceinline__ uint32_t scales(int stage) const { return lane_scales + stage * kScaleBytes; }
};

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
  int x_places;          // for them: a matrix begins with a piece
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
  int part;           // this warp's of its team
  int my_expert;      // lane k: the k-th chosen expert

  static constexpr int kTeam = Team<kF>::kSize;

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
    int at = c.tile * shape.tile_pieces + column;
    if constexpr (kTeam > 1) at = c.tile * static_cast<int>(shape.units.value) + column * kTeam + part;
    const int lane = threadIdx.x % 32;
    c.weights = p.weights + expert * p.expert_weight_bytes + int64_t{at} * PieceBytes(kF) + lane * 16;
    c.scales = p.scales + expert * p.expert_scale_bytes + int64_t{at} * scale_bytes;
    if constexpr (kF == TileFormat::kInt4) {
      const int group = min(lane % 4, kUnitCols / p.shape.group_cols - 1);
      c.scales += (group * 8 + lane / 4) * 4;
    } else {
      c.scales += lane % 2 * 4;
    }
  }
  // Whether the piece has a unit for this warp.
  __device__ __forceinline__ bool mine(const Cursor& c) const {
    if constexpr (kTeam == 1) return true;
    int column = c.column;
    if constexpr (kMode == OneMode::kDense) column += c.turn * static_cast<int>(shape.item_pieces.value);
    if constexpr (kMode == OneMode::kDown) column = shape.tile_pieces - c.left;
    return column * kTeam + part < static_cast<int>(shape.units.value);
  }
  __device__ __forceinline__ bool done(const Cursor& c) const { return c.chunk >= end_item; }
  // The place of the next piece.
  __device__ __forceinline__ void settle(Cursor& c) const {
    const int pieces_an_item = shape.item_pieces.value;
    if (c.piece == c.end) {
      do {
        c.chunk += kChunkItems;
        if (done(c)) return;
        const int pieces = min(kChunkItems, end_item - c.chunk) * pieces_an_item;
        c.piece = Team<kF>::first_piece(pieces), c.end = Team<kF>::end_piece(pieces);
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
  __device__ __forceinline__ void step(Cursor& c) const { step(c, 1); }
  __device__ __forceinline__ void step(Cursor& c, int count) const {
    c.piece += count, c.column += count;
    c.weights += count * kTeam * PieceBytes(kF), c.scales += count * kTeam * scale_bytes;
    if constexpr (kMode == OneMode::kDown) c.left -= count;
  }
  // Whether, after settle(), the next `count` pieces are one behind the other and this warp has a unit of each.
  __device__ __forceinline__ bool in_a_row(const Cursor& c, int count) const {
    if (done(c)) return false;
    Cursor last = c;
    last.column += count - 1, last.left -= count - 1;
    return c.piece + count <= c.end && last.column < static_cast<int>(shape.item_pieces.value) &&
           (kMode != OneMode::kDown || last.left > 0) && mine(last);
  }
};

// This lane's share.
template <TileFormat kF>
__device__ __forceinline__ void request_piece(uint32_t weights, uint32_t scales, const uint8_t* from,
                                              const uint8_t* scales_from) {
#pragma unroll
  for (int n = 0; n < PieceBytes(kF) / 512; ++n) copy_async16(weights + n * 512, from + n * 512);
  if constexpr (kF == TileFormat::kInt4) copy_async4(scales, scales_from);
  if constexpr (kF == TileFormat::kFp8) {
    if (weights % 512 < 32) copy_async4(scales, scales_from);  // two lanes
  }
}

}  // namespace minimo::cuda::token
