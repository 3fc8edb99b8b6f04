// A checkpoint folder in the Hugging Face layout: one model.safetensors, or shards listed by
// model.safetensors.index.json, plus model_mtp.safetensors where the index leaves the MTP tensors out.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "checkpoint/safetensors.h"
#include "minimo/result.h"
#include "tensor/tensor_view.h"

namespace minimo {

class Checkpoint {
 public:
  // Maps every shard and checks that each tensor is where the index says. `folder` must exist.
  static Result<Checkpoint> Open(const std::string& folder);

  // Tensors in memory instead of files: for dummy weights.
  static Checkpoint InMemory(std::string name, std::map<std::string, TensorView> tensors,
                             std::vector<std::shared_ptr<const void>> owners);

  // In place of `name`, which is there, a tensor called `as`; `owner` of its bytes if no file is.
  void Replace(const std::string& name, const std::string& as, TensorView view, std::shared_ptr<const void> owner);

  const std::string& folder() const { return folder_; }
  // Null if there is no such tensor.
  const TensorView* Find(const std::string& name) const;
  const std::map<std::string, TensorView>& tensors() const { return tensors_; }
  const std::vector<SafetensorsFile>& shards() const { return shards_; }
  int64_t total_bytes() const { return total_bytes_; }

 private:
  Status Add(SafetensorsFile shard);

  std::string folder_;
  std::vector<SafetensorsFile> shards_;
  std::map<std::string, TensorView> tensors_;
  std::vector<std::shared_ptr<const void>> owners_;
  int64_t total_bytes_ = 0;
};

// config.json of a checkpoint folder as text, after plain checks of the path (missing, a file, a GGUF file, empty).
Result<std::string> ReadConfigText(const std::string& folder);

}  // namespace minimo
