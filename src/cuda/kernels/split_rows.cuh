// bf16 rows as sums of two e4m3 values times a power of two: what batch_split multiplies. The power is that of a
// token's 128 columns (a unit), whose largest value becomes 128 to 256; the second value is what the first leaves, in
// steps of 2^-9, so nothing is lost of values above 2^-9 of the largest, and at most 2^-17 of the largest of others.
//
// Tokens come in runs of kSplitRun. A run and unit: a row of 128 bytes of first values for each of the run's tokens,
// padded to 8, as many rows of second ones, then the powers, a float each. Rows lie as wgmma takes them (128-byte
// swizzle) and in the order of an FP8 unit's columns: piece p = 4 s + 2 h + c of 16 columns at place
// (4 c + 2 s + h) ^ (token % 8).
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace minimo::cuda {

inline constexpr int kSplitRun = 128;
inline constexpr int kSplitTokenBytes = 2 * 128 + 4;  // of a unit

struct SplitRows {
  uint8_t* data = nullptr;  // PadTo(tokens, 8) * units * kSplitTokenBytes; null: none
  int units = 0;            // of 128 columns
  int cols = 0;             // beyond are zeros
};

// x: bf16 [.., stride], anything beyond the columns; slot_token: [tokens] row of x, null: the token itself.
cudaError_t LaunchSplitRows(const SplitRows& to, int tokens, const void* x, int stride, const int* slot_token,
                            cudaStream_t stream);

}  // namespace minimo::cuda
