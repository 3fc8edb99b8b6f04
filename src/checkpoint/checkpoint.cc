#include "checkpoint/checkpoint.h"

#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>

#include "base/error.h"
#include "checkpoint/mapped_file.h"

namespace minimo {
namespace fs = std::filesystem;
namespace {

constexpr const char* kSingle = "model.safetensors";
constexpr const char* kIndex = "model.safetensors.index.json";
constexpr const char* kMtp = "model_mtp.safetensors";

// tensor name -> shard file name
Result<std::map<std::string, std::string>> ReadIndex(const std::string& path) {
  MINIMO_ASSIGN(const std::string text, ReadTextFile(path));
  nlohmann::json index;
  try {
    index = nlohmann::json::parse(text);
  } catch (const nlohmann::json::exception& fault) {
    return Errorf("{}: not valid JSON ({})", path, fault.what());
  }
  if (!index.is_object() || !index.contains("weight_map") || !index["weight_map"].is_object()) {
    return Errorf("{}: expected an object with weight_map", path);
  }
  std::map<std::string, std::string> map;
  for (const auto& [name, file] : index["weight_map"].items()) {
    if (!file.is_string()) return Errorf("{}: weight_map of {} is not a file name", path, name);
    const auto& shard = file.get_ref<const std::string&>();
    if (shard.empty() || shard.find('/') != std::string::npos) {
      return Errorf("{}: weight_map of {} names {}, expected a file beside the index", path, name, shard);
    }
    map[name] = shard;
  }
  if (map.empty()) return Errorf("{}: weight_map is empty", path);
  return map;
}

}  // namespace

Status Checkpoint::Add(SafetensorsFile shard) {
  for (const auto& [name, view] : shard.tensors()) {
    if (!tensors_.emplace(name, view).second)
      return Errorf("{}: tensor {} is in another shard too", shard.path(), name);
    total_bytes_ += view.bytes();
  }
  shards_.push_back(std::move(shard));
  return {};
}

Result<Checkpoint> Checkpoint::Open(const std::string& folder) {
  Checkpoint checkpoint;
  checkpoint.folder_ = folder;
  const fs::path root(folder);
  const std::string index_path = (root / kIndex).string();
  std::error_code ignored;
  if (fs::exists(index_path, ignored)) {
    MINIMO_ASSIGN(const auto map, ReadIndex(index_path));
    std::set<std::string> files;
    for (const auto& [name, file] : map) files.insert(file);
    for (const std::string& file : files) {
      const std::string path = (root / file).string();
      if (!fs::exists(path, ignored)) return Errorf("{}: shard is missing, {} lists it", path, kIndex);
      MINIMO_ASSIGN(SafetensorsFile shard, SafetensorsFile::Open(path));
      for (const auto& [name, view] : shard.tensors()) {
        const auto listed = map.find(name);
        if (listed == map.end()) return Errorf("{}: tensor {} is not listed by {}", path, name, kIndex);
        if (listed->second != file)
          return Errorf("{}: tensor {} belongs to {} by the index", path, name, listed->second);
      }
      MINIMO_TRY(checkpoint.Add(std::move(shard)));
    }
    for (const auto& [name, file] : map) {
      if (!checkpoint.Find(name)) return Errorf("{}: tensor {} is not in {}", index_path, name, file);
    }
  } else {
    const std::string path = (root / kSingle).string();
    if (!fs::exists(path, ignored)) return Errorf("{}: neither {} nor {} is there", folder, kSingle, kIndex);
    MINIMO_ASSIGN(SafetensorsFile single, SafetensorsFile::Open(path));
    MINIMO_TRY(checkpoint.Add(std::move(single)));
  }

  const std::string mtp_path = (root / kMtp).string();
  bool lists_mtp = false;
  for (const SafetensorsFile& shard : checkpoint.shards_) lists_mtp |= fs::path(shard.path()).filename() == kMtp;
  if (!lists_mtp && fs::exists(mtp_path, ignored)) {
    MINIMO_ASSIGN(SafetensorsFile mtp, SafetensorsFile::Open(mtp_path));
    MINIMO_TRY(checkpoint.Add(std::move(mtp)));
  }
  return checkpoint;
}

Checkpoint Checkpoint::InMemory(std::string name, std::map<std::string, TensorView> tensors,
                                std::vector<std::shared_ptr<const void>> owners) {
  Checkpoint checkpoint;
  checkpoint.folder_ = std::move(name);
  checkpoint.tensors_ = std::move(tensors);
  checkpoint.owners_ = std::move(owners);
  for (const auto& [tensor, view] : checkpoint.tensors_) checkpoint.total_bytes_ += view.bytes();
  return checkpoint;
}

void Checkpoint::Replace(const std::string& name, const std::string& as, TensorView view,
                         std::shared_ptr<const void> owner) {
  tensors_.erase(name);
  tensors_.insert_or_assign(as, std::move(view));
  if (owner) owners_.push_back(std::move(owner));
}

const TensorView* Checkpoint::Find(const std::string& name) const {
  const auto found = tensors_.find(name);
  return found == tensors_.end() ? nullptr : &found->second;
}

Result<std::string> ReadConfigText(const std::string& folder) {
  std::error_code ignored;
  if (!fs::exists(folder, ignored)) return Errorf("{}: no such folder", folder);
  if (!fs::is_directory(folder, ignored)) {
    if (fs::path(folder).extension() == ".gguf") {
      return Errorf("{}: a GGUF file; minimo reads safetensors checkpoints in the Hugging Face layout", folder);
    }
    return Errorf("{}: a file; expected a checkpoint folder with config.json and safetensors", folder);
  }
  const fs::path config = fs::path(folder) / "config.json";
  if (!fs::exists(config, ignored)) {
    for (const auto& entry : fs::directory_iterator(folder, ignored)) {
      if (entry.path().extension() == ".gguf") {
        return Errorf("{}: a GGUF file; minimo reads safetensors checkpoints in the Hugging Face layout",
                      entry.path().string());
      }
    }
    return Errorf("{}: config.json is not there; expected a checkpoint folder in the Hugging Face layout", folder);
  }
  return ReadTextFile(config.string());
}

}  // namespace minimo
