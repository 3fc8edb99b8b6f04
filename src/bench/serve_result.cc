#include "bench/serve_result.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <sstream>

#include <fmt/format.h>

namespace minimo::bench {
namespace {

using Json = nlohmann::json;

constexpr int kWidth = 50;

std::string Banner(const std::string& title) { return fmt::format("{:-^{}}\n", title, kWidth); }
std::string Line(const std::string& label, long value) { return fmt::format("{:<40} {:<10}\n", label, value); }
std::string Line(const std::string& label, double value) { return fmt::format("{:<40} {:<10.2f}\n", label, value); }

// "99", "99.9": as vLLM spells a percentile in labels and keys.
std::string PercentileWord(double p) {
  return p == std::floor(p) ? fmt::format("{}", static_cast<long>(p)) : fmt::format("{}", p);
}

struct MetricSection {
  const char* key;
  const char* name;
  const char* title;
  const Summary* summary;
};

std::vector<MetricSection> Sections(const ServeMetrics& m, const ServeResultOptions& o) {
  std::vector<MetricSection> all = {
      {"ttft", "TTFT", "Time to First Token", &m.ttft_ms},
      {"tpot", "TPOT", "Time per Output Token (excl. 1st token)", &m.tpot_ms},
      {"itl", "ITL", "Inter-token Latency", &m.itl_ms},
      {"e2el", "E2EL", "End-to-end Latency", &m.e2el_ms},
      {"client_queue_time", "Client Queue Time", "Client-side Queueing", &m.client_queue_time_ms},
      {"e2el_including_client_queue", "E2EL incl. Client Queue", "Queue-inclusive End-to-end Latency",
       &m.e2el_including_client_queue_ms}};
  std::erase_if(all, [&](const MetricSection& s) {
    return std::find(o.percentile_metrics.begin(), o.percentile_metrics.end(), s.key) == o.percentile_metrics.end();
  });
  return all;
}

// The value of label `name` in a Prometheus line, or empty.
std::string LabelValue(const std::string& line, const std::string& name) {
  const size_t at = line.find(name + "=\"");
  if (at == std::string::npos) return {};
  const size_t begin = at + name.size() + 2;
  return line.substr(begin, line.find('"', begin) - begin);
}

}  // namespace

std::optional<SpecDecodeStats> ParseSpecDecodeMetrics(const std::string& page) {
  SpecDecodeStats stats;
  bool found = false;
  std::istringstream lines(page);
  for (std::string line; std::getline(lines, line);) {
    if (line.rfind("vllm:spec_decode_", 0) != 0) continue;
    const std::string name = line.substr(0, line.find_first_of("{ "));
    const size_t space = line.rfind(' ');
    if (space == std::string::npos) continue;
    const double value = std::strtod(line.c_str() + space + 1, nullptr);
    if (name == "vllm:spec_decode_num_drafts_total") {
      stats.drafts += value;
    } else if (name == "vllm:spec_decode_num_draft_tokens_total") {
      stats.draft_tokens += value;
    } else if (name == "vllm:spec_decode_num_accepted_tokens_total") {
      stats.accepted_tokens += value;
    } else if (name == "vllm:spec_decode_num_accepted_tokens_per_pos_total") {
      const size_t position = std::strtoul(LabelValue(line, "position").c_str(), nullptr, 10);
      if (position >= 64) continue;
      stats.accepted_at.resize(std::max(stats.accepted_at.size(), position + 1));
      stats.accepted_at[position] += value;
    } else {
      continue;
    }
    found = true;
  }
  if (!found) return std::nullopt;
  return stats;
}

SpecDecodeStats Difference(const SpecDecodeStats& after, const SpecDecodeStats& before) {
  SpecDecodeStats d = after;
  d.drafts -= before.drafts;
  d.draft_tokens -= before.draft_tokens;
  d.accepted_tokens -= before.accepted_tokens;
  for (size_t i = 0; i < std::min(d.accepted_at.size(), before.accepted_at.size()); ++i) {
    d.accepted_at[i] -= before.accepted_at[i];
  }
  return d;
}

std::string FormatServeResult(const ServeMetrics& m, double duration_s, const ServeResultOptions& o,
                              const std::optional<SpecDecodeStats>& spec) {
  std::string out = fmt::format("{:=^{}}\n", " Serving Benchmark Result ", kWidth);
  out += Line("Successful requests:", long{m.completed});
  out += Line("Failed requests:", long{m.failed});
  if (m.interrupted > 0) out += Line("Interrupted requests:", long{m.interrupted});
  if (o.max_concurrency > 0) out += Line("Maximum request concurrency:", long{o.max_concurrency});
  if (std::isfinite(o.request_rate)) out += Line("Request rate configured (RPS):", o.request_rate);
  out += Line("Benchmark duration (s):", duration_s);
  out += Line("Total input tokens:", m.total_input);
  out += Line("Total generated tokens:", m.total_output);
  out += Line("Request throughput (req/s):", m.request_throughput);
  if (o.has_goodput) out += Line("Request goodput (req/s):", m.request_goodput);
  out += Line("Output token throughput (tok/s):", m.output_throughput);
  out += Line("Peak output token throughput (tok/s):", m.max_output_tokens_per_s);
  out += Line("Peak concurrent requests:", static_cast<double>(m.max_concurrent_requests));
  out += Line("Total token throughput (tok/s):", m.total_token_throughput);
  for (const MetricSection& s : Sections(m, o)) {
    out += Banner(s.title);
    out += Line(fmt::format("Mean {} (ms):", s.name), s.summary->mean);
    out += Line(fmt::format("Median {} (ms):", s.name), s.summary->median);
    for (const auto& [p, value] : s.summary->percentiles) {
      out += Line(fmt::format("P{} {} (ms):", PercentileWord(p), s.name), value);
    }
  }
  if (spec && spec->drafts > 0) {
    out += Banner("Speculative Decoding");
    out += Line("Acceptance rate (%):", spec->AcceptanceRate());
    out += Line("Acceptance length:", spec->AcceptanceLength());
    out += Line("Drafts:", static_cast<long>(spec->drafts));
    out += Line("Draft tokens:", static_cast<long>(spec->draft_tokens));
    out += Line("Accepted tokens:", static_cast<long>(spec->accepted_tokens));
    for (size_t i = 0; i < spec->accepted_at.size(); ++i) {
      if (i == 0) out += "Per-position acceptance (%):\n";
      out += Line(fmt::format("  Position {}:", i), 100 * spec->accepted_at[i] / spec->drafts);
    }
  }
  return out + std::string(kWidth, '=') + "\n";
}

Json ServeResultJson(const ServeMetrics& m, const LoadResult& load, const ServeResultOptions& o,
                     const std::optional<SpecDecodeStats>& spec, bool detailed) {
  Json json;
  json["request_rate"] = std::isfinite(o.request_rate) ? Json(o.request_rate) : Json("inf");
  json["burstiness"] = std::isfinite(o.burstiness) ? Json(o.burstiness) : Json("inf");
  json["max_concurrency"] = o.max_concurrency > 0 ? Json(o.max_concurrency) : Json(nullptr);
  json["duration"] = load.duration_s;
  json["completed"] = m.completed;
  json["failed"] = m.failed;
  json["interrupted"] = m.interrupted;
  json["total_input_tokens"] = m.total_input;
  json["total_output_tokens"] = m.total_output;
  json["request_throughput"] = m.request_throughput;
  json["request_goodput"] = o.has_goodput ? Json(m.request_goodput) : Json(nullptr);
  json["output_throughput"] = m.output_throughput;
  json["total_token_throughput"] = m.total_token_throughput;
  json["max_output_tokens_per_s"] = m.max_output_tokens_per_s;
  json["max_concurrent_requests"] = m.max_concurrent_requests;
  for (const MetricSection& s : Sections(m, o)) {
    json[fmt::format("mean_{}_ms", s.key)] = s.summary->mean;
    json[fmt::format("median_{}_ms", s.key)] = s.summary->median;
    json[fmt::format("std_{}_ms", s.key)] = s.summary->std;
    for (const auto& [p, value] : s.summary->percentiles) {
      json[fmt::format("p{}_{}_ms", PercentileWord(p), s.key)] = value;
    }
  }
  if (spec && spec->drafts > 0) {
    json["spec_decode_acceptance_rate"] = spec->AcceptanceRate();
    json["spec_decode_acceptance_length"] = spec->AcceptanceLength();
    json["spec_decode_num_drafts"] = static_cast<long>(spec->drafts);
    json["spec_decode_draft_tokens"] = static_cast<long>(spec->draft_tokens);
    json["spec_decode_accepted_tokens"] = static_cast<long>(spec->accepted_tokens);
    json["spec_decode_per_position_acceptance_rates"] = Json::array();
    for (const double n : spec->accepted_at) {
      json["spec_decode_per_position_acceptance_rates"].push_back(n / spec->drafts);
    }
  }
  json["latencies"] = Json::array();
  json["queue_times"] = Json::array();
  for (const Outcome& outcome : load.outcomes) {
    json["latencies"].push_back(outcome.latency);
    json["queue_times"].push_back(outcome.queue_time);
  }
  if (!detailed) return json;
  for (const char* key : {"input_lens", "ttfts", "itls", "start_times", "generated_texts", "errors"}) {
    json[key] = Json::array();
  }
  json["output_lens"] = m.output_lens;
  for (const Outcome& outcome : load.outcomes) {
    json["input_lens"].push_back(outcome.prompt_len);
    json["ttfts"].push_back(outcome.ttft);
    json["itls"].push_back(outcome.itl);
    json["start_times"].push_back(outcome.start_time);
    json["generated_texts"].push_back(outcome.text);
    json["errors"].push_back(outcome.error);
  }
  return json;
}

}  // namespace minimo::bench
