// minimo logits: the logits of every position, and what lies between, as a safetensors file.
#include <nlohmann/json.hpp>

#include <algorithm>
#include <filesystem>
#include <thread>

#include "apps/commands.h"
#include "apps/flag_checks.h"
#include "apps/logits_cuda.h"
#include "apps/rank_flags.h"
#include "base/error.h"
#include "base/thread_team.h"
#include "checkpoint/mapped_file.h"
#include "checkpoint/safetensors.h"
#include "comm/threads.h"
#include "models/offline_runner.h"
#include "models/shard.h"

namespace minimo {
namespace {

struct Flags {
  CommonFlags common;
  RankFlags ranks;
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

int ChunkOf(const Flags& flags) { return flags.chunk > 0 ? flags.chunk : 512; }

Result<Collected> Compute(OfflineRunner& runner, size_t layers, const std::vector<int32_t>& ids, const Flags& flags) {
  Collected all;
  all.layers.resize(layers);
  const size_t chunk = static_cast<size_t>(ChunkOf(flags));
  for (size_t at = 0; at < ids.size(); at += chunk) {
    const size_t count = std::min(chunk, ids.size() - at);
    ForwardCapture capture;
    MINIMO_ASSIGN(const auto logits, runner.TryAppend({ids.data() + at, count}, static_cast<int>(count),
                                                      flags.hidden ? &capture : nullptr));
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

Result<Collected> ComputeOnRank(const LoadedModel& model, const ParallelPlan& plan, Communicator* comm,
                                const std::vector<int32_t>& ids, const Flags& flags, int threads) {
  const DType kv = flags.common.dtype == "bf16" ? DType::kBf16 : DType::kF32;
  MINIMO_ASSIGN(const RankModel part, ShardModel(model, plan, comm));
  ThreadTeam team(threads);
  OfflineRunner runner(part, team, kv, static_cast<int>(ids.size()));
  return Compute(runner, model.spec.layers.size(), ids, flags);
}

// Rank 0's results. Under mpirun this process is one rank, else all ranks are threads.
Result<Collected> ComputeOnRanks(const LoadedModel& model, const std::vector<int32_t>& ids, const Flags& flags,
                                 Communicator* world) {
  const ParallelFlags parallel{world != nullptr ? world->size() : flags.ranks.tensor_parallel_size,
                               flags.ranks.enable_expert_parallel, flags.ranks.moe_prefill, flags.ranks.moe_decode};
  MINIMO_ASSIGN(const ParallelPlan plan, PlanModel(model, parallel, 1));
  const int ranks = plan.ranks;
  const int threads = std::max(1, (flags.common.threads > 0 ? flags.common.threads : AvailableCores()) / ranks);
  if (world != nullptr) {
    MINIMO_TRY(CheckSameCheckpoint(model, *world));
    return ComputeOnRank(model, plan, world, ids, flags, threads);
  }
  auto comms = MakeThreadRanks(ranks, static_cast<int>(flags.ranks.rank_timeout_s * 1000));
  std::vector<std::thread> others;
  for (int r = 1; r < ranks; ++r) {
    others.emplace_back([&, r] {
      const auto ignored = ComputeOnRank(model, plan, comms[r].get(), ids, flags, threads);
      if (!ignored.ok()) comms[r]->Abort(ignored.error().message);
    });
  }
  Result<Collected> collected = ComputeOnRank(model, plan, comms[0].get(), ids, flags, threads);
  for (std::thread& other : others) other.join();
  return collected;
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
  MINIMO_TRY(flags.common.CheckQuantization(folder));
  MINIMO_ASSIGN(const LoadedModel model, LoadModel(folder, {.rank_files = flags.common.backend != "cuda"}));
  if (wide.empty()) return Errorf("no token ids: expected at least one (--ids 1,2,3 or --ids-file F.json)");
  if (static_cast<int64_t>(wide.size()) > model.spec.max_positions) {
    return Errorf("{} token ids, the model's context holds {}", wide.size(), model.spec.max_positions);
  }
  std::vector<int32_t> ids;
  for (const int64_t id : wide) {
    if (id < 0 || id >= model.spec.vocab) return Errorf("token id {} is not in [0, {})", id, model.spec.vocab);
    ids.push_back(static_cast<int32_t>(id));
  }
  EngineOptions ranks;
  MINIMO_TRY(flags.ranks.Fill(&ranks));
  Collected all;
  if (flags.common.backend == "cuda") {
    if (flags.hidden) return Errorf("--hidden: what lies between is kept on the CPU alone; leave out --backend cuda");
    if (ranks.ranks != nullptr || flags.ranks.tensor_parallel_size > 1) {
      return Errorf("--backend cuda: the logits of several ranks are computed on the CPU alone; leave it out");
    }
    MINIMO_ASSIGN(all.logits, LogitsOnCuda(model, ids, ChunkOf(flags), flags.common.dtype != "bf16",
                                           flags.common.threads));
  } else {
    MINIMO_ASSIGN(all, ComputeOnRanks(model, ids, flags, ranks.ranks.get()));
  }
  if (Follows(ranks)) return {};
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
  CLI::App& command = commands.Add(
      "logits",
      "Write the logits of every position (float32) to a safetensors file; on the CPU unless --backend cuda asks");
  flags->common.AddModelArgument(command);
  flags->common.AddRuntimeFlags(command);
  flags->ranks.AddTo(command);
  auto* ids = command.add_option("--ids", flags->ids, "Token ids: 1,2,3")->delimiter(',');
  command.add_option("--ids-file", flags->ids_file, "A JSON list of token ids")->excludes(ids);
  command.add_option("--out", flags->out, "The safetensors file to write")->required();
  command.add_flag("--hidden", flags->hidden, "Also hidden.N, router_index.N and router_weight.N after each layer");
  command.add_option("--chunk", flags->chunk, "Tokens a prefill chunk; 0: 512")->check(AtLeast(0));
  commands.Body(command, [flags] { return Body(*flags); });
}

}  // namespace minimo
