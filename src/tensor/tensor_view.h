// A borrowed, row-major tensor of a checkpoint. The owner of the bytes (a mapped file, a Buffer) outlives the view.
#pragma once

#include <fmt/format.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "tensor/dtype.h"

namespace minimo {

using Shape = std::vector<int64_t>;

inline int64_t NumElements(const Shape& shape) {
  int64_t count = 1;
  for (const int64_t dim : shape) count *= dim;
  return count;
}

// "[2112, 192]"
inline std::string ToString(const Shape& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) text += fmt::format("{}{}", i ? ", " : "", shape[i]);
  return text + "]";
}

struct TensorView {
  DType dtype = DType::kF32;
  Shape shape;
  const std::byte* data = nullptr;

  int64_t bytes() const { return NumElements(shape) * SizeOf(dtype); }
  template <typename T>
  const T* As() const {
    return reinterpret_cast<const T*>(data);
  }
};

}  // namespace minimo
