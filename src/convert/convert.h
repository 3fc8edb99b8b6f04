// Streams a checkpoint into another format: bounded memory, resumable, checked.
//
// OUT holds, while it grows, whole files and minimo-convert.json (what was asked, what the source was, a checksum of
// every finished file); what is in the making is a .tmp. config.json is written last, so a folder with one is whole.
// The same call continues where the last one stopped; another request or another source for the same OUT is refused.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "convert/plan.h"
#include "convert/quality.h"
#include "minimo/result.h"

namespace minimo {

class ThreadTeam;

struct ConvertOptions {
  std::string in;
  std::string out;
  ConvertRequest request;
  int threads = 0;
  int64_t group_bytes = int64_t{4} << 30;  // of weights a file, or a file of every rank: what a stop loses at most
};

struct ConvertReport {
  int64_t input_bytes = 0;
  int64_t output_bytes = 0;
  int64_t resumed_bytes = 0;  // of the output, found finished
  double seconds = 0;
  // |out - in| / |in| over the converted weights of each layer (Frobenius norms); the last entry: outside the layers.
  std::vector<double> layer_error;
};

// `progress` is told output bytes done and in all; returning false stops: what is finished stays for the next call.
Result<ConvertReport> Convert(const ConvertOptions& options, const std::function<bool(int64_t, int64_t)>& progress);

// Enters what a comparison on the text file `text` gave in a finished OUT's minimo-convert.json.
Status RecordQuality(const std::string& out, const std::string& text, const TextQuality& quality);

// A finished OUT's files have the sizes and headers that they should, and load. No weights are read.
Status CheckConversion(const std::string& out);

// Reads every file of a finished OUT and compares checksums and headers with minimo-convert.json.
Status VerifyConversion(const std::string& out, const std::function<bool(int64_t, int64_t)>& progress);

}  // namespace minimo
