#include "convert/copy_parts.h"

#include <algorithm>

#include "models/tensor_share.h"

namespace minimo {
namespace {

using Part = ConvertedTensor::Part;

ConvertedTensor Copy(const std::string& name, const TensorView& view, std::vector<Part> parts) {
  ConvertedTensor out;
  out.source = {name, view.dtype, view.shape};
  out.data = view.data;
  out.parts = std::move(parts);
  return out;
}

// Parts of a tensor that has one element where the weight has `per_row` rows and `per_col` columns.
std::vector<Part> Coarser(std::vector<Part> parts, int64_t per_row, int64_t per_col) {
  const auto covering = [](const Range& range, int64_t unit) {
    return Range{range.begin / unit, (range.end() + unit - 1) / unit - range.begin / unit};
  };
  for (Part& part : parts) {
    part.rows = covering(part.rows, per_row);
    part.cols = covering(part.cols, per_col);
  }
  return parts;
}

template <typename T>
ConvertedTensor Owned(const std::string& name, DType dtype, Shape shape, std::vector<T> values,
                      std::vector<Part> parts) {
  auto owner = std::make_shared<const std::vector<T>>(std::move(values));
  ConvertedTensor out =
      Copy(name, {dtype, std::move(shape), reinterpret_cast<const std::byte*>(owner->data())}, std::move(parts));
  out.owners = {owner};
  return out;
}

// One row of scales for each row of weights: for a grid that does not follow the rows' numbers.
ConvertedTensor ExpandedScales(const TensorSpec& t, const WeightView& whole, const std::vector<Part>& parts) {
  const int64_t blocks = CoveringBlocks(0, t.shape[1]);
  std::vector<float> scales;
  for (int64_t row = 0; row < t.shape[0]; ++row) {
    scales.insert(scales.end(), whole.ScaleRow(row), whole.ScaleRow(row) + blocks);
  }
  return Owned(ScaleName(t.name), DType::kF32, {t.shape[0], blocks}, std::move(scales),
               Coarser(parts, 1, kScaleBlock));
}

std::vector<ConvertedTensor> PackedParts(const Checkpoint& checkpoint, const TensorSpec& t, const WeightView& whole,
                                         const std::vector<Part>& parts) {
  const PackedNames names = PackedNamesOf(t.name);
  std::vector<int64_t> shapes;
  std::vector<Part> shape_of;  // each part's: two elements of the list of them
  for (const Part& part : parts) {
    shape_of.push_back({part.rank, {static_cast<int64_t>(shapes.size()), 2}, {0, 1}});
    shapes.insert(shapes.end(), {part.rows.count, part.cols.count});
  }
  const Shape listed = {static_cast<int64_t>(shapes.size())};
  return {Copy(names.packed, *checkpoint.Find(names.packed), Coarser(parts, 1, 8)),
          Copy(names.scale, *checkpoint.Find(names.scale), Coarser(parts, 1, whole.group_size)),
          Owned(names.shape, DType::kI64, listed, std::move(shapes), std::move(shape_of))};
}

}  // namespace

ConvertedTensor CopyWhole(const std::string& name, const TensorView& view) {
  ConvertedTensor out = Copy(name, view, {});
  out.parts = {{0, {0, out.SourceRows()}, {0, view.shape.size() == 2 ? view.shape[1] : 1}}};
  return out;
}

std::vector<ConvertedTensor> CopyParts(const Checkpoint& checkpoint, const TensorSpec& t, const Weight& whole,
                                       std::vector<Part> parts) {
  if (whole.view.format == WeightFormat::kInt4Group) return PackedParts(checkpoint, t, whole.view, parts);
  const TensorView& view = *checkpoint.Find(t.name);
  if (view.dtype != DType::kF8E4M3) return {Copy(t.name, view, std::move(parts))};
  const std::string scales = ScaleName(t.name);
  return {Copy(t.name, view, parts),
          whole.view.scale_rows != nullptr
              ? ExpandedScales(t, whole.view, parts)
              : Copy(scales, *checkpoint.Find(scales), Coarser(parts, kScaleBlock, kScaleBlock))};
}

}  // namespace minimo
