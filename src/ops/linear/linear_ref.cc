#include "base/float_types.h"
#include "ops/linear/linear.h"

namespace minimo {

float Dequantize(const WeightView& w, int64_t r, int64_t c) {
  const std::byte* row = w.Row(r);
  switch (w.format) {
    case WeightFormat::kF32: return reinterpret_cast<const float*>(row)[c];
    case WeightFormat::kF16: return ToFloat(reinterpret_cast<const Fp16*>(row)[c]);
    case WeightFormat::kBf16: return ToFloat(reinterpret_cast<const Bf16*>(row)[c]);
    case WeightFormat::kFp8Block: {
      const float code = ToFloat(reinterpret_cast<const Fp8E4M3*>(row)[c]);
      return w.scales ? code * w.ScaleRow(r)[(w.first_col + c) / kScaleBlock] : code;
    }
    case WeightFormat::kInt4Group: {
      const auto byte = static_cast<int>(row[c / 2]);
      const int value = (c % 2 ? byte >> 4 : byte & 0xf) - 8;
      return static_cast<float>(value) * ToFloat(w.group_scales[r * w.scale_stride + c / w.group_size]);
    }
  }
  return 0;
}

void LinearRef(std::span<const LinearTask> tasks) {
  for (const LinearTask& task : tasks) {
    for (int64_t t = 0; t < task.tokens; ++t) {
      for (int64_t r = 0; r < task.weight.rows; ++r) {
        double sum = 0;
        for (int64_t c = 0; c < task.weight.cols; ++c) sum += double{Dequantize(task.weight, r, c)} * task.X(t)[c];
        task.Out(t)[r] = static_cast<float>(sum);
      }
    }
  }
}

}  // namespace minimo
