#include "convert/convert.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/clock.h"
#include "base/error.h"
#include "base/thread_team.h"
#include "convert/ledger.h"
#include "convert/shard_stream.h"
#include "models/shard.h"

namespace minimo {
namespace fs = std::filesystem;
namespace {

const char* NameOf(TargetFormat target) {
  switch (target) {
    case TargetFormat::kAsIs: return "the same format";
    case TargetFormat::kBf16: return "bf16";
    case TargetFormat::kFp8: return "fp8";
    case TargetFormat::kW4: return "w4 group 64";
  }
  return "";
}

std::string RequestName(const ConvertPlan& plan, TargetFormat target) {
  if (!plan.layout) return NameOf(target);
  return fmt::format("{} for {} ranks, experts {}x{}", NameOf(target), plan.layout->ranks, plan.layout->experts.tensor,
                     plan.layout->experts.expert);
}

std::span<const ConvertedTensor> GroupOf(const ConvertPlan& plan, size_t group) {
  const ConvertPlan::Group& g = plan.groups[group];
  return std::span(plan.tensors).subspan(g.first, g.last - g.first);
}

std::string FileName(const ConvertPlan& plan, size_t group) {
  return fmt::format("model-{:05}-of-{:05}.safetensors", group + 1, plan.groups.size());
}

// The folder of a rank's files within OUT; empty for a whole checkpoint.
std::string FolderName(const ConvertPlan& plan, int rank) {
  return plan.layout ? RankFolderName(rank, plan.ranks()) : std::string();
}

// The files of a group, with paths relative to OUT: one for each rank that has any of its tensors.
std::vector<OutputFile> FilesOf(const ConvertPlan& plan, size_t group) {
  std::vector<OutputFile> files;
  for (const int rank : plan.groups[group].ranks) {
    files.push_back(
        {rank, (fs::path(FolderName(plan, rank)) / FileName(plan, group)).string(),
         plan.layout ? RankMetadata(*plan.layout, rank) : std::map<std::string, std::string>{{"format", "pt"}}});
  }
  return files;
}

// An empty or new folder, or one that an equal conversion began.
Result<Ledger> OpenLedger(const ConvertOptions& options, const ConvertPlan& plan) {
  std::error_code fault;
  if (fs::exists(options.out, fault) && fs::equivalent(options.in, options.out, fault)) {
    return Errorf("{}: is the source; name another folder", options.out);
  }
  fs::create_directories(options.out, fault);
  if (fault) return Errorf("{}: cannot create: {}", options.out, fault.message());
  Ledger wanted;
  wanted.request = RequestName(plan, options.request.target);
  for (const ConvertPlan::Group& group : plan.groups) wanted.files += static_cast<int>(group.ranks.size());
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
  if (found->source != wanted.source || found->files != wanted.files) {
    return Errorf("{}: {} has changed since this conversion began; delete the folder and convert again", options.out,
                  options.in);
  }
  return *std::move(found);
}

// The record of a finished file that is still there in full.
const FileRecord* Finished(const Ledger& ledger, const std::string& folder, const std::string& file) {
  for (const FileRecord& record : ledger.done) {
    std::error_code fault;
    if (record.file == file && fs::file_size(fs::path(folder) / file, fault) == static_cast<uintmax_t>(record.bytes)) {
      return &record;
    }
  }
  return nullptr;
}

bool IsFinished(const ConvertPlan& plan, const Ledger& ledger, const std::string& folder, size_t group) {
  const std::vector<OutputFile> files = FilesOf(plan, group);
  return std::all_of(files.begin(), files.end(), [&](const OutputFile& f) { return Finished(ledger, folder, f.path); });
}

// Everything beside the weights and their index, as it is: tokenizer, template, generation config, licence.
Status CopyOtherFiles(const std::string& in, const std::string& out) {
  std::error_code fault;
  for (const auto& entry : fs::directory_iterator(in, fault)) {
    const std::string name = entry.path().filename().string();
    if (!entry.is_regular_file() || name.ends_with(".safetensors") || name.ends_with(".index.json") ||
        name == "config.json" || name == "minimo-convert.json" || name == kShardLayoutFile || name.ends_with(".tmp")) {
      continue;
    }
    fs::copy_file(entry.path(), fs::path(out) / name, fs::copy_options::overwrite_existing, fault);
    if (fault) return Errorf("{}: cannot copy {}: {}", out, name, fault.message());
  }
  return {};
}

Status WriteIndex(const ConvertPlan& plan, const std::string& out, int rank) {
  nlohmann::json map = nlohmann::json::object();  // sorted: an ordered one searches all names for each
  int64_t total = 0;
  for (size_t group = 0; group < plan.groups.size(); ++group) {
    for (const ConvertedTensor& t : GroupOf(plan, group)) {
      const auto part = std::lower_bound(t.parts.begin(), t.parts.end(), rank,
                                         [](const ConvertedTensor::Part& p, int wanted) { return p.rank < wanted; });
      if (part == t.parts.end() || part->rank != rank) continue;
      for (const TensorDeclaration& d : t.Outputs(*part)) {
        map[d.name] = FileName(plan, group);
        total += d.bytes();
      }
    }
  }
  const nlohmann::ordered_json index = {{"metadata", {{"total_size", total}}}, {"weight_map", map}};
  const fs::path folder = fs::path(out) / FolderName(plan, rank);
  return WriteFileAtomically((folder / "model.safetensors.index.json").string(), index.dump(1) + "\n");
}

// What makes the folder a checkpoint: the small files, config.json last.
Status WriteAround(const ConvertPlan& plan, const ConvertOptions& options) {
  MINIMO_TRY(CopyOtherFiles(options.in, options.out));
  for (int rank = 0; rank < plan.ranks(); ++rank) MINIMO_TRY(WriteIndex(plan, options.out, rank));
  const fs::path out(options.out);
  if (plan.layout) MINIMO_TRY(WriteFileAtomically((out / kShardLayoutFile).string(), plan.layout->ToJson()));
  return WriteFileAtomically((out / "config.json").string(), plan.config);
}

Status CheckSpace(const ConvertPlan& plan, const Ledger& ledger, const std::string& out) {
  std::error_code fault;
  const auto space = fs::space(out, fault);
  int64_t left = 0;
  for (size_t group = 0; group < plan.groups.size(); ++group) {
    if (!IsFinished(plan, ledger, out, group)) left += plan.groups[group].bytes;
  }
  if (fault || space.available >= static_cast<uintmax_t>(left)) return {};
  return Errorf("{}: {:.1f} GB free, {:.1f} GB still to write; make room or name another disk", out,
                static_cast<double>(space.available) * 1e-9, static_cast<double>(left) * 1e-9);
}

// Writes one group and enters its files in the ledger.
Status WriteGroup(const ConvertPlan& plan, size_t group, const std::string& out, const SourceReader& reader,
                  ThreadTeam& team, const std::function<bool(int64_t)>& advance, size_t sums, Ledger* ledger) {
  std::vector<OutputFile> files = FilesOf(plan, group);
  std::vector<FileRecord> records;
  for (OutputFile& file : files) {
    records.push_back({file.path, 0, "", {}});
    file.path = (fs::path(out) / file.path).string();
    std::error_code fault;
    fs::create_directories(fs::path(file.path).parent_path(), fault);
    if (fault) return Errorf("{}: cannot create: {}", fs::path(file.path).parent_path().string(), fault.message());
  }
  records.front().layer_error.assign(sums, 0);  // of the whole group
  MINIMO_TRY(WriteConvertedFiles(files, GroupOf(plan, group), reader, team, advance, &records.front().layer_error));
  for (size_t i = 0; i < files.size(); ++i) {
    records[i].bytes = files[i].bytes;
    records[i].xxh3 = files[i].xxh3;
    std::erase_if(ledger->done, [&](const FileRecord& r) { return r.file == records[i].file; });
    ledger->done.push_back(records[i]);
  }
  return ledger->Write(out);
}

}  // namespace

Result<ConvertReport> Convert(const ConvertOptions& options, const std::function<bool(int64_t, int64_t)>& progress) {
  const SteadyClock clock;
  const int64_t began = clock.NowUs();
  MINIMO_ASSIGN(const LoadedModel model, LoadModel(options.in));
  MINIMO_ASSIGN(const ConvertPlan plan, PlanConversion(model, options.request, options.group_bytes));
  MINIMO_ASSIGN(Ledger ledger, OpenLedger(options, plan));
  MINIMO_TRY(CheckSpace(plan, ledger, options.out));

  ConvertReport report;
  report.input_bytes = plan.input_bytes;
  report.output_bytes = plan.output_bytes;
  MINIMO_ASSIGN(const SourceReader reader, SourceReader::Open(*model.checkpoint));
  ThreadTeam team(options.threads);
  const size_t sums = 2 * (model.spec.layers.size() + 1);
  int64_t done = 0;
  const auto advance = [&](int64_t bytes) {
    done += bytes;
    return !progress || progress(done, plan.output_bytes);
  };
  for (size_t group = 0; group < plan.groups.size(); ++group) {
    if (IsFinished(plan, ledger, options.out, group)) {
      done += plan.groups[group].bytes;
      report.resumed_bytes += plan.groups[group].bytes;
    } else {
      MINIMO_TRY(WriteGroup(plan, group, options.out, reader, team, advance, sums, &ledger));
    }
  }
  ErrorSums all(sums);
  for (const FileRecord& record : ledger.done) {
    for (size_t i = 0; i < sums && i < record.layer_error.size(); ++i) all[i] += record.layer_error[i];
  }
  MINIMO_TRY(WriteAround(plan, options));
  for (size_t i = 0; i < sums; i += 2) {
    report.layer_error.push_back(all[i + 1] > 0 ? std::sqrt(all[i] / all[i + 1]) : 0);
  }
  ledger.relative_error = report.layer_error;
  MINIMO_TRY(ledger.Write(options.out));
  report.seconds = static_cast<double>(clock.NowUs() - began) * 1e-6;
  return report;
}

namespace {

// The folder loads: every rank's files, or the whole checkpoint.
Status CheckLoads(const std::string& out) {
  MINIMO_ASSIGN(const LoadedModel model, LoadModel(out, {.rank_files = true}));
  for (int rank = 0; model.shards && rank < model.shards->ranks; ++rank) {
    RankModel part;
    MINIMO_TRY(OpenRankWeights(model, rank, &part));
  }
  return {};
}

Result<Ledger> FinishedLedger(const std::string& out) {
  MINIMO_ASSIGN(std::optional<Ledger> ledger, Ledger::Read(out));
  if (!ledger) return Errorf("{}: no minimo-convert.json there: not a conversion of minimo", out);
  if (static_cast<int>(ledger->done.size()) != ledger->files) {
    return Errorf("{}: {} of {} files are finished; run the conversion again to go on", out, ledger->done.size(),
                  ledger->files);
  }
  for (const FileRecord& record : ledger->done) {
    if (Finished(*ledger, out, record.file) == nullptr) {
      return Errorf("{}: missing or of another size than was written; convert again",
                    (fs::path(out) / record.file).string());
    }
  }
  return *std::move(ledger);
}

}  // namespace

Status RecordQuality(const std::string& out, const std::string& text, const TextQuality& quality) {
  MINIMO_ASSIGN(std::optional<Ledger> ledger, Ledger::Read(out));
  if (!ledger) return Errorf("{}: no minimo-convert.json there: not a conversion of minimo", out);
  ledger->text = text;
  ledger->quality = quality;
  return ledger->Write(out);
}

Status CheckConversion(const std::string& out) {
  MINIMO_TRY(FinishedLedger(out));
  return CheckLoads(out);
}

Status VerifyConversion(const std::string& out, const std::function<bool(int64_t, int64_t)>& progress) {
  MINIMO_ASSIGN(const Ledger ledger, FinishedLedger(out));
  int64_t total = 0, before = 0;
  for (const FileRecord& record : ledger.done) total += record.bytes;
  for (const FileRecord& record : ledger.done) {
    const std::string path = (fs::path(out) / record.file).string();
    const auto advance = [&](int64_t bytes) { return !progress || progress(before + bytes, total); };
    MINIMO_ASSIGN(const std::string sum, FileChecksum(path, advance));
    if (sum != record.xxh3) {
      return Errorf("{}: checksum {}, expected {}: damaged; delete it and convert again", path, sum, record.xxh3);
    }
    before += record.bytes;
  }
  return CheckLoads(out);
}

}  // namespace minimo
