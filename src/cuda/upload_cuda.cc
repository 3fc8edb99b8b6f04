#include "cuda/upload_cuda.h"

#include <algorithm>
#include <cstring>

#include "base/float_types.h"
#include "base/thread_team.h"
#include "cuda/kernels/repack.cuh"

namespace minimo::cuda {
namespace {

int64_t Align(int64_t bytes) { return (bytes + 255) / 256 * 256; }

SourceType SourceOf(WeightFormat format) {
  switch (format) {
    case WeightFormat::kF32: return SourceType::kF32;
    case WeightFormat::kF16: return SourceType::kF16;
    case WeightFormat::kBf16: return SourceType::kBf16;
    case WeightFormat::kInt4Group: return SourceType::kInt4;
    default: return SourceType::kFp8;
  }
}

float Element(const WeightView& v, int64_t r, int64_t c) {
  const std::byte* row = v.Row(r);
  switch (v.format) {
    case WeightFormat::kF32: return reinterpret_cast<const float*>(row)[c];
    case WeightFormat::kF16: return ToFloat(reinterpret_cast<const Fp16*>(row)[c]);
    case WeightFormat::kBf16: return ToFloat(reinterpret_cast<const Bf16*>(row)[c]);
    case WeightFormat::kInt4Group: {
      const int nibble = static_cast<int>(row[c / 2]) >> (c % 2 * 4) & 0xf;
      return static_cast<float>(nibble - 8) * ToFloat(v.group_scales[r * v.scale_stride + c / v.group_size]);
    }
    default: {
      const float scale = v.scales ? v.ScaleRow(r)[(v.first_col + c) / kScaleBlock] : 1.0f;
      return ToFloat(reinterpret_cast<const Fp8E4M3*>(row)[c]) * scale;
    }
  }
}

// True if the view begins inside a block of scale columns (a rank's share of a small model): the kernel, which knows
// blocks from column 0 on, then gets float32.
bool StraddlesScales(const WeightView& v) {
  return v.format == WeightFormat::kFp8Block && v.scales != nullptr && v.first_col % kScaleBlock != 0;
}

// Rows first + [begin, end) of `view`; `to` is row `first`.
void PutFloats(const WeightView& view, int64_t first, int64_t begin, int64_t end, float* to) {
  for (int64_t r = begin; r < end; ++r) {
    for (int64_t c = 0; c < view.cols; ++c) to[r * view.cols + c] = Element(view, first + r, c);
  }
}

// The same as they are stored, one behind the other.
void PutRows(const WeightView& view, int64_t first, int64_t begin, int64_t end, uint8_t* to) {
  const int64_t row_bytes = view.cols * view.ElementBits() / 8;
  if (view.row_bytes == row_bytes) {
    std::memcpy(to + begin * row_bytes, view.Row(first + begin), static_cast<size_t>((end - begin) * row_bytes));
    return;
  }
  for (int64_t r = begin; r < end; ++r) {
    std::memcpy(to + r * row_bytes, view.Row(first + r), static_cast<size_t>(row_bytes));
  }
}

// A row of `scale_cols` scales for each of these rows: float of FP8 blocks, bf16 of 4-bit groups.
void PutScales(const WeightView& view, int64_t first, int64_t begin, int64_t end, int64_t scale_cols, void* to) {
  for (int64_t r = begin; r < end; ++r) {
    if (view.format == WeightFormat::kInt4Group) {
      std::memcpy(static_cast<Bf16*>(to) + r * scale_cols, view.group_scales + (first + r) * view.scale_stride,
                  static_cast<size_t>(scale_cols) * 2);
      continue;
    }
    float* row = static_cast<float*>(to) + r * scale_cols;
    if (view.scales == nullptr) {
      std::fill(row, row + scale_cols, 1.0f);
    } else {
      std::memcpy(row, view.ScaleRow(first + r) + view.first_col / kScaleBlock, static_cast<size_t>(scale_cols) * 4);
    }
  }
}

}  // namespace

Status Uploader::Allocate() {
  for (int i = 0; i < kSlots; ++i) {
    MINIMO_TRY(host_[i].Allocate(kSlotBytes));
    MINIMO_TRY(device_[i].Allocate(kSlotBytes));
    MINIMO_TRY(done_[i].Create());
  }
  return {};
}

Result<int> Uploader::NextSlot() {
  const int slot = next_;
  next_ = (next_ + 1) % kSlots;
  MINIMO_CUDA_TRY(cudaEventSynchronize(done_[slot].get()));
  return slot;
}

Status Uploader::Send(int slot, int64_t bytes) {
  return ToStatus(cudaMemcpyAsync(device_[slot].As(), host_[slot].As(), static_cast<size_t>(bytes),
                                  cudaMemcpyHostToDevice, stream_),
                  "upload");
}

void Uploader::ParallelCopy(void* to, const void* from, int64_t bytes) {
  team_.ParallelFor(bytes, int64_t{1} << 14, [&](int64_t begin, int64_t end) {
    std::memcpy(static_cast<uint8_t*>(to) + begin, static_cast<const uint8_t*>(from) + begin,
                static_cast<size_t>(end - begin));
  });
}

Status Uploader::Copy(void* device, const void* host, int64_t bytes) {
  for (int64_t at = 0; at < bytes; at += kSlotBytes) {
    const int64_t count = std::min(kSlotBytes, bytes - at);
    MINIMO_ASSIGN(const int slot, NextSlot());
    ParallelCopy(host_[slot].As(), static_cast<const uint8_t*>(host) + at, count);
    MINIMO_CUDA_TRY(cudaMemcpyAsync(static_cast<uint8_t*>(device) + at, host_[slot].As(), static_cast<size_t>(count),
                                    cudaMemcpyHostToDevice, stream_));
    MINIMO_CUDA_TRY(cudaEventRecord(done_[slot].get(), stream_));
  }
  return {};
}

Status Uploader::CopyAsFloat(float* device, const WeightView& view) {
  const int64_t rows_a_slot = std::max<int64_t>(1, kSlotBytes / (view.cols * 4));
  for (int64_t first = 0; first < view.rows; first += rows_a_slot) {
    const int64_t count = std::min(rows_a_slot, view.rows - first);
    MINIMO_ASSIGN(const int slot, NextSlot());
    team_.ParallelFor(count, 1, [&](int64_t begin, int64_t end) {
      PutFloats(view, first, begin, end, host_[slot].As<float>());
    });
    const size_t bytes = static_cast<size_t>(count * view.cols * 4);
    MINIMO_CUDA_TRY(cudaMemcpyAsync(device + first * view.cols, host_[slot].As(), bytes, cudaMemcpyHostToDevice,
                                    stream_));
    MINIMO_CUDA_TRY(cudaEventRecord(done_[slot].get(), stream_));
  }
  return {};
}

// A slot holds, for each source, rows, then a scale row for each row of the source (the fused grids have no simpler
// form that all cases share): float [ceil(rows / 8), scale columns].
Status Uploader::Repack(const TileShape& shape, const WeightView& top, const WeightView* bottom, uint8_t* weights,
                        uint8_t* scales) {
  const bool interleaved = bottom != nullptr;
  const WeightView* sources[2] = {&top, interleaved ? bottom : &top};
  const int distinct = interleaved ? 2 : 1;
  const int64_t tile_rows = interleaved ? 8 : 16;  // of a source in one tile
  const bool as_floats = StraddlesScales(top) || StraddlesScales(*sources[1]);
  const int64_t bits = as_floats ? 32 : int64_t{top.ElementBits()};
  const int64_t row_bytes = top.cols * bits / 8;
  const bool int4 = top.format == WeightFormat::kInt4Group;
  if (int4 && (top.cols % 8 != 0 || sources[1]->group_size != top.group_size)) {
    return Errorf("4-bit weights of {} columns in groups of {} are not supported on CUDA: columns must come in eights "
                  "and gate and up share a group size", top.cols, top.group_size);
  }
  const int64_t group = int4 ? top.group_size : kScaleBlock;
  const int64_t scale_cols = (top.cols + group - 1) / group;
  const int64_t bytes_a_row = distinct * (row_bytes + scale_cols * 4 + 8);
  const int64_t rows_a_slot = (kSlotBytes - 8192) / bytes_a_row / tile_rows * tile_rows;
  if (rows_a_slot == 0) return Errorf("a row of {} bytes does not fit the upload slots", row_bytes);
  if (top.format != sources[1]->format) return Errorf("gate and up projections have different formats");
  const int64_t unit_bytes = int64_t{shape.units} * UnitBytes(shape.format);
  const int64_t unit_scales = int64_t{shape.units} * UnitScaleBytes(shape.format, shape.group_cols);
  for (int64_t first = 0; first < top.rows; first += rows_a_slot) {
    const int64_t count = std::min(rows_a_slot, top.rows - first);
    MINIMO_ASSIGN(const int slot, NextSlot());
    RepackParams p;
    p.source = as_floats ? SourceType::kF32 : SourceOf(top.format);
    p.shape = shape;
    if (int4) p.shape.group_cols = top.group_size;
    p.shape.tiles = static_cast<int>((count + tile_rows - 1) / tile_rows);
    p.interleaved = interleaved;
    p.rows = static_cast<int>(count);
    p.cols = static_cast<int>(top.cols);
    p.scale_cols = static_cast<int>(scale_cols);
    const bool scaled = int4 || (top.format == WeightFormat::kFp8Block && !as_floats);
    int64_t rows_at[2], scales_at[2], at = 0;
    for (int s = 0; s < distinct; ++s) {
      rows_at[s] = at;
      scales_at[s] = Align(rows_at[s] + count * row_bytes);
      at = Align(scales_at[s] + (scaled ? count * scale_cols * (int4 ? 2 : 4) : 0));
      (s == 0 ? p.top : p.bottom) = device_[slot].As(rows_at[s]);
      if (scaled) (s == 0 ? p.top_scale : p.bottom_scale) = device_[slot].As(scales_at[s]);
    }
    team_.ParallelFor(count, 8, [&](int64_t begin, int64_t end) {
      for (int s = 0; s < distinct; ++s) {
        if (as_floats) {
          PutFloats(*sources[s], first, begin, end, host_[slot].As<float>(rows_at[s]));
        } else {
          PutRows(*sources[s], first, begin, end, host_[slot].As(rows_at[s]));
        }
        if (scaled) PutScales(*sources[s], first, begin, end, scale_cols, host_[slot].As(scales_at[s]));
      }
    });
    if (!interleaved) p.bottom = p.top, p.bottom_scale = p.top_scale;
    const int64_t first_tile = first / tile_rows;
    p.weights = weights + first_tile * unit_bytes;
    p.scales = scales + first_tile * unit_scales;
    MINIMO_TRY(Send(slot, at));
    MINIMO_CUDA_TRY(LaunchRepack(p, stream_));
    MINIMO_CUDA_TRY(cudaEventRecord(done_[slot].get(), stream_));
  }
  return {};
}

}  // namespace minimo::cuda
