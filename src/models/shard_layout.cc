#include "models/shard_layout.h"

#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "checkpoint/mapped_file.h"

namespace minimo {
namespace fs = std::filesystem;
namespace {

constexpr int kVersion = 1;
constexpr int kMaxRanks = 1024;

}  // namespace

std::string ShardLayout::ToJson() const {
  const nlohmann::ordered_json json = {{"version", kVersion},
                                       {"ranks", ranks},
                                       {"expert_tensor_ranks", experts.tensor},
                                       {"expert_ranks", experts.expert},
                                       {"row_grain", row_grain},
                                       {"mtp_layers", mtp_layers},
                                       {"model", model}};
  return json.dump(1) + "\n";
}

Result<std::optional<ShardLayout>> ReadShardLayout(const std::string& folder) {
  const std::string path = (fs::path(folder) / kShardLayoutFile).string();
  std::error_code ignored;
  if (!fs::exists(path, ignored)) return std::optional<ShardLayout>();
  MINIMO_ASSIGN(const std::string text, ReadTextFile(path));
  ShardLayout layout;
  int version = 0;
  try {
    const auto json = nlohmann::json::parse(text);
    version = json.at("version");
    layout.ranks = json.at("ranks");
    layout.experts = {json.at("expert_tensor_ranks"), json.at("expert_ranks")};
    layout.row_grain = json.at("row_grain");
    layout.mtp_layers = json.at("mtp_layers");
    layout.model = json.at("model");
  } catch (const nlohmann::json::exception& fault) {
    return Errorf("{}: damaged ({}); make the files of the ranks again", path, fault.what());
  }
  if (version != kVersion) return Errorf("{}: version {}, this minimo reads {}", path, version, kVersion);
  const bool sane = layout.ranks >= 1 && layout.ranks <= kMaxRanks && layout.experts.tensor >= 1 &&
                    layout.experts.expert >= 1 && layout.experts.tensor <= layout.ranks &&
                    layout.experts.expert <= layout.ranks && layout.experts.ranks() == layout.ranks &&
                    layout.row_grain >= 1 && layout.row_grain <= (1 << 20) && layout.mtp_layers >= 0 &&
                    layout.mtp_layers <= 1024;
  if (!sane) return Errorf("{}: holds no layout that can be; make the files of the ranks again", path);
  return std::optional<ShardLayout>(std::move(layout));
}

std::string RankFolderName(int rank, int ranks) { return fmt::format("rank-{:05}-of-{:05}", rank, ranks); }

std::map<std::string, std::string> RankMetadata(const ShardLayout& layout, int rank) {
  return {{"format", "pt"},
          {"minimo_model", layout.model},
          {"minimo_rank", fmt::format("{} of {}, experts {}", rank, layout.ranks, ToString(layout.experts))}};
}

}  // namespace minimo
