// Vectorised passes over one row of float32 logits (Highway, the instruction set chosen at run time). A row is
// [n] float32, contiguous, any alignment.
#pragma once

#include <cstddef>
#include <cstdint>

namespace minimo {

inline constexpr size_t kMaxBlock = 64;    // logits that share one block maximum
inline constexpr size_t kSumChunk = 1024;  // logits that share one partial sum
inline constexpr size_t kMassThresholds = 8;

struct RowScan {
  float max = 0;
  int32_t argmax = 0;  // the lowest index of max
  bool bad = false;    // a NaN or +infinity was met; max and argmax then mean nothing
};

// One pass: the maximum, its place, faults, and the maximum of every block: block_max is [ceil(n / kMaxBlock)].
RowScan ScanRow(const float* x, size_t n, float* block_max);

// The sum of exp((x[i] - max) * scale); chunk_sums: null or [ceil(n / kSumChunk)].
double SumExp(const float* x, size_t n, float max, float scale, double* chunk_sums);

// mass[j] = the sum of exp((x[i] - max) * scale) over x[i] >= thresholds[j], j < kMassThresholds.
void MassAbove(const float* x, size_t n, float max, float scale, const float* thresholds, double* mass);

// out[i] = exp((x[i] - max) * scale)
void ExpRow(const float* x, size_t n, float max, float scale, float* out);

// Writes values and indices of x[i] >= threshold, in order; both need room for n + 64. Returns how many.
size_t Collect(const float* x, size_t n, float threshold, float* values, int32_t* indices);

size_t CountGreater(const float* x, size_t n, float value);

// x[i] = -infinity where bit i (i % 32 of bits[i / 32]) is 0.
void MaskRow(float* x, size_t n, const uint32_t* bits);

}  // namespace minimo
