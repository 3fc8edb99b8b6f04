// minimo logits: the logits of every position, and what lies between, as a safetensors file.
#include <nlohmann/json.hpp>

#include <filesystem>

#include "apps/commands.h"
#include "base/error.h"
#include "base/thread_team.h"
#include "checkpoint/mapped_file.h"
#include "checkpoint/safetensors.h"
#include "models/offline_runner.h"

namespace minimo {
namespace {

struct Flags {
  CommonFlags common;
  std::vector<int64_t> ids;
  std::string ids_file;
  std::string out;
  bool hidden = false;
  int chunk = 0;
};

Result<std::vector<int64_t>> ReadIds(const std::string& path) {
  MINIMO_ASSIGN(const std::string text, ReadTextFile(path));
  const auto json = nlohmann::json::parse(text, nullptr, false);
  if (!json.is_array()) return Errorf("{}: expected a JSON list of token ids", path);
  std::vector<int64_t> ids;
  for (const auto& id : json) {
    if (!id.is_number_integer()) return Errorf("{}: {} is not a token id", path, id.dump());
    ids.push_back(id.get<int64_t>());
  }
  return ids;
}

// Rows of all chunks, appended.
struct Collected {
  std::vector<float> logits;
  std::vector<ForwardCapture::Layer> layers;
};

Collected Compute(const LoadedModel& model, const std::vector<int32_t>& ids, const Flags& flags, ThreadTeam& team) {
  const DType kv = flags.common.dtype == "f32" || flags.common.dtype == "auto" ? DType::kF32 : DType::kBf16;
  OfflineRunner runner(model, team, kv, static_cast<int>(ids.size()));
  Collected all;
  all.layers.resize(model.spec.layers.size());
  const size_t chunk = flags.chunk > 0 ? static_cast<size_t>(flags.chunk) : 512;
  for (size_t at = 0; at < ids.size(); at += chunk) {
    const size_t count = std::min(chunk, ids.size() - at);
    ForwardCapture capture;
    const auto logits = runner.Append({ids.data() + at, count}, static_cast<int>(count), flags.hidden ? &capture : nullptr);
    all.logits.insert(all.logits.end(), logits.begin(), logits.end());
    for (size_t i = 0; i < capture.layers.size(); ++i) {
      const auto append = [](auto& to, const auto& from) { to.insert(to.end(), from.begin(), from.end()); };
      append(all.layers[i].hidden, capture.layers[i].hidden);
      append(all.layers[i].router_index, capture.layers[i].router_index);
      append(all.layers[i].router_weight, capture.layers[i].router_weight);
    }
  }
  return all;
}

template <typename T>
NamedTensor Named(std::string name, DType dtype, int64_t rows, const std::vector<T>& data) {
  const auto columns = static_cast<int64_t>(data.size()) / rows;
  return {std::move(name), {dtype, {rows, columns}, reinterpret_cast<const std::byte*>(data.data())}};
}

Status Body(const Flags& flags) {
  std::vector<int64_t> wide = flags.ids;
  if (!flags.ids_file.empty()) {
    MINIMO_ASSIGN(wide, ReadIds(flags.ids_file));
  }
  MINIMO_ASSIGN(const std::string folder, ResolveModelFolder(flags.common.model));
  MINIMO_ASSIGN(const LoadedModel model, LoadModel(folder));
  if (wide.empty()) return Errorf("no token ids: expected at least one (--ids 1,2,3 or --ids-file F.json)");
  if (static_cast<int64_t>(wide.size()) > model.spec.max_positions) {
    return Errorf("{} token ids, the model's context holds {}", wide.size(), model.spec.max_positions);
  }
  std::vector<int32_t> ids;
  for (const int64_t id : wide) {
    if (id < 0 || id >= model.spec.vocab) return Errorf("token id {} is not in [0, {})", id, model.spec.vocab);
    ids.push_back(static_cast<int32_t>(id));
  }
  ThreadTeam team(flags.common.threads);
  const Collected all = Compute(model, ids, flags, team);
  const auto rows = static_cast<int64_t>(ids.size());
  std::vector<NamedTensor> tensors = {Named("logits", DType::kF32, rows, all.logits)};
  for (size_t i = 0; flags.hidden && i < all.layers.size(); ++i) {
    const ForwardCapture::Layer& layer = all.layers[i];
    tensors.push_back(Named(fmt::format("hidden.{}", i), DType::kF32, rows, layer.hidden));
    if (layer.router_index.empty()) continue;
    tensors.push_back(Named(fmt::format("router_index.{}", i), DType::kI32, rows, layer.router_index));
    tensors.push_back(Named(fmt::format("router_weight.{}", i), DType::kF32, rows, layer.router_weight));
  }
  return WriteSafetensors(flags.out, tensors);
}

}  // namespace

void AddLogits(Commands& commands) {
  auto flags = std::make_shared<Flags>();
  CLI::App& command = commands.Add("logits", "Write the logits of every position (float32) to a safetensors file");
  flags->common.AddModelArgument(command);
  flags->common.AddRuntimeFlags(command);
  auto* ids = command.add_option("--ids", flags->ids, "Token ids: 1,2,3")->delimiter(',');
  command.add_option("--ids-file", flags->ids_file, "A JSON list of token ids")->excludes(ids);
  command.add_option("--out", flags->out, "The safetensors file to write")->required();
  command.add_flag("--hidden", flags->hidden, "Also hidden.N, router_index.N and router_weight.N after each layer");
  command.add_option("--chunk", flags->chunk, "Tokens a prefill chunk; 0: 512")->check(CLI::NonNegativeNumber);
  commands.Body(command, [flags] { return Body(*flags); });
}

}  // namespace minimo
