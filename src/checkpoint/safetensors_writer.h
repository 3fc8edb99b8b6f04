// Writes one safetensors file tensor by tensor, in bounded memory. The file is PATH.tmp until Finish has synced and
// renamed it: PATH is whole or absent.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "minimo/result.h"
#include "tensor/tensor_view.h"

namespace minimo {

struct TensorDeclaration {
  std::string name;
  DType dtype = DType::kF32;
  Shape shape;
  int64_t bytes() const { return NumElements(shape) * SizeOf(dtype); }
};

// What precedes the tensors' bytes, which follow in this order without gaps: the header's length and the header.
std::string SafetensorsHeader(const std::vector<TensorDeclaration>& tensors,
                              const std::map<std::string, std::string>& metadata);

class SafetensorsWriter {
 public:
  // Writes the header for `tensors`, whose bytes Append then takes in this order.
  static Result<SafetensorsWriter> Create(const std::string& path, const std::vector<TensorDeclaration>& tensors,
                                          const std::map<std::string, std::string>& metadata = {});
  SafetensorsWriter(SafetensorsWriter&& other) noexcept;
  ~SafetensorsWriter();  // an unfinished file is removed

  Status Append(const void* data, size_t bytes);
  Status Finish();  // CHECKs that exactly the declared bytes came

 private:
  SafetensorsWriter(std::string path, int fd, int64_t expected)
      : path_(std::move(path)), fd_(fd), expected_(expected) {}

  std::string path_;
  int fd_ = -1;
  int64_t expected_ = 0;
  int64_t written_ = 0;
};

}  // namespace minimo
