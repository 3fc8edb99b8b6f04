// Integer products over tiles with AMX: TDPBSUD multiplies 16 tokens of 64 signed activations by 64 columns of 16 rows
// of unsigned weights, which lie as the instruction wants them. Sums of a group leave the tile registers once and are
// added in float32 as the other ISAs do, so the bits are the same. Few tokens: the AVX-512 kernel, bound by memory.
#include "ops/linear/row_kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>

#include <algorithm>
#include <cstring>

#include "tensor/buffer.h"

#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,fma,amx-tile,amx-int8")

namespace minimo {
namespace {

constexpr int64_t kLeastTokens = 5;
constexpr int kTokenTile = 16;   // rows of a tile register
constexpr int64_t kStep = 64;    // columns of a product
constexpr int64_t kLine = kTileRows * 4;

struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};

// Tile registers 0 to 3: sums [token tile][row tile]; 4, 5: activations; 6, 7: weights. All 16 x 64 bytes.
void Configure() {
  TileConfig config;
  for (int i = 0; i < 8; ++i) {
    config.row_bytes[i] = 64;
    config.rows[i] = 16;
  }
  _tile_loadconfig(&config);
}

struct Scratch {
  Buffer<std::byte> x;         // [tokens of a block, row_bytes]: gathered, zeros beyond the last token
  Buffer<float> totals;        // [2 tiles, 32 tokens, 16]
  alignas(64) int32_t sums[4][kTokenTile * kTileRows];
  alignas(64) uint8_t codes[2][kStep * kTileRows];  // unpacked 4-bit weights of one step
};

// Codes of `step` (64 columns) of a tile; int4: unpacked into `to`.
inline const uint8_t* Codes(const TileLayout& layout, const std::byte* tile, int64_t g, int64_t step, uint8_t* to) {
  const auto* codes = reinterpret_cast<const uint8_t*>(tile) + layout.CodesAt(g);
  if (!layout.int4) return codes + step * kStep * kTileRows;
  const __m512i nibble = _mm512_set1_epi8(0xf);
  codes += step * kStep * kTileRows / 2;
  for (int64_t i = 0; i < 8; ++i) {
    const __m512i pair = _mm512_loadu_si512(codes + i * kLine);
    _mm512_store_si512(to + 2 * i * kLine, _mm512_and_si512(pair, nibble));
    _mm512_store_si512(to + (2 * i + 1) * kLine, _mm512_and_si512(_mm512_srli_epi16(pair, 4), nibble));
  }
  return to;
}

inline __m512 LoadScales(const std::byte* scales) {
  const __m512i bits = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(scales)));
  return _mm512_castsi512_ps(_mm512_slli_epi32(bits, 16));
}

// totals += group g of the sums of one pair of tiles.
inline void AddGroup(const int32_t* sums, const std::byte* x, int64_t row_bytes, int64_t meta, const std::byte* scales,
                     int64_t count, float* totals) {
  const __m512 w_scales = LoadScales(scales);
  for (int64_t t = 0; t < count; ++t) {
    const auto* m = reinterpret_cast<const ScaleAndStart*>(x + t * row_bytes + meta);
    const __m512i sum = _mm512_add_epi32(_mm512_load_si512(sums + t * kTileRows), _mm512_set1_epi32(m->start));
    const __m512 total = _mm512_load_ps(totals + t * kTileRows);
    const __m512 scale = _mm512_mul_ps(w_scales, _mm512_set1_ps(m->scale));
    _mm512_store_ps(totals + t * kTileRows, _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), scale, total));
  }
}

