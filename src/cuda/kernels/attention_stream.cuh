// The inner loop of decode attention: keys and values go from the cache to a warp's ring in shared memory, in the
// cache's own type, and from there into the registers of mma. A warp takes a tile of 16 (FP8: 32) keys; the up to 16
// query heads of a KV head are the columns of mma, in blocks of 8, keys and the values' columns its rows:
// - scores [16 keys x 8 queries] = K Q: a lane has 16-byte pieces of its keys' rows (g, g + 8); a step of mma takes
//   whatever columns of the head lie in them, of the queries the same;
// - outputs [16 columns x 8 queries] += V P: a lane has a piece of the rows of keys 2t, 2t + 1, 2t + 8, 2t + 9, so
//   byte permutations make pairs of keys, and P comes from the scores by movmatrix.
// FP8 becomes halves, exactly, one instruction a pair; P is at most 1, and queries are scaled before they are rounded.
// A bf16 cache has bf16 operands.
#pragma once

#include "cuda/kernels/attention.cuh"
#include "cuda/kernels/kv_element.cuh"
#include "cuda/kernels/stream_x.cuh"

namespace minimo::cuda {

// An 8x8 matrix of 16-bit elements, transposed.
__device__ __forceinline__ uint32_t transposed(uint32_t x) {
  uint32_t d;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(d) : "r"(x));
  return d;
}

// How query rows lie in shared memory: halves for an FP8 cache, else bf16; padded so that 8 rows fall into distinct
// banks.
template <int kKeyDim>
inline constexpr int kQueryRow = kKeyDim * 2 + 16;  // bytes

template <int kKeyDim, int kValueDim, typename Kv, int kBlocks>
struct AttentionStream {
  static constexpr bool kFp8 = sizeof(Kv) == 1;
  static constexpr int kKeys = kFp8 ? 32 : 16;  // a tile
  static constexpr int kHalves = kKeys / 16;
  static constexpr int kPiece = kKvPiece<Kv>;                    // columns
  static constexpr int kKeyPieces = kKeyDim / (4 * kPiece);      // a lane's of a row
  static constexpr int kValuePieces = kValueDim / (8 * kPiece);
  static constexpr int kColumnBlocks = kValueDim / 16;

  static constexpr int kKeyRow = kKeyDim * int{sizeof(Kv)}, kValueRow = kValueDim * int{sizeof(Kv)};  // bytes
  static constexpr int kTileBytes = kKeys * (kKeyRow + kValueRow);

  float out[kBlocks][kColumnBlocks][4];  // column(j) of queries 2t, 2t + 1, and the column after it
  float most[kBlocks][2], sum[kBlocks][2];  // of queries 2t, 2t + 1; the sum of this lane's keys only until finish()

