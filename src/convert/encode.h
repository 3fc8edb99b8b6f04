// From a weight in any format to rows of another one. Pure functions; the caller streams.
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

// One row: nibbles (value + 8) packed two a byte, low first, and a bf16 scale per group. The scale is searched: of
// kInt4Candidates fractions of amax / 7, the one with the least squared error.
inline constexpr int kInt4Candidates = 16;
void EncodeInt4Row(const float* values, int64_t cols, int64_t group, uint8_t* packed, Bf16* scales);

}  // namespace minimo
