// What a report shows, gathered from result files.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "bench/report.h"
#include "bench/stats.h"

namespace minimo::bench {

using Json = nlohmann::json;

// One measured load: a run of `bench serve`, or one batch size of `bench latency` (kind "latency").
struct LoadPoint {
  std::string kind;    // serve, latency
  std::string series;  // label, or what tells it apart: model, number format
  double concurrency = 0;
  double output_tok_s = 0;
  double completed = 0;
  double failed = 0;
  Summary ttft, tpot, e2el;  // ms; percentile 99
  std::vector<double> ttft_samples, tpot_samples, e2el_samples;  // ms, ascending; may be empty
  double floor_ms = 0;      // of a token; 0: not known
  double bandwidth_gbs = 0;
  std::vector<std::pair<double, double>> floor_curve;  // {batch, ms}
  size_t source = 0;        // index into ReportData::sources
};

// All loads of one model family, with what others published for it.
struct Family {
  std::string id;     // model type; empty: not known
  std::string title;
  std::vector<LoadPoint> points;  // by series, then by concurrency
  Json published = Json::array();  // series, as in bench/published
};

struct Source {
  std::string file;
  Json json;
};

struct ReportData {
  std::vector<Source> sources;  // every result, in the order given
  std::vector<Family> families;
  std::vector<Json> kernels, loads, throughputs;
};

Result<ReportData> GatherReport(const std::vector<ReportInput>& inputs);

// Number at a path of keys, or `fallback`.
double NumberAt(const Json& json, std::initializer_list<const char*> path, double fallback = 0);
std::string TextAt(const Json& json, std::initializer_list<const char*> path, const std::string& fallback = "");

}  // namespace minimo::bench
