// Writes one group of tensors, a file for each rank that has any of them: weights are encoded by the team while a
// thread of its own writes what is ready.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "convert/plan.h"
#include "convert/source_reader.h"

namespace minimo {

class ThreadTeam;

// Squared error and squared norm of what was encoded, per layer; the last pair: outside the layers.
using ErrorSums = std::vector<double>;

struct OutputFile {
  int rank = 0;
  std::string path;
  std::map<std::string, std::string> metadata;
  int64_t bytes = 0;  // once written
  std::string xxh3;   // of the whole file, hexadecimal
};

// `advance` is told bytes as they are queued; returning false stops with an error. Every rank of `tensors` has a file.
Status WriteConvertedFiles(std::span<OutputFile> files, std::span<const ConvertedTensor> tensors,
                           const SourceReader& reader, ThreadTeam& team, const std::function<bool(int64_t)>& advance,
                           ErrorSums* errors);

}  // namespace minimo
