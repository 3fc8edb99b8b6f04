// The element types of safetensors files that minimo reads.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace minimo {

enum class DType : uint8_t { kF32, kF16, kBf16, kF8E4M3, kF8E8M0, kI64, kI32, kI8, kU8 };

constexpr int64_t SizeOf(DType dtype) {
  switch (dtype) {
    case DType::kI64: return 8;
    case DType::kF32:
    case DType::kI32: return 4;
    case DType::kF16:
    case DType::kBf16: return 2;
    case DType::kF8E4M3:
    case DType::kF8E8M0:
    case DType::kI8:
    case DType::kU8: return 1;
  }
  return 0;
}

// Names as safetensors headers spell them.
constexpr std::string_view NameOf(DType dtype) {
  switch (dtype) {
    case DType::kF32: return "F32";
    case DType::kF16: return "F16";
    case DType::kBf16: return "BF16";
    case DType::kF8E4M3: return "F8_E4M3";
    case DType::kF8E8M0: return "F8_E8M0";
    case DType::kI64: return "I64";
    case DType::kI32: return "I32";
    case DType::kI8: return "I8";
    case DType::kU8: return "U8";
  }
  return "?";
}

constexpr std::optional<DType> DTypeFromName(std::string_view name) {
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBf16, DType::kF8E4M3, DType::kF8E8M0, DType::kI64,
                            DType::kI32, DType::kI8, DType::kU8}) {
    if (NameOf(dtype) == name) return dtype;
  }
  return std::nullopt;
}

}  // namespace minimo
