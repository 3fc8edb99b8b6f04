// The kernels that LinearCpu chooses from. Each computes rows [begin, end) of one task for all its tokens.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "ops/linear/cpu_isa.h"
#include "ops/linear/linear.h"
#include "ops/linear/staging.h"

namespace minimo {

// A task's staged activations: row of x r lies at data + r * row_bytes.
struct StagedRows {
  const std::byte* data = nullptr;
  int64_t row_bytes = 0;
};

using RowKernel = void (*)(const LinearTask& task, const StagedRows& x, int64_t begin, int64_t end);

struct ChosenKernel {
  RowKernel run = nullptr;
  StageFormat stage;
};

// For tests: told of every range of a task's rows before a kernel walks it, from any thread.
inline std::atomic<void (*)(const LinearTask& task, int64_t begin, int64_t end)> watch_rows{nullptr};

// Groups whose largest activation is at most this are taken as zeros: 127 / it is finite.
inline constexpr float kLeastQuantized = 1e-30f;

// rows_hwy.cc: every format and shape; x as it is.
void LinearRowsHwy(const LinearTask& task, int64_t begin, int64_t end);

// tiles_portable.cc: the specification of integer products, for any ISA.
void TileRowsPortable(const LinearTask& task, const StagedRows& x, int64_t begin, int64_t end);

#if defined(__x86_64__)
// exact_avx512.cc: .run is null where format or shape does not fit.
ChosenKernel ExactAvx512(const WeightView& weight);
void StageRowAvx512(const StageFormat& format, const float* x, int64_t cols, std::byte* to);
// exact_tiles_avx512.cc
void TileRowsExactAvx512(const LinearTask& task, const StagedRows& x, int64_t begin, int64_t end);
void StageFixedAvx512(const StageFormat& format, const float* x, int64_t cols, std::byte* to);
// tiles_pack_avx512.cc: `rows` <= 16 rows from first_row on into one tile whose padding is already there.
bool CanPackTilesAvx512(const WeightView& weight);
void PackTileAvx512(const WeightView& weight, int64_t first_row, int64_t rows, std::byte* tile);
// tiles_*.cc
void TileRowsAvx512(const LinearTask& task, const StagedRows& x, int64_t begin, int64_t end);
void TileRowsAvx2(const LinearTask& task, const StagedRows& x, int64_t begin, int64_t end);
void TileRowsAmx(const LinearTask& task, const StagedRows& x, int64_t begin, int64_t end);
#elif defined(__aarch64__)
// tiles_neon.cc
void TileRowsNeon(const LinearTask& task, const StagedRows& x, int64_t begin, int64_t end);
void TileRowsNeonDot(const LinearTask& task, const StagedRows& x, int64_t begin, int64_t end);
#endif

}  // namespace minimo
