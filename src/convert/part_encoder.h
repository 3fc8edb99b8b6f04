// Rows of one weight of the source into another format, for every rank that has a part of them.
#pragma once

#include <cstdint>
#include <vector>

#include "convert/encode.h"
#include "convert/plan.h"
#include "convert/source_reader.h"

namespace minimo {

inline constexpr int64_t kBand = kScaleBlock;  // rows a thread reads at a time: one row of scale blocks

// Encode may be called by several threads for different bands.
class PartEncoder {
 public:
  PartEncoder(const ConvertedTensor& t, const SourceReader& reader);

  // Bytes of a row of part `i` in the first of its tensors.
  int64_t RowBytes(size_t i) const { return row_bytes_[i]; }
  // Those of rows [begin, end) that part `i` has.
  Range RowsOf(size_t i, int64_t begin, int64_t end) const;

  // Rows [begin, end) of one band, read once; what part i has of them to `out(i, its first row)`. Adds to sums[0] the
  // squared error, to sums[1] the squared norm.
  template <typename Out>
  Status Encode(int64_t begin, int64_t end, const Out& out, double* sums) {
    MINIMO_ASSIGN(const WeightView band, ReadBand(begin, end));
    for (size_t i = 0; i < row_bytes_.size(); ++i) {
      const Range rows = RowsOf(i, begin, end);
      if (rows.count > 0) EncodePart(i, rows, band.SliceRows(rows.begin - begin, rows.count), out(i, rows.begin), sums);
    }
    return {};
  }

  // The tensors (scales, shape) that follow the first one of part `i`.
  const std::vector<std::vector<std::byte>>& Small(size_t i) const { return small_[i]; }

 private:
  Result<WeightView> ReadBand(int64_t begin, int64_t end);
  void EncodePart(size_t i, const Range& rows, const WeightView& band, std::byte* out, double* sums);
  // `rows` as they were encoded to `out`.
  WeightView Encoded(size_t i, const Range& rows, const std::byte* out);
  float* Fp8Scales(size_t i, int64_t row);
  Bf16* Int4Scales(size_t i, int64_t row);

  const ConvertedTensor& tensor_;
  const WeightView& view_;
  const SourceReader& reader_;
  std::vector<int64_t> row_bytes_;                             // of each part
  std::vector<std::vector<std::vector<std::byte>>> small_;  // of each part
};

}  // namespace minimo
