#include "bench/serve_metrics.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "base/error.h"

namespace minimo::bench {
namespace {

struct Samples {  // milliseconds
  std::vector<double> ttft, tpot, itl, e2el, queue, e2el_queue;
};

bool KeepsLevels(const Goodput& goodput, double ttft, double tpot, double e2el) {
  const auto keeps = [&](const char* name, double value) {
    const auto it = goodput.find(name);
    return it == goodput.end() || value <= it->second;
  };
  return keeps("ttft", ttft) && keeps("tpot", tpot) && keeps("e2el", e2el);
}

// The most requests of [start, start + latency) alive at once: an end comes before a start at the same instant.
int PeakConcurrency(const std::vector<const Outcome*>& completed) {
  std::vector<std::pair<double, int>> events;
  for (const Outcome* o : completed) {
    events.emplace_back(o->start_time, 1);
    events.emplace_back(o->start_time + o->latency, -1);
  }
  std::sort(events.begin(), events.end());
  int alive = 0;
  int peak = 0;
  for (const auto& [time, delta] : events) peak = std::max(peak, alive += delta);
  return peak;
}

double PeakTokensPerSecond(const std::vector<const Outcome*>& completed) {
  if (completed.empty()) return 0;
  double first = completed[0]->start_time;
  double last = first;
  for (const Outcome* o : completed) {
    first = std::min(first, o->start_time);
    last = std::max(last, o->start_time + o->latency);
  }
  std::vector<double> seconds(static_cast<size_t>(std::ceil(last - first)) + 1);
  for (const Outcome* o : completed) {
    double time = o->start_time + o->ttft - first;
    const auto count = [&] { seconds[std::min(static_cast<size_t>(time), seconds.size() - 1)] += 1; };
    count();
    for (const double itl : o->itl) {
      time += itl;
      count();
    }
  }
  return *std::max_element(seconds.begin(), seconds.end());
}

}  // namespace

Result<Goodput> ParseGoodput(const std::vector<std::string>& pairs) {
  Goodput goodput;
  for (const std::string& pair : pairs) {
    const size_t colon = pair.find(':');
    double value = 0;
    bool number = false;
    if (colon != std::string::npos) {
      const char* end = pair.data() + pair.size();
      const auto parsed = std::from_chars(pair.data() + colon + 1, end, value);
      number = parsed.ec == std::errc() && parsed.ptr == end && value >= 0;
    }
    const std::string name = pair.substr(0, colon);
    if (!number || (name != "ttft" && name != "tpot" && name != "e2el")) {
      return Errorf("--goodput {}: expected ttft:MS, tpot:MS or e2el:MS", pair);
    }
    goodput[name] = value;
  }
  return goodput;
}

ServeMetrics ComputeServeMetrics(const std::vector<Outcome>& outcomes, double duration_s,
                                 const std::vector<double>& percentiles, const Goodput& goodput) {
  ServeMetrics m;
  Samples samples;
  std::vector<const Outcome*> completed;
  int good = 0;
  for (const Outcome& o : outcomes) {
    m.output_lens.push_back(o.success ? o.output_tokens : 0);
    if (!o.success) {
      const bool never_ended = o.interrupted || !o.started;
      ++(never_ended && o.error.empty() ? m.interrupted : m.failed);
      continue;
    }
    completed.push_back(&o);
    m.total_input += o.prompt_len;
    m.total_output += o.output_tokens;
    double tpot = 0;
    if (o.output_tokens > 1) {
      tpot = (o.latency - o.ttft) * 1e3 / (o.output_tokens - 1);
      samples.tpot.push_back(tpot);
    }
    for (const double itl : o.itl) samples.itl.push_back(itl * 1e3);
    samples.ttft.push_back(o.ttft * 1e3);
    samples.e2el.push_back(o.latency * 1e3);
    samples.queue.push_back(o.queue_time * 1e3);
    samples.e2el_queue.push_back((o.latency + o.queue_time) * 1e3);
    good += KeepsLevels(goodput, o.ttft * 1e3, tpot, o.latency * 1e3) ? 1 : 0;
  }
  m.completed = static_cast<int>(completed.size());
  if (duration_s > 0) {
    m.request_throughput = m.completed / duration_s;
    m.request_goodput = goodput.empty() ? 0 : good / duration_s;
    m.output_throughput = static_cast<double>(m.total_output) / duration_s;
    m.total_token_throughput = static_cast<double>(m.total_input + m.total_output) / duration_s;
  }
  m.max_output_tokens_per_s = PeakTokensPerSecond(completed);
  m.max_concurrent_requests = PeakConcurrency(completed);
  m.ttft_ms = Summarize(std::move(samples.ttft), percentiles);
  m.tpot_ms = Summarize(std::move(samples.tpot), percentiles);
  m.itl_ms = Summarize(std::move(samples.itl), percentiles);
  m.e2el_ms = Summarize(std::move(samples.e2el), percentiles);
  m.client_queue_time_ms = Summarize(std::move(samples.queue), percentiles);
  m.e2el_including_client_queue_ms = Summarize(std::move(samples.e2el_queue), percentiles);
  return m;
}

}  // namespace minimo::bench
