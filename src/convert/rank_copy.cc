#include "convert/rank_copy.h"

#include <cstring>

#include "models/tensor_share.h"

namespace minimo {
namespace {

ConvertedTensor Copy(const std::string& name, DType dtype, Shape shape, const std::byte* data, int64_t stride) {
  ConvertedTensor out;
  out.outputs = {{name, dtype, std::move(shape)}};
  const int64_t rows = out.outputs[0].shape[0];
  out.source = {data, rows, out.outputs[0].bytes() / rows, stride};
  return out;
}

// Rows [row, row + rows) and columns [col, col + cols) of a matrix.
ConvertedTensor Block(const std::string& name, const TensorView& view, int64_t row, int64_t rows, int64_t col,
                      int64_t cols) {
  const int64_t element = SizeOf(view.dtype), stride = view.shape[1] * element;
  return Copy(name, view.dtype, {rows, cols}, view.data + row * stride + col * element, stride);
}

template <typename T>
ConvertedTensor Owned(const std::string& name, DType dtype, Shape shape, std::vector<T> values) {
  auto owner = std::make_shared<const std::vector<T>>(std::move(values));
  ConvertedTensor out = Copy(name, dtype, std::move(shape), reinterpret_cast<const std::byte*>(owner->data()), 0);
  out.source.stride = out.source.row_bytes;
  out.owners = {owner};
  return out;
}

// One row of scales for each row of weights: for a grid that does not follow the rows' numbers.
ConvertedTensor ExpandedScales(const TensorSpec& part, const WeightView& whole) {
  const int64_t first = part.first_col / kScaleBlock, blocks = CoveringBlocks(part.first_col, part.shape[1]);
  std::vector<float> scales;
  for (int64_t row = 0; row < part.shape[0]; ++row) {
    const float* from = whole.ScaleRow(part.first_row + row) + first;
    scales.insert(scales.end(), from, from + blocks);
  }
  return Owned(ScaleName(part.name), DType::kF32, {part.shape[0], blocks}, std::move(scales));
}

std::vector<ConvertedTensor> CopyPacked(const Checkpoint& checkpoint, const TensorSpec& part, const WeightView& whole) {
  const PackedNames names = PackedNamesOf(part.name);
  const int64_t group = whole.group_size, rows = part.shape[0], cols = part.shape[1];
  return {Block(names.packed, *checkpoint.Find(names.packed), part.first_row, rows, part.first_col / 8, cols / 8),
          Block(names.scale, *checkpoint.Find(names.scale), part.first_row, rows, part.first_col / group, cols / group),
          Owned<int64_t>(names.shape, DType::kI64, {2}, {rows, cols})};
}

}  // namespace

ConvertedTensor CopyWhole(const std::string& name, const TensorView& view) {
  const int64_t rows = view.shape.empty() ? 1 : std::max<int64_t>(view.shape[0], 1);
  ConvertedTensor out;
  out.outputs = {{name, view.dtype, view.shape}};
  out.source = {view.data, rows, view.bytes() / rows, view.bytes() / rows};
  return out;
}

std::vector<ConvertedTensor> CopyPart(const Checkpoint& checkpoint, const TensorSpec& part, const Weight& whole) {
  if (whole.view.format == WeightFormat::kInt4Group) return CopyPacked(checkpoint, part, whole.view);
  const TensorView& view = *checkpoint.Find(part.name);
  if (!part.IsMatrix()) {
    const int64_t element = SizeOf(view.dtype);
    return {Copy(part.name, view.dtype, part.shape, view.data + part.first_row * element, element)};
  }
  const int64_t rows = part.shape[0], cols = part.shape[1];
  std::vector<ConvertedTensor> copies = {Block(part.name, view, part.first_row, rows, part.first_col, cols)};
  if (view.dtype != DType::kF8E4M3) return copies;
  if (whole.view.scale_rows != nullptr) {
    copies.push_back(ExpandedScales(part, whole.view));
  } else {
    const std::string name = ScaleName(part.name);
    copies.push_back(Block(name, *checkpoint.Find(name), part.first_row / kScaleBlock,
                           CoveringBlocks(part.first_row, rows), part.first_col / kScaleBlock,
                           CoveringBlocks(part.first_col, cols)));
  }
  return copies;
}

}  // namespace minimo
