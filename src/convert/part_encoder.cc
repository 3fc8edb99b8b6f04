#include "convert/part_encoder.h"

#include <algorithm>
#include <cstring>

#include "models/w4_config.h"
#include "tensor/scale_blocks.h"

namespace minimo {
namespace {

using Kind = ConvertedTensor::Kind;

constexpr int64_t kStrip = 8;  // rows encoded at a time where no scale spans rows: some 200 KB of float32
static_assert(kW4Group == kInt4Group);

}  // namespace

PartEncoder::PartEncoder(const ConvertedTensor& t, const SourceReader& reader)
    : tensor_(t), view_(t.weight.view), reader_(reader) {
  for (const ConvertedTensor::Part& part : t.parts) {
    const std::vector<TensorDeclaration> outputs = t.Outputs(part);
    row_bytes_.push_back(outputs[0].bytes() / part.rows.count);
    small_.emplace_back();
    for (size_t i = 1; i < outputs.size(); ++i) small_.back().emplace_back(static_cast<size_t>(outputs[i].bytes()));
    if (t.kind == Kind::kInt4) {
      const int64_t shape[] = {part.rows.count, part.cols.count};
      std::memcpy(small_.back()[1].data(), shape, sizeof shape);
    }
  }
}

Range PartEncoder::RowsOf(size_t i, int64_t begin, int64_t end) const {
  const Range& rows = tensor_.parts[i].rows;
  const int64_t first = std::max(begin, rows.begin);
  return {first, std::max<int64_t>(0, std::min(end, rows.end()) - first)};
}

Result<WeightView> PartEncoder::ReadBand(int64_t begin, int64_t end) {
  thread_local std::vector<std::byte> bytes;
  WeightView band = view_.SliceRows(begin, end - begin);
  bytes.resize(static_cast<size_t>(band.rows * band.row_bytes));
  MINIMO_TRY(reader_.Read(band.data, static_cast<int64_t>(bytes.size()), bytes.data()));
  band.data = bytes.data();
  return band;
}

void PartEncoder::EncodePart(size_t i, const Range& rows, const WeightView& band, std::byte* out, double* sums) {
  thread_local std::vector<float> values, back;
  const ConvertedTensor::Part& part = tensor_.parts[i];
  const WeightView mine = band.SliceCols(part.cols.begin, part.cols.count);
  const int64_t strip = tensor_.kind == Kind::kFp8 ? kBand : kStrip;
  values.resize(static_cast<size_t>(strip * mine.cols));
  back.resize(values.size());
  for (int64_t r = 0; r < rows.count; r += strip, out += strip * row_bytes_[i]) {
    const int64_t count = std::min(strip, rows.count - r), first = rows.begin - part.rows.begin + r;
    DecodeRows(mine, r, r + count, values.data());
    switch (tensor_.kind) {
      case Kind::kCopy: break;
      case Kind::kBf16: EncodeBf16(values.data(), count * mine.cols, reinterpret_cast<Bf16*>(out)); break;
      case Kind::kFp8:
        EncodeFp8Band(values.data(), count, mine.cols, reinterpret_cast<Fp8E4M3*>(out), Fp8Scales(i, first));
        break;
      case Kind::kInt4:
        EncodeInt4(values.data(), count * (mine.cols / kW4Group), reinterpret_cast<uint8_t*>(out),
                   Int4Scales(i, first));
        break;
    }
    DecodeRows(Encoded(i, {first, count}, out), 0, count, back.data());
    AddSquares(values.data(), back.data(), count * mine.cols, &sums[0], &sums[1]);
  }
}

WeightView PartEncoder::Encoded(size_t i, const Range& rows, const std::byte* out) {
  WeightView v;
  v.rows = rows.count;
  v.cols = tensor_.parts[i].cols.count;
  v.data = out;
  v.row_bytes = row_bytes_[i];
  v.format = WeightFormat::kBf16;
  if (tensor_.kind == Kind::kFp8) {
    v.format = WeightFormat::kFp8Block;
    v.scales = Fp8Scales(i, rows.begin);
    v.scale_stride = ScaleBlocks(v.cols);
  } else if (tensor_.kind == Kind::kInt4) {
    v.format = WeightFormat::kInt4Group;
    v.group_scales = Int4Scales(i, rows.begin);
    v.scale_stride = v.cols / kW4Group;
    v.group_size = kW4Group;
  }
  return v;
}

float* PartEncoder::Fp8Scales(size_t i, int64_t row) {
  return reinterpret_cast<float*>(small_[i][0].data()) + row / kScaleBlock * ScaleBlocks(tensor_.parts[i].cols.count);
}

Bf16* PartEncoder::Int4Scales(size_t i, int64_t row) {
  return reinterpret_cast<Bf16*>(small_[i][0].data()) + row * (tensor_.parts[i].cols.count / kW4Group);
}

}  // namespace minimo