  static __device__ __forceinline__ int column(int j) {
    const int g = threadIdx.x % 32 / 4;
    return kFp8 ? 16 * g + 2 * j : j / 4 * 64 + 8 * g + j % 4 * 2;
  }

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int b = 0; b < kBlocks; ++b) {
      most[b][0] = most[b][1] = -INFINITY;
      sum[b][0] = sum[b][1] = 0;
#pragma unroll
      for (int j = 0; j < kColumnBlocks; ++j) out[b][j][0] = out[b][j][1] = out[b][j][2] = out[b][j][3] = 0;
    }
  }

  // Copies a tile's first `count` keys and values, zeros for the others. row: where key `lane % kKeys` lies, in rows
  // from the cache's start. Lines of 128 bytes at once where rows have them: halves of lines are as many requests again.
  static __device__ __forceinline__ void request(uint8_t* tile, const void* keys, const void* values, int row,
                                                 int count) {
    request_rows<kKeyRow, true>(tile, static_cast<const uint8_t*>(keys), row, count);
    request_rows<kValueRow, false>(tile + kKeys * kKeyRow, static_cast<const uint8_t*>(values), row, count);
  }

  // Key `at` of the tile, which is not in the cache yet.
  static __device__ __forceinline__ void put_newest(uint8_t* tile, const Kv* key, const Kv* value, int at) {
    const int lane = threadIdx.x % 32;
    if (lane < kKeyRow / 16) {
      reinterpret_cast<uint4*>(tile + at * kKeyRow)[lane ^ key_turn(at)] = reinterpret_cast<const uint4*>(key)[lane];
    }
    if (lane < kValueRow / 16) {
      uint8_t* to = tile + kKeys * kKeyRow + at * kValueRow;
      reinterpret_cast<uint4*>(to)[lane ^ turn(at)] = reinterpret_cast<const uint4*>(value)[lane];
    }
  }

  // scores[h][b]: of keys 16 h + g (0, 1) and + 8 (2, 3) with queries 8 b + 2t, + 1. queries: kQueryRow each.
  using Scores = float[kHalves][kBlocks][4];
  __device__ __forceinline__ void score(const uint8_t* tile, const uint8_t* queries, Scores& scores) const {
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const uint32_t mine = smem_address(queries + g * kQueryRow<kKeyDim>) + 2 * kPiece * t;
    const uint32_t keys = smem_address(tile + g * kKeyRow);
#pragma unroll
    for (int h = 0; h < kHalves; ++h) {
#pragma unroll
      for (int b = 0; b < kBlocks; ++b) scores[h][b][0] = scores[h][b][1] = scores[h][b][2] = scores[h][b][3] = 0;
    }
#pragma unroll
    for (int j = 0; j < kKeyPieces; ++j) {
      uint4 q[kBlocks][kPiece / 8], k[kHalves][2];
#pragma unroll
      for (int i = 0; i < 2 * kHalves; ++i) {
        k[i / 2][i % 2] = load_shared(keys + 8 * i * kKeyRow + 16 * ((4 * j + t) ^ key_turn(g)));
      }
#pragma unroll
      for (int b = 0; b < kBlocks; ++b) {
#pragma unroll
        for (int i = 0; i < kPiece / 8; ++i) {
          q[b][i] = load_shared(mine + b * 8 * kQueryRow<kKeyDim> + 8 * kPiece * j + 16 * i);
        }
      }
#pragma unroll
      for (int step = 0; step < kPiece / 4; ++step) {  // of mma: 4 columns of a lane's piece
#pragma unroll
        for (int h = 0; h < kHalves; ++h) {
          uint32_t a[4];
          if constexpr (kFp8) {
            halves_of(word_of(k[h][0], step), a[0], a[2]);
            halves_of(word_of(k[h][1], step), a[1], a[3]);
          } else {
            a[0] = word_of(k[h][0], 2 * step), a[2] = word_of(k[h][0], 2 * step + 1);
            a[1] = word_of(k[h][1], 2 * step), a[3] = word_of(k[h][1], 2 * step + 1);
          }
#pragma unroll
          for (int b = 0; b < kBlocks; ++b) {
            multiply(scores[h][b], a, word_of(q[b][step / 2], step % 2 * 2), word_of(q[b][step / 2], step % 2 * 2 + 1));
          }
        }
      }
    }
  }

  // Scores (in powers of two, masked with -infinity) become powers; a new maximum, which is rare, scales what there is.
  __device__ __forceinline__ void exponentiate(Scores& scores) {
    float best[kBlocks][2];
    bool higher = false;
#pragma unroll
    for (int b = 0; b < kBlocks; ++b) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        best[b][i] = fmaxf(scores[0][b][i], scores[0][b][i + 2]);
#pragma unroll
        for (int h = 1; h < kHalves; ++h) best[b][i] = fmaxf(best[b][i], fmaxf(scores[h][b][i], scores[h][b][i + 2]));
        higher = higher || best[b][i] > most[b][i];
      }
    }
    if (__any_sync(0xffffffffu, higher)) raise(best);
