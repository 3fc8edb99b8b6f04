// From a weight in any format to rows of another one. Pure functions on rows that lie one after the other; the caller
// streams. Finite values give the same bits on every instruction set.
#pragma once

#include <cstdint>

#include "base/float_types.h"
#include "tensor/weight_view.h"

namespace minimo {

// Rows [begin, end) dequantised to float32 [end - begin, cols], code * scale as the reference does.
void DecodeRows(const WeightView& weight, int64_t begin, int64_t end, float* out);

// Round to nearest even.
void EncodeBf16(const float* values, int64_t count, Bf16* out);

// One 128-row band: codes [rows, cols] and one scale per 128 columns, scale = amax / 448 (1 for an all-zero block).
// rows <= 128.
void EncodeFp8Band(const float* values, int64_t rows, int64_t cols, Fp8E4M3* codes, float* scales);

// Groups of kInt4Group values: nibbles (value + 8) packed two a byte, low first, and a bf16 scale a group. Of
// kInt4Candidates fractions of amax / 7, from 1 down to kInt4SmallestFraction, the scale with the least squared error
// is taken, the largest of equals; an all-zero group has 1. The definition, in float32 with every product and sum
// rounded and in the order of the values:
//   scale = bf16(amax / 7 * fraction)
//   code = clamp(round(value * (1 / scale)), -7, 7)
//   error = sum (code * scale - value)^2
inline constexpr int kInt4Group = 64;
inline constexpr int kInt4Candidates = 16;
inline constexpr float kInt4SmallestFraction = 0.7f;  // below it clipping costs more than rounding gains
void EncodeInt4(const float* values, int64_t groups, uint8_t* packed, Bf16* scales);

// Adds the squared error of `made` and the squared norm of `values`.
void AddSquares(const float* values, const float* made, int64_t count, double* error, double* norm);

}  // namespace minimo
