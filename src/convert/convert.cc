#include "convert/convert.h"

#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/clock.h"
#include "base/error.h"
#include "base/thread_team.h"
#include "convert/ledger.h"
#include "convert/shard_stream.h"

namespace minimo {
namespace fs = std::filesystem;
namespace {

const char* NameOf(TargetFormat target) {
  switch (target) {
    case TargetFormat::kBf16: return "bf16";
    case TargetFormat::kFp8: return "fp8";
    case TargetFormat::kW4: return "w4 group 64";
  }
  return "";
}

int64_t OutputBytes(const ConvertPlan& plan, size_t shard) {
  int64_t bytes = 0;
  for (size_t i = plan.shards[shard].first; i < plan.shards[shard].second; ++i) {
    for (const TensorDeclaration& d : plan.tensors[i].outputs) bytes += d.bytes();
  }
  return bytes;
}

std::string ShardName(size_t shard, size_t count) {
  return fmt::format("model-{:05}-of-{:05}.safetensors", shard + 1, count);
}

// An empty or new folder, or one that an equal conversion began.
Result<Ledger> OpenLedger(const ConvertOptions& options, size_t shards) {
  std::error_code fault;
  if (fs::exists(options.out, fault) && fs::equivalent(options.in, options.out, fault)) {
    return Errorf("{}: is the source; name another folder", options.out);
  }
  fs::create_directories(options.out, fault);
  if (fault) return Errorf("{}: cannot create: {}", options.out, fault.message());
  Ledger wanted;
  wanted.request = NameOf(options.target);
  wanted.shards = static_cast<int>(shards);
  MINIMO_ASSIGN(wanted.source, SourceFingerprint(options.in));
  MINIMO_ASSIGN(std::optional<Ledger> found, Ledger::Read(options.out));
  if (!found) {
    if (!fs::is_empty(options.out, fault)) {
      return Errorf("{}: holds files that no conversion of minimo began; name an empty folder", options.out);
    }
    MINIMO_TRY(wanted.Write(options.out));
    return wanted;
  }
  if (found->request != wanted.request) {
    return Errorf("{}: holds a conversion to {}, asked for {}; name another folder", options.out, found->request,
                  wanted.request);
  }
  if (found->source != wanted.source || found->shards != wanted.shards) {
    return Errorf("{}: {} has changed since this conversion began; delete the folder and convert again", options.out,
                  options.in);
  }
  return *std::move(found);
}

// The record of a finished shard whose file is still there in full.
const ShardRecord* Finished(const Ledger& ledger, const std::string& folder, const std::string& file) {
  for (const ShardRecord& record : ledger.done) {
    std::error_code fault;
    if (record.file == file && fs::file_size(fs::path(folder) / file, fault) == static_cast<uintmax_t>(record.bytes)) {
      return &record;
    }
  }
  return nullptr;
}

// Everything beside the weights and their index, as it is: tokenizer, template, generation config, licence.
Status CopyOtherFiles(const std::string& in, const std::string& out) {
  std::error_code fault;
  for (const auto& entry : fs::directory_iterator(in, fault)) {
    const std::string name = entry.path().filename().string();
    if (!entry.is_regular_file() || name.ends_with(".safetensors") || name.ends_with(".index.json") ||
        name == "config.json" || name == "minimo-convert.json" || name.ends_with(".tmp")) {
      continue;
    }
    fs::copy_file(entry.path(), fs::path(out) / name, fs::copy_options::overwrite_existing, fault);
    if (fault) return Errorf("{}: cannot copy {}: {}", out, name, fault.message());
  }
  return {};
}

Status WriteIndex(const ConvertPlan& plan, const std::string& out) {
  nlohmann::ordered_json map = nlohmann::ordered_json::object();
  for (size_t shard = 0; shard < plan.shards.size(); ++shard) {
    for (size_t i = plan.shards[shard].first; i < plan.shards[shard].second; ++i) {
      for (const TensorDeclaration& d : plan.tensors[i].outputs) map[d.name] = ShardName(shard, plan.shards.size());
    }
  }
  const nlohmann::ordered_json index = {{"metadata", {{"total_size", plan.output_bytes}}}, {"weight_map", map}};
  return WriteFileAtomically((fs::path(out) / "model.safetensors.index.json").string(), index.dump(1) + "\n");
}

}  // namespace

Result<ConvertReport> Convert(const ConvertOptions& options, const std::function<bool(int64_t, int64_t)>& progress) {
  const SteadyClock clock;
  const int64_t began = clock.NowUs();
  MINIMO_ASSIGN(const LoadedModel model, LoadModel(options.in));
  MINIMO_ASSIGN(const ConvertPlan plan, PlanConversion(model, options.target, options.shard_bytes));
  MINIMO_ASSIGN(Ledger ledger, OpenLedger(options, plan.shards.size()));
  const fs::path out(options.out);
  std::error_code fault;
  const auto space = fs::space(out, fault);
  int64_t left = 0;
  for (size_t s = 0; s < plan.shards.size(); ++s) {
    if (!Finished(ledger, options.out, ShardName(s, plan.shards.size()))) left += OutputBytes(plan, s);
  }
  if (!fault && space.available < static_cast<uintmax_t>(left)) {
    return Errorf("{}: {:.1f} GB free, {:.1f} GB still to write; make room or name another disk", options.out,
                  static_cast<double>(space.available) * 1e-9, static_cast<double>(left) * 1e-9);
  }

  ConvertReport report;
  report.input_bytes = plan.input_bytes;
  report.output_bytes = plan.output_bytes;
  ThreadTeam team(options.threads);
  const size_t sums = 2 * (model.spec.layers.size() + 1);
  ErrorSums all(sums);
  int64_t done = 0;
  for (size_t s = 0; s < plan.shards.size(); ++s) {
    const std::string name = ShardName(s, plan.shards.size());
    const ShardRecord* finished = Finished(ledger, options.out, name);
    ShardRecord record;
    if (finished) {
      record = *finished;
      done += OutputBytes(plan, s);
      report.resumed_bytes += OutputBytes(plan, s);
    } else {
      record.file = name;
      record.layer_error.assign(sums, 0);
      const auto [first, last] = plan.shards[s];
      const auto advance = [&](int64_t bytes) {
        done += bytes;
        return !progress || progress(done, plan.output_bytes);
      };
      const std::string path = (out / name).string();
      MINIMO_TRY(WriteConvertedShard(path, {plan.tensors.data() + first, last - first}, team, advance, &record.layer_error));
      record.bytes = static_cast<int64_t>(fs::file_size(path, fault));
      MINIMO_ASSIGN(record.xxh3, FileChecksum(path, {}));
      std::erase_if(ledger.done, [&](const ShardRecord& r) { return r.file == name; });
      ledger.done.push_back(record);
      MINIMO_TRY(ledger.Write(options.out));
    }
    for (size_t i = 0; i < sums && i < record.layer_error.size(); ++i) all[i] += record.layer_error[i];
  }
  MINIMO_TRY(CopyOtherFiles(options.in, options.out));
  MINIMO_TRY(WriteIndex(plan, options.out));
  MINIMO_TRY(WriteFileAtomically((out / "config.json").string(), plan.config));
  for (size_t i = 0; i < sums; i += 2) report.layer_error.push_back(all[i + 1] > 0 ? std::sqrt(all[i] / all[i + 1]) : 0);
  report.seconds = static_cast<double>(clock.NowUs() - began) * 1e-6;
  return report;
}

Status VerifyConversion(const std::string& out, const std::function<bool(int64_t, int64_t)>& progress) {
  MINIMO_ASSIGN(const std::optional<Ledger> ledger, Ledger::Read(out));
  if (!ledger) return Errorf("{}: no minimo-convert.json there: not a conversion of minimo", out);
  if (static_cast<int>(ledger->done.size()) != ledger->shards) {
    return Errorf("{}: {} of {} shards are finished; run the conversion again to go on", out, ledger->done.size(),
                  ledger->shards);
  }
  int64_t total = 0, before = 0;
  for (const ShardRecord& record : ledger->done) total += record.bytes;
  for (const ShardRecord& record : ledger->done) {
    const std::string path = (fs::path(out) / record.file).string();
    const auto advance = [&](int64_t bytes) { return !progress || progress(before + bytes, total); };
    MINIMO_ASSIGN(const std::string sum, FileChecksum(path, advance));
    if (sum != record.xxh3) return Errorf("{}: checksum {}, expected {}: damaged; delete it and convert again", path, sum, record.xxh3);
    before += record.bytes;
  }
  MINIMO_ASSIGN(const LoadedModel model, LoadModel(out));
  return {};
}

}  // namespace minimo