#pragma unroll
    for (int h = 0; h < kHalves; ++h) {
#pragma unroll
      for (int b = 0; b < kBlocks; ++b) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          scores[h][b][i] = exp2f(scores[h][b][i] - most[b][i % 2]);
          sum[b][i % 2] += scores[h][b][i];
        }
      }
    }
  }

  // Adds the tile's values, each times its power.
  __device__ __forceinline__ void add(const uint8_t* tile, const Scores& powers) {
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const uint32_t values = smem_address(tile + kKeys * kKeyRow + 2 * t * kValueRow);
#pragma unroll
    for (int h = 0; h < kHalves; ++h) {
      uint32_t p[kBlocks][2];
#pragma unroll
      for (int b = 0; b < kBlocks; ++b) {
        p[b][0] = transposed(pack(powers[h][b][0], powers[h][b][1]));
        p[b][1] = transposed(pack(powers[h][b][2], powers[h][b][3]));
      }
#pragma unroll
      for (int c = 0; c < kValuePieces; ++c) {
        uint4 v[4];  // of keys 16 h + 2t and + 1, + 8, + 9: columns 8 kPiece c + kPiece g ..
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int row = i % 2 + i / 2 * 8;  // beyond 2t
          v[i] = load_shared(values + (16 * h + row) * kValueRow + 16 * (8 * c + (g ^ turn(2 * t + i % 2))));
        }
#pragma unroll
        for (int j = 0; j < kColumnBlocks / kValuePieces; ++j) {
          uint32_t a[4];
          columns(v, j, a);
#pragma unroll
          for (int b = 0; b < kBlocks; ++b) {
            multiply(out[b][kColumnBlocks / kValuePieces * c + j], a, p[b][0], p[b][1]);
          }
        }
      }
    }
  }

  // The lanes of a query share its keys: after this every one has the query's sum.
  __device__ __forceinline__ void finish() {
#pragma unroll
    for (int b = 0; b < kBlocks; ++b) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
#pragma unroll
        for (int offset = 4; offset < 32; offset <<= 1) sum[b][i] += __shfl_xor_sync(0xffffffffu, sum[b][i], offset);
      }
    }
  }

 private:
  template <int kRow, bool kKey>
  static __device__ __forceinline__ void request_rows(uint8_t* to, const uint8_t* from, int row, int count) {
    constexpr int kLanes = kRow % 128 == 0 ? 8 : 4, kRows = 32 / kLanes;  // of a row; at once
    const int lane = threadIdx.x % 32, mine = lane / kLanes, piece = lane % kLanes;
#pragma unroll
    for (int i = 0; i < kKeys; i += kRows) {
      const int64_t source = __shfl_sync(0xffffffffu, row, i + mine);
      const int at = kKey ? key_turn(i + mine) : turn(i + mine);
#pragma unroll
      for (int j = 0; j < kRow / 16; j += kLanes) {
        copy_async16_or_zero(to + (i + mine) * kRow + 16 * ((j + piece) ^ at), from + source * kRow + 16 * (j + piece),
                             i + mine < count);
      }
    }
  }

  // A row's piece i lies at i ^ turn(row): what a quarter of a warp reads or writes at once falls into distinct banks.
  static __device__ __forceinline__ int turn(int row) { return (row & 6) ^ ((row & 1) << 2); }
  static __device__ __forceinline__ int key_turn(int row) { return kKeyRow % 128 == 0 ? turn(row) : 0; }

  // The j-th 2 columns of four rows' pieces, pairs of keys: A of mma.
  static __device__ __forceinline__ void columns(const uint4 (&v)[4], int j, uint32_t (&a)[4]) {
    if constexpr (kFp8) {
      const auto pair = [&](int i) {
        return __byte_perm(word_of(v[i], j / 2), word_of(v[i + 1], j / 2), j % 2 == 0 ? 0x5140 : 0x7362);
      };
      halves_of(pair(0), a[0], a[1]);
      halves_of(pair(2), a[2], a[3]);
    } else {
      const auto pair = [&](int i, int select) { return __byte_perm(word_of(v[i], j), word_of(v[i + 1], j), select); };
      a[0] = pair(0, 0x5410), a[1] = pair(0, 0x7632), a[2] = pair(2, 0x5410), a[3] = pair(2, 0x7632);
    }
  }
  static __device__ __forceinline__ void multiply(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    if constexpr (kFp8) {
      mma_half(d, a, b0, b1);
    } else {
      mma_bf16(d, a, b0, b1);
    }
  }
  static __device__ __forceinline__ uint32_t pack(float low, float high) {
    if constexpr (!kFp8) return pack_bf16(low, high);
    const __half2 v = __floats2half2_rn(low, high);
    return *reinterpret_cast<const uint32_t*>(&v);
  }
  __device__ __forceinline__ void raise(const float (&best)[kBlocks][2]) {
#pragma unroll
    for (int b = 0; b < kBlocks; ++b) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        float top = best[b][i];
#pragma unroll
        for (int offset = 4; offset < 32; offset <<= 1) top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, offset));
        top = fmaxf(top, most[b][i]);
        const float keep = exp2f(most[b][i] - top);
        most[b][i] = top;
        sum[b][i] *= keep;
#pragma unroll
        for (int j = 0; j < kColumnBlocks; ++j) out[b][j][i] *= keep, out[b][j][i + 2] *= keep;
      }
    }
  }
};

}  // namespace minimo::cuda