// R tiles of weights from `row` on against `count` <= 32 gathered tokens.
template <int R>
void Block(Scratch* s, const LinearTask& task, const TileLayout& layout, int64_t row_bytes, int64_t row, int64_t token,
           int64_t count) {
  const bool second = count > kTokenTile;
  const std::byte* tile[R];
  for (int r = 0; r < R; ++r) tile[r] = task.weight.tiles + (row / kTileRows + r) * layout.tile_bytes();
  const std::byte* x = s->x.data();
  const std::byte* x2 = x + kTokenTile * row_bytes;
  float* totals = s->totals.data();
  std::fill_n(totals, R * 2 * kTokenTile * kTileRows, 0.0f);
  for (int64_t g = 0; g < layout.groups; ++g) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int64_t step = 0; step < layout.group / kStep; ++step) {
      const int64_t column = g * layout.group + step * kStep;
      _tile_loadd(6, Codes(layout, tile[0], g, step, s->codes[0]), kLine);
      if (R == 2) _tile_loadd(7, Codes(layout, tile[R - 1], g, step, s->codes[1]), kLine);
      _tile_loadd(4, x + column, row_bytes);
      _tile_dpbsud(0, 4, 6);
      if (R == 2) _tile_dpbsud(1, 4, 7);
      if (second) {
        _tile_loadd(5, x2 + column, row_bytes);
        _tile_dpbsud(2, 5, 6);
        if (R == 2) _tile_dpbsud(3, 5, 7);
      }
    }
    _tile_stored(0, s->sums[0], kLine);
    if (R == 2) _tile_stored(1, s->sums[1], kLine);
    if (second) _tile_stored(2, s->sums[2], kLine);
    if (second && R == 2) _tile_stored(3, s->sums[3], kLine);
    const int64_t meta = layout.padded_cols() + g * static_cast<int64_t>(sizeof(ScaleAndStart));
    for (int r = 0; r < R; ++r) {
      float* to = totals + r * 2 * kTokenTile * kTileRows;
      const std::byte* scales = tile[r] + layout.ScalesAt(g);
      AddGroup(s->sums[r], x, row_bytes, meta, scales, std::min<int64_t>(count, kTokenTile), to);
      if (second) {
        AddGroup(s->sums[2 + r], x2, row_bytes, meta, scales, count - kTokenTile, to + kTokenTile * kTileRows);
      }
    }
  }
  for (int r = 0; r < R; ++r) {
    const int64_t left = task.weight.rows - row - r * kTileRows;
    const auto mask = static_cast<__mmask16>(left >= kTileRows ? 0xffff : (1u << left) - 1);
    for (int64_t t = 0; t < count; ++t) {
      const __m512 total = _mm512_load_ps(totals + (r * 2 * kTokenTile + t) * kTileRows);
      _mm512_mask_storeu_ps(task.Out(token + t) + row + r * kTileRows, mask, total);
    }
  }
}

}  // namespace

void TileRowsAmx(const LinearTask& task, const StagedRows& staged, int64_t begin, int64_t end) {
  const TileLayout layout(task.weight);
  if (task.tokens < kLeastTokens || layout.group % kStep != 0) return TileRowsAvx512(task, staged, begin, end);
  thread_local Scratch scratch;
  thread_local bool configured = false;
  if (!configured) Configure();
  configured = true;
  constexpr int64_t kBlock = 2 * kTokenTile;
  const int64_t row_bytes = staged.row_bytes;
  scratch.x.Reserve(static_cast<size_t>(kBlock * row_bytes));
  scratch.totals.Reserve(static_cast<size_t>(2 * kBlock * kTileRows));
  for (int64_t token = 0; token < task.tokens; token += kBlock) {
    const int64_t count = std::min(kBlock, task.tokens - token);
    for (int64_t t = 0; t < count; ++t) {
      const int64_t from = task.x_rows ? task.x_rows[token + t] : token + t;
      std::memcpy(scratch.x.data() + t * row_bytes, staged.data + from * row_bytes, static_cast<size_t>(row_bytes));
    }
    std::memset(scratch.x.data() + count * row_bytes, 0, static_cast<size_t>((kBlock - count) * row_bytes));
    int64_t row = begin;
    for (; row + kTileRows < end; row += 2 * kTileRows) Block<2>(&scratch, task, layout, row_bytes, row, token, count);
    for (; row < end; row += kTileRows) Block<1>(&scratch, task, layout, row_bytes, row, token, count);
  }
}

}  // namespace minimo

#pragma GCC pop_options
#endif
