#include "models/weight_binding.h"

#include <cstring>
#include <numeric>

#include "base/error.h"
#include "base/float_types.h"
#include "models/kv_scale_grid.h"
#include "models/tensor_share.h"

namespace minimo {
namespace {

template <typename T>
void ConvertTo(const TensorView& view, Vector* out) {
  for (size_t i = 0; i < out->size(); ++i) (*out)[i] = ToFloat(view.As<T>()[i]);
}

constexpr size_t kMaxNamed = 40;  // names in one message; a lost shard would list tens of thousands

}  // namespace

std::string Listed(const std::vector<std::string>& names) {
  std::string text;
  for (size_t i = 0; i < names.size() && i < kMaxNamed; ++i) text += (i ? ", " : "") + names[i];
  if (names.size() > kMaxNamed) text += fmt::format(" and {} more", names.size() - kMaxNamed);
  return text;
}

Status BindingFaults::AsStatus(const std::string& folder) const {
  if (empty()) return {};
  std::string message;
  if (!missing.empty()) message += fmt::format("missing tensors: {}", Listed(missing));
  for (size_t i = 0; i < wrong.size() && i < kMaxNamed; ++i) message += (message.empty() ? "" : "; ") + wrong[i];
  return Errorf("{}: {}", folder, message);
}

const TensorView* WeightBinder::FindChecked(const TensorSpec& spec) {
  const TensorView* view = checkpoint_.Find(spec.name);
  if (view == nullptr) {
    faults_->missing.push_back(spec.name);
    return nullptr;
  }
  if (view->shape != spec.shape) {
    faults_->wrong.push_back(
        fmt::format("{}: found shape {}, expected {}", spec.name, ToString(view->shape), ToString(spec.shape)));
    return nullptr;
  }
  const bool is_float = view->dtype == DType::kF32 || view->dtype == DType::kF16 || view->dtype == DType::kBf16;
  if (!is_float && !(view->dtype == DType::kF8E4M3 && spec.quantizable)) {
    faults_->wrong.push_back(fmt::format("{}: found {}, expected F32, F16 or BF16{}", spec.name, NameOf(view->dtype),
                                         spec.quantizable ? " or F8_E4M3" : ""));
    return nullptr;
  }
  if (is_float && checkpoint_.Find(ScaleName(spec.name)) != nullptr) {
    faults_->wrong.push_back(fmt::format("{}: found {} with a weight_scale_inv beside it, expected F8_E4M3", spec.name,
                                         NameOf(view->dtype)));
    return nullptr;
  }
  return view;
}

Weight WeightBinder::WithoutScales(const TensorSpec& spec, const TensorView& view) {
  Weight weight;
  weight.view.format = view.dtype == DType::kF32    ? WeightFormat::kF32
                       : view.dtype == DType::kF16  ? WeightFormat::kF16
                       : view.dtype == DType::kBf16 ? WeightFormat::kBf16
                                                    : WeightFormat::kFp8Block;
  weight.view.rows = spec.shape[0];
  weight.view.cols = spec.shape[1];
  weight.view.data = view.data;
  weight.view.row_bytes = spec.shape[1] * SizeOf(view.dtype);
  weight.view.first_row = static_cast<int32_t>(spec.first_row % kScaleBlock);
  weight.view.first_col = static_cast<int32_t>(spec.first_col % kScaleBlock);
  return weight;
}

const TensorView* WeightBinder::Scales(const TensorSpec& spec, int64_t scale_rows) {
  const std::string name = ScaleName(spec.name);
  const TensorView* scales = checkpoint_.Find(name);
  const Shape expected = {scale_rows, CoveringBlocks(spec.first_col, spec.shape[1])};
  const std::string other = PackedNamesOf(spec.name).scale;  // as compressed-tensors names them, see NameBlockScales
  if (const TensorView* others = scales ? nullptr : checkpoint_.Find(other)) {
    faults_->wrong.push_back(fmt::format("{}: found {} {}, minimo reads scales of 128x128 blocks, F32 or BF16 {}",
                                         other, NameOf(others->dtype), ToString(others->shape), ToString(expected)));
    return nullptr;
  }
  if (scales == nullptr) {
    faults_->missing.push_back(name);
    return nullptr;
  }
  if (scales->shape != expected || scales->dtype != DType::kF32) {
    faults_->wrong.push_back(fmt::format("{}: found {} {}, expected F32 {}", name, NameOf(scales->dtype),
                                         ToString(scales->shape), ToString(expected)));
    return nullptr;
  }
  return scales;
}

Weight WeightBinder::Packed(const TensorSpec& spec, const TensorView& packed) {
  const PackedNames names = PackedNamesOf(spec.name);
  const int64_t rows = spec.shape[0], cols = spec.shape[1];
  if (packed.dtype != DType::kI32 || packed.shape != Shape{rows, cols / 8} || cols % 8 != 0) {
    faults_->wrong.push_back(fmt::format("{}: found {} {}, expected I32 {} (8 columns a word)", names.packed,
                                         NameOf(packed.dtype), ToString(packed.shape),
                                         ToString(Shape{rows, cols / 8})));
    return {};
  }
  const TensorView* scale = checkpoint_.Find(names.scale);
  if (scale == nullptr) {
    faults_->missing.push_back(names.scale);
    return {};
  }
  const int64_t groups = scale->shape.size() == 2 ? scale->shape[1] : 0;
  const int64_t group = groups > 0 ? cols / groups : 0;
  if (scale->dtype != DType::kBf16 || scale->shape[0] != rows || groups * group != cols ||
      (group != 32 && group != 64 && group != 128)) {
    faults_->wrong.push_back(
        fmt::format("{}: found {} {}, expected BF16 [{}, {} / group] with a group of 32, 64 or 128", names.scale,
                    NameOf(scale->dtype), ToString(scale->shape), rows, cols));
    return {};
  }
  if (checkpoint_.Find(spec.name + "_zero_point") != nullptr) {
    faults_->wrong.push_back(
        fmt::format("{}: found zero points, only symmetric 4-bit weights are implemented", spec.name));
    return {};
  }
  if (checkpoint_.Find(spec.name + "_g_idx") != nullptr) {
    faults_->wrong.push_back(fmt::format("{}: found a group index, only groups of neighbouring columns are implemented",
                                         spec.name));
    return {};
  }
  Weight weight;
  weight.view.format = WeightFormat::kInt4Group;
  weight.view.rows = rows;
  weight.view.cols = cols;
  weight.view.data = packed.data;
  weight.view.row_bytes = cols / 2;
  weight.view.group_scales = scale->As<Bf16>();
  weight.view.scale_stride = groups;
  weight.view.group_size = static_cast<int32_t>(group);
  return weight;
}

Weight WeightBinder::Matrix(const TensorSpec& spec) {
  if (spec.quantizable) {
    if (const TensorView* packed = checkpoint_.Find(PackedNamesOf(spec.name).packed)) return Packed(spec, *packed);
  }
  const TensorView* view = FindChecked(spec);
  if (view == nullptr) return {};
  Weight weight = WithoutScales(spec, *view);
  if (view->dtype != DType::kF8E4M3) return weight;
  const TensorView* found = checkpoint_.Find(ScaleName(spec.name));
  const bool expanded =
      spec.part_of_rank && found != nullptr && !found->shape.empty() && found->shape[0] == spec.shape[0];
  const TensorView* scales = Scales(spec, expanded ? spec.shape[0] : CoveringBlocks(spec.first_row, spec.shape[0]));
  if (scales == nullptr) return {};
  weight.view.scales = scales->As<float>();
  weight.view.scale_stride = scales->shape[1];
  if (expanded) {
    auto map = std::make_shared<std::vector<int32_t>>(spec.shape[0]);
    std::iota(map->begin(), map->end(), 0);
    weight.view.scale_rows = map->data();
    weight.owners = {map};
  }
  return weight;
}

Vector WeightBinder::Floats(const TensorSpec& spec) {
  const TensorView* view = FindChecked(spec);
  if (view == nullptr) return {};
  Vector values(static_cast<size_t>(NumElements(spec.shape)));
  if (view->dtype == DType::kF32) ConvertTo<float>(*view, &values);
  if (view->dtype == DType::kF16) ConvertTo<Fp16>(*view, &values);
  if (view->dtype == DType::kBf16) ConvertTo<Bf16>(*view, &values);
  return values;
}

bool WeightBinder::KeyValue(const TensorSpec& k, const TensorSpec& v, const AttentionSpec& attention, Weight* k_weight,
                            Weight* v_weight) {
  const TensorView* k_scales = checkpoint_.Find(ScaleName(k.name));
  const bool fused = k_scales != nullptr && k_scales->shape.size() == 2 &&
                     HasFusedKvScales(attention, k_scales->shape[0]);
  if (!fused) {
    *k_weight = Matrix(k);
    *v_weight = Matrix(v);
    return false;
  }
  const TensorView* k_view = FindChecked(k);
  const TensorView* v_view = FindChecked(v);
  if (k_view == nullptr || v_view == nullptr) return false;
  k_scales = Scales(k, k_scales->shape[0]);
  const TensorView* v_scales = Scales(v, FusedValueScaleRows(attention));
  if (k_scales == nullptr || v_scales == nullptr) return false;

  // [k_scale; v_scale] stacked, and the row map of each matrix; shared by both weights.
  auto stacked = std::make_shared<std::vector<float>>();
  stacked->insert(stacked->end(), k_scales->As<float>(), k_scales->As<float>() + NumElements(k_scales->shape));
  stacked->insert(stacked->end(), v_scales->As<float>(), v_scales->As<float>() + NumElements(v_scales->shape));
  const auto bind = [&](const TensorSpec& spec, const TensorView& view, std::vector<int32_t> rows) {
    Weight weight = WithoutScales(spec, view);
    auto map = std::make_shared<std::vector<int32_t>>(std::move(rows));
    weight.view.scales = stacked->data();
    weight.view.scale_stride = k_scales->shape[1];
    weight.view.scale_rows = map->data();
    weight.owners = {stacked, map};
    return weight;
  };
  *k_weight = bind(k, *k_view, FusedKeyRows(attention));
  *v_weight = bind(v, *v_view, FusedValueRows(attention));
  return true;
}

}  // namespace minimo
