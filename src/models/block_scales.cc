#include "models/block_scales.h"

#include "base/float_types.h"
#include "tensor/scale_blocks.h"

namespace minimo {

void NameBlockScales(const Manifest& manifest, Checkpoint* checkpoint) {
  for (const TensorSpec& t : manifest) {
    if (!t.quantizable) continue;
    const TensorView* codes = checkpoint->Find(t.name);
    if (codes == nullptr || codes->dtype != DType::kF8E4M3 || checkpoint->Find(ScaleName(t.name))) continue;
    const std::string name = PackedNamesOf(t.name).scale;
    const TensorView* found = checkpoint->Find(name);
    if (found == nullptr || found->shape != Shape{ScaleBlocks(t.shape[0]), ScaleBlocks(t.shape[1])}) continue;
    if (found->dtype == DType::kF32) {
      checkpoint->Replace(name, ScaleName(t.name), *found, nullptr);
    } else if (found->dtype == DType::kBf16) {
      auto values = std::make_shared<std::vector<float>>();
      for (int64_t i = 0; i < NumElements(found->shape); ++i) values->push_back(ToFloat(found->As<Bf16>()[i]));
      const TensorView view = {DType::kF32, found->shape, reinterpret_cast<const std::byte*>(values->data())};
      checkpoint->Replace(name, ScaleName(t.name), view, values);
    }
  }
}

}  // namespace minimo
