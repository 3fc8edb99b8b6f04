// A checkpoint written as one file set a rank (minimo convert --tensor-parallel-size):
//
//   OUT/config.json, tokenizer.json, ...      of the whole model
//   OUT/minimo-shards.json                    the layout, below
//   OUT/rank-00003-of-00008/                  safetensors files and their index
//
// A file set holds the tensors of RankManifest under their names in the whole checkpoint; a scale block that a rank's
// rows or columns cut is in the sets of both sides. A rank opens its own folder alone, so a host needs no others.
#pragma once

#include <map>
#include <optional>
#include <string>

#include "minimo/result.h"
#include "spec/parallel_plan.h"

namespace minimo {

struct ShardLayout {
  int ranks = 0;
  MoeLayout experts;      // of both phases
  int64_t row_grain = 1;  // rows of an expert that a share is a multiple of
  int mtp_layers = 0;
  std::string model;      // Fingerprint of the source, hexadecimal: file sets of different models do not mix

  std::string ToJson() const;
  ParallelPlan Plan() const { return {ranks, experts, experts}; }
};

inline constexpr char kShardLayoutFile[] = "minimo-shards.json";

// Nothing if the folder is an ordinary checkpoint.
Result<std::optional<ShardLayout>> ReadShardLayout(const std::string& folder);

// "rank-00003-of-00008"
std::string RankFolderName(int rank, int ranks);

// What every file of a set says of itself in its header.
std::map<std::string, std::string> RankMetadata(const ShardLayout& layout, int rank);

}  // namespace minimo
