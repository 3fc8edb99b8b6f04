// The safetensors container: 8 bytes little-endian header length, a JSON header {name: {dtype, shape, data_offsets}},
// then the tensors' bytes without gaps. https://github.com/huggingface/safetensors, README "Format".
// Everything in the header is untrusted: lengths, offsets, shapes and overlaps are checked before a view is made.
#pragma once

#include <cstddef>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "minimo/result.h"
#include "tensor/buffer.h"
#include "tensor/tensor_view.h"

namespace minimo {

class MappedFile;

class SafetensorsFile {
 public:
  static Result<SafetensorsFile> Open(const std::string& path);

  const std::string& path() const;
  const std::map<std::string, TensorView>& tensors() const { return tensors_; }
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  const std::shared_ptr<const MappedFile>& file() const { return file_; }

 private:
  std::shared_ptr<const MappedFile> file_;
  std::map<std::string, TensorView> tensors_;
  std::map<std::string, std::string> metadata_;
  std::vector<std::shared_ptr<Buffer<std::byte>>> aligned_;  // copies of tensors the file holds misaligned
};

struct NamedTensor {
  std::string name;
  TensorView view;
};

// A whole file at once, see SafetensorsWriter.
Status WriteSafetensors(const std::string& path, std::span<const NamedTensor> tensors,
                        const std::map<std::string, std::string>& metadata = {});

}  // namespace minimo
