#include "bench/report_data.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "bench/embedded_data.h"

namespace minimo::bench {
namespace {

const Json* Find(const Json& json, std::initializer_list<const char*> path) {
  const Json* at = &json;
  for (const char* key : path) {
    if (!at->is_object()) return nullptr;
    const auto it = at->find(key);
    if (it == at->end()) return nullptr;
    at = &*it;
  }
  return at;
}

std::vector<double> Numbers(const Json& json, const char* key, double factor) {
  std::vector<double> out;
  const Json* list = Find(json, {key});
  if (list == nullptr || !list->is_array()) return out;
  for (const Json& v : *list) out.push_back(v.is_number() ? v.get<double>() * factor : 0);
  return out;
}

Summary SummaryOf(const Json& json, const std::string& metric) {
  Summary s;
  s.mean = NumberAt(json, {("mean_" + metric + "_ms").c_str()});
  s.median = NumberAt(json, {("median_" + metric + "_ms").c_str()});
  s.std = NumberAt(json, {("std_" + metric + "_ms").c_str()});
  s.percentiles = {{99, NumberAt(json, {("p99_" + metric + "_ms").c_str()})}};
  return s;
}

// "mimo-v2-flash", "MiniMaxAI/MiniMax-M2" ... -> the family whose published title it resembles.
std::string GuessFamily(const Json& json) {
  const std::string type = TextAt(json, {"model_shape", "type"});
  if (!type.empty()) return type;
  std::string name = TextAt(json, {"model_id"});
  std::transform(name.begin(), name.end(), name.begin(), [](unsigned char c) { return std::tolower(c); });
  if (name.find("minimax") != std::string::npos) return "minimax_m2";
  if (name.find("mimo") != std::string::npos) return "mimo_v2_flash";
  return "";
}

std::string SeriesName(const Json& json) {
  std::string name = TextAt(json, {"label"});
  if (!name.empty()) return name;
  name = TextAt(json, {"model_shape", "name"}, TextAt(json, {"model_id"}, "measured"));
  const std::string format = TextAt(json, {"model_shape", "number_format", "name"});
  return format.empty() ? name : name + " " + format;
}

void AddServe(const Json& json, size_t source, std::vector<LoadPoint>* points) {
  LoadPoint p;
  p.kind = "serve";
  p.source = source;
  p.series = SeriesName(json);
  p.concurrency = NumberAt(json, {"max_concurrency"}, NumberAt(json, {"max_concurrent_requests"}, 1));
  p.output_tok_s = NumberAt(json, {"output_throughput"});
  p.completed = NumberAt(json, {"completed"});
  p.failed = NumberAt(json, {"failed"});
  p.ttft = SummaryOf(json, "ttft");
  p.tpot = SummaryOf(json, "tpot");
  p.e2el = SummaryOf(json, "e2el");
  const auto ttfts = Numbers(json, "ttfts", 1e3), latencies = Numbers(json, "latencies", 1e3);
  const auto lengths = Numbers(json, "output_lens", 1);
  for (size_t i = 0; i < ttfts.size() && i < latencies.size() && i < lengths.size(); ++i) {
    if (lengths[i] < 1) continue;  // failed
    p.ttft_samples.push_back(ttfts[i]);
    p.e2el_samples.push_back(latencies[i]);
    if (lengths[i] > 1) p.tpot_samples.push_back((latencies[i] - ttfts[i]) / (lengths[i] - 1));
  }
  p.floor_ms = NumberAt(json, {"floor", "tpot_ms"});
  p.bandwidth_gbs = NumberAt(json, {"floor", "bandwidth_gbs"});
  if (const Json* curve = Find(json, {"floor", "curve"}); curve != nullptr && curve->is_array()) {
    for (const Json& point : *curve) {
      if (point.is_array() && point.size() == 2) p.floor_curve.emplace_back(point[0], point[1]);
    }
  }
  points->push_back(std::move(p));
}

void AddLatency(const Json& json, size_t source, std::vector<LoadPoint>* points) {
  const Json* list = Find(json, {"points"});
  if (list == nullptr || !list->is_array()) return;
  const size_t first = points->size();
  std::vector<std::pair<double, double>> curve;
  for (const Json& point : *list) {
    LoadPoint p;
    p.kind = "latency";
    p.source = source;
    p.series = SeriesName(json) + ", no server";
    p.concurrency = NumberAt(point, {"batch_size"}, 1);
    p.output_tok_s = NumberAt(point, {"output_tok_s"});
    p.completed = p.concurrency * NumberAt(point, {"iterations"}, 1);
    p.ttft = SummaryOf(point, "ttft");
    p.tpot = SummaryOf(point, "tpot");
    p.e2el = SummaryOf(point, "e2el");
    p.tpot_samples = Numbers(point, "tpots_ms", 1);
    p.ttft_samples = Numbers(point, "ttfts_ms", 1);
    p.e2el_samples = Numbers(point, "e2els_ms", 1);
    p.floor_ms = NumberAt(point, {"floor_ms"});
    p.bandwidth_gbs = NumberAt(json, {"bandwidth_gbs"});
    if (p.floor_ms > 0) curve.emplace_back(p.concurrency, p.floor_ms);
    points->push_back(std::move(p));
  }
  std::sort(curve.begin(), curve.end());
  for (size_t i = first; i < points->size(); ++i) (*points)[i].floor_curve = curve;
}

Family& FamilyFor(const std::string& id, ReportData* data) {
  for (Family& family : data->families) {
    if (family.id == id) return family;
  }
  Family family;
  family.id = id;
  family.title = id.empty() ? "Other models" : id;
  for (const EmbeddedFile& file : EmbeddedFiles()) {
    const Json json = Json::parse(file.text, nullptr, false);
    if (json.is_object() && TextAt(json, {"family"}) == id && !id.empty()) {
      family.title = TextAt(json, {"title"}, id);
      family.published = json.value("series", Json::array());
    }
  }
  data->families.push_back(std::move(family));
  return data->families.back();
}

// Several objects may follow one another, as --append-result writes them.
Status ParseObjects(const ReportInput& input, std::vector<Source>* sources) {
  size_t found = 0;
  for (size_t at = 0; at < input.text.size();) {
    at = input.text.find('{', at);
    if (at == std::string::npos) break;
    int depth = 0;
    bool quoted = false;
    size_t end = at;
    for (; end < input.text.size(); ++end) {
      const char c = input.text[end];
      if (quoted && c == '\\') {
        ++end;
      } else if (c == '"') {
        quoted = !quoted;
      } else if (!quoted && c == '{') {
        ++depth;
      } else if (!quoted && c == '}' && --depth == 0) {
        break;
      }
    }
    const Json json = Json::parse(input.text.substr(at, end - at + 1), nullptr, false);
    if (!json.is_object()) return Errorf("{}: not a JSON object at byte {}", input.file, at);
    sources->push_back({input.file, json});
    ++found;
    at = end + 1;
  }
  if (found == 0) return Errorf("{}: no JSON object in it, expected what `minimo bench ... --json` writes", input.file);
  return {};
}

}  // namespace

double NumberAt(const Json& json, std::initializer_list<const char*> path, double fallback) {
  const Json* at = Find(json, path);
  return at != nullptr && at->is_number() ? at->get<double>() : fallback;
}

std::string TextAt(const Json& json, std::initializer_list<const char*> path, const std::string& fallback) {
  const Json* at = Find(json, path);
  return at != nullptr && at->is_string() ? at->get<std::string>() : fallback;
}

Result<ReportData> GatherReport(const std::vector<ReportInput>& inputs) {
  ReportData data;
  for (const ReportInput& input : inputs) MINIMO_TRY(ParseObjects(input, &data.sources));
  for (size_t i = 0; i < data.sources.size(); ++i) {
    const Json& json = data.sources[i].json;
    const std::string kind = TextAt(json, {"kind"}, json.contains("output_throughput") ? "serve" : "");
    if (kind == "serve") {
      AddServe(json, i, &FamilyFor(GuessFamily(json), &data).points);
    } else if (kind == "latency") {
      AddLatency(json, i, &FamilyFor(GuessFamily(json), &data).points);
    } else if (kind == "kernels") {
      data.kernels.push_back(json);
    } else if (kind == "load") {
      data.loads.push_back(json);
    } else if (kind == "throughput") {
      data.throughputs.push_back(json);
    } else {
      return Errorf("{}: no \"kind\" that a report knows (serve, latency, throughput, kernels, load)",
                    data.sources[i].file);
    }
  }
  for (Family& family : data.families) {
    std::stable_sort(family.points.begin(), family.points.end(), [](const LoadPoint& a, const LoadPoint& b) {
      return std::pair(a.series, a.concurrency) < std::pair(b.series, b.concurrency);
    });
    for (LoadPoint& p : family.points) {
      for (auto* samples : {&p.ttft_samples, &p.tpot_samples, &p.e2el_samples})
        std::sort(samples->begin(), samples->end());
    }
  }
  std::sort(data.families.begin(), data.families.end(),
            [](const Family& a, const Family& b) { return a.title < b.title; });
  return data;
}

}  // namespace minimo::bench
