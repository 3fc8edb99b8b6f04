// Activations as a kernel reads them: brought into its order of columns, or quantised to int8.
#pragma once

#include <cstddef>
#include <cstdint>

#include "ops/linear/tiles.h"

namespace minimo {

// How the rows of one task's x are staged.
struct StageFormat {
  // kNone: the kernel reads x itself. kPermuted: float32, each block of 128 columns in the kernel's order, zeros beyond
  // the last column. kInt8: codes of all groups, then a ScaleAndStart a group. kFixed: 31 bits in four digits of 8,
  // then a FixedUnit a group (exact_tiles_avx512.cc).
  enum class Kind : uint8_t { kNone, kPermuted, kInt8, kFixed };
  Kind kind = Kind::kNone;
  const int32_t* order = nullptr;  // kPermuted: [128], the column at each place of a block
  int32_t group = 0;               // kInt8, kFixed: columns a scale
  int32_t offset = 0;              // kInt8: of the weights' codes

  bool operator==(const StageFormat&) const = default;
};

inline constexpr int64_t kExactBlock = 128;  // columns: one FP8 scale, two 4-bit groups

// kInt8: one of each group of one row.
struct ScaleAndStart {
  float scale;
  int32_t start;  // -offset * sum of the codes: where a sum over codes with an offset begins
};

// kFixed: one of each group of one row.
struct FixedUnit {
  float unit;                     // 2^16 times what an integer counts
  int32_t low_start, high_start;  // -8 * sum of the two low digits, of the two high ones: where sums of products begin
};

// Rows of float32 lie a block apart beyond their length: at 4096 columns and the like all rows' lines of one column
// would else fall into the same set of the first-level cache.
inline int64_t StagedRowBytes(const StageFormat& f, int64_t cols) {
  if (f.kind == StageFormat::Kind::kPermuted) return ((cols + kExactBlock - 1) / kExactBlock + 1) * kExactBlock * 4;
  const int64_t groups = (cols + f.group - 1) / f.group;
  const int64_t group_bytes = f.kind == StageFormat::Kind::kFixed ? f.group * 4 + int64_t{sizeof(FixedUnit)}
                                                                  : f.group + int64_t{sizeof(ScaleAndStart)};
  const int64_t bytes = groups * group_bytes;
  return (bytes + 63) / 64 * 64;
}

// x [cols] -> to [StagedRowBytes].
void StageRow(const StageFormat& format, const float* x, int64_t cols, std::byte* to);

}  // namespace minimo
