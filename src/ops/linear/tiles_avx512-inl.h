// What the AVX-512 kernels over tiles share.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "ops/linear/row_kernels.h"

#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,fma")

namespace minimo {

inline constexpr int64_t kTileLine = kTileRows * 4;  // bytes: one load of codes
// One token, bound by memory: bytes from a load to the line prefetched beside it. Hardware stops at the end of a page
// of 4 KB; 1 KB and 4 KB were slower, 12 to 24 KB alike.
inline constexpr int64_t kTileAhead = 8192;

// 4 bytes in every lane.
inline __m512i Broadcast(const void* p) { return _mm512_set1_epi32(*static_cast<const int32_t*>(p)); }

inline void Prefetch(const std::byte* p) { _mm_prefetch(reinterpret_cast<const char*>(p), _MM_HINT_T0); }

// Of 16 rows, bf16.
inline __m512 LoadScales(const std::byte* scales) {
  const __m512i bits = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(scales)));
  return _mm512_castsi512_ps(_mm512_slli_epi32(bits, 16));
}

// sum += 4 products of each lane. In assembly, for GCC 12 copies accumulators around the intrinsic in a loop and
// spills.
inline void AddProducts(__m512i weights, __m512i x, __m512i* sum) {
  asm("vpdpbusd %2, %1, %0" : "+v"(*sum) : "v"(weights), "v"(x));
}

inline const std::byte* XRow(const LinearTask& task, const StagedRows& x, int64_t t) {
  return x.data + (task.x_rows ? task.x_rows[t] : t) * x.row_bytes;
}

// Of the tile that begins at `row`, into out[row] and on.
inline void StoreRows(const LinearTask& task, int64_t row, __m512 values, float* out) {
  const int64_t left = task.weight.rows - row;
  const auto mask = static_cast<__mmask16>(left >= kTileRows ? 0xffff : (1u << left) - 1);
  _mm512_mask_storeu_ps(out + row, mask, values);
}

}  // namespace minimo

#pragma GCC pop_options
