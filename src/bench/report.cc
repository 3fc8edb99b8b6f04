#include "bench/report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <set>
#include <sstream>

#include "base/error.h"
#include "bench/embedded_data.h"
#include "bench/report_data.h"
#include "bench/report_tables.h"
#include "bench/svg_plot.h"

namespace minimo::bench {
namespace {

constexpr size_t kCurvePoints = 160;  // of a distribution
constexpr int kMeasuredColours = 6;   // 6 is grey

std::string_view Style() {
  for (const EmbeddedFile& file : EmbeddedFiles()) {
    if (file.name == "report.css") return file.text;
  }
  return {};
}

std::vector<std::string> SeriesNames(const Family& family) {
  std::vector<std::string> names;
  for (const LoadPoint& p : family.points) {
    if (std::find(names.begin(), names.end(), p.series) == names.end()) names.push_back(p.series);
  }
  return names;
}

// The published series' points that hold `key`.
std::vector<PlotSeries> PublishedSeries(const Family& family, const char* key) {
  std::vector<PlotSeries> out;
  for (const Json& series : family.published) {
    PlotSeries s;
    s.style = SeriesStyle::kPublished;
    s.label = TextAt(series, {"name"});
    s.unit = " in flight";
    for (const Json& point : series.value("points", Json::array())) {
      const double y = NumberAt(point, {key});
      if (y > 0) s.points.emplace_back(NumberAt(point, {"concurrency"}), y);
    }
    if (!s.points.empty()) out.push_back(std::move(s));
  }
  return out;
}

std::vector<PlotSeries> MeasuredSeries(const Family& family, double (*value)(const LoadPoint&)) {
  std::vector<PlotSeries> out;
  for (const std::string& name : SeriesNames(family)) {
    PlotSeries s;
    s.label = name;
    s.unit = " in flight";
    s.colour = static_cast<int>(out.size()) % kMeasuredColours;
    for (const LoadPoint& p : family.points) {
      if (p.series == name && value(p) > 0) s.points.emplace_back(p.concurrency, value(p));
    }
    out.push_back(std::move(s));
  }
  return out;
}

// Dashed, one to each distinct curve, named by its bandwidth.
std::vector<PlotSeries> FloorSeries(const Family& family) {
  std::vector<PlotSeries> out;
  const std::vector<std::string> names = SeriesNames(family);
  std::set<std::string> seen;
  double most = 1;
  for (const LoadPoint& p : family.points) most = std::max(most, p.concurrency);
  for (const LoadPoint& p : family.points) {
    if (p.floor_curve.empty() || p.bandwidth_gbs <= 0 || !seen.insert(p.series).second) continue;
    PlotSeries s;
    s.style = SeriesStyle::kFloor;
    s.label = fmt::format("floor at {} GB/s", FormatNumber(p.bandwidth_gbs));
    s.colour = static_cast<int>(std::find(names.begin(), names.end(), p.series) - names.begin()) % kMeasuredColours;
    for (const auto& point : p.floor_curve) {
      if (point.first <= most) s.points.push_back(point);
    }
    out.push_back(std::move(s));
  }
  return out;
}

// A linear scale hides the small beside the large.
Scale ScaleFor(const std::vector<PlotSeries>& series) {
  double low = std::numeric_limits<double>::infinity(), high = 0;
  for (const PlotSeries& s : series) {
    for (const auto& [x, y] : s.points) {
      low = std::min(low, y);
      high = std::max(high, y);
    }
  }
  return high > 20 * low ? Scale::kLog10 : Scale::kLinear;
}

std::string Figure(const Plot& plot, const std::string& note) {
  const std::string svg = RenderSvg(plot);
  if (svg.empty()) return {};
  return fmt::format("<figure><figcaption><h3>{}</h3><p class=\"note\">{}</p></figcaption>\n{}</figure>\n",
                     EscapeHtml(plot.title), EscapeHtml(note), svg);
}

std::string ConcurrencyFigure(const Family& family, const std::string& id, const std::string& title,
                              const std::string& note, const std::string& unit, double (*value)(const LoadPoint&),
                              const char* published_key, bool floor) {
  Plot plot;
  plot.id = id + "-" + family.id;
  plot.title = title;
  plot.x_title = "requests in flight";
  plot.y_title = unit;
  plot.x_scale = Scale::kLog2;
  plot.width = 560;
  plot.height = 380;
  plot.series = MeasuredSeries(family, value);
  for (PlotSeries& s : PublishedSeries(family, published_key)) plot.series.push_back(std::move(s));
  if (floor) {
    for (PlotSeries& s : FloorSeries(family)) plot.series.push_back(std::move(s));
  }
  plot.y_scale = ScaleFor(plot.series);
  return Figure(plot, note);
}

// The share of requests at or below each value.
PlotSeries Distribution(const std::vector<double>& sorted, const std::string& label, int colour) {
  PlotSeries s;
  s.style = SeriesStyle::kCurve;
  s.label = label;
  s.colour = colour;
  const size_t n = sorted.size();
  s.points.emplace_back(sorted[0], 0);
  const size_t steps = std::min(n, kCurvePoints);
  for (size_t i = 0; i < steps; ++i) {
    const size_t rank = steps > 1 ? i * (n - 1) / (steps - 1) : 0;
    s.points.emplace_back(sorted[rank], static_cast<double>(rank + 1) / static_cast<double>(n));
  }
  return s;
}

std::string Distributions(const Family& family) {
  struct Metric {
    const char* id;
    const char* title;
    const std::vector<double> LoadPoint::*samples;
  };
  const Metric metrics[] = {{"cdf-ttft", "Time to first token", &LoadPoint::ttft_samples},
                            {"cdf-tpot", "Time per output token", &LoadPoint::tpot_samples},
                            {"cdf-e2el", "Whole request", &LoadPoint::e2el_samples}};
  std::vector<const LoadPoint*> sampled, shown;
  for (const LoadPoint& p : family.points) {
    if (p.tpot_samples.size() + p.ttft_samples.size() > 1) sampled.push_back(&p);
  }
  if (sampled.empty()) return {};
  const size_t count = std::min<size_t>(sampled.size(), kMeasuredColours);
  for (size_t i = 0; i < count; ++i) {  // evenly from the least to the most loaded of every series
    shown.push_back(sampled[count > 1 ? i * (sampled.size() - 1) / (count - 1) : 0]);
  }
  const bool one_series = SeriesNames(family).size() == 1;
  std::string legend, figures;
  for (size_t i = 0; i < shown.size(); ++i) {
    const std::string name = one_series ? "" : shown[i]->series + ", ";
    legend += fmt::format("<li class=\"c{}\"><i></i><span>{}{:.0f} in flight</span></li>", i, EscapeHtml(name),
                          shown[i]->concurrency);
  }
  for (const Metric& metric : metrics) {
    Plot plot;
    plot.id = std::string(metric.id) + "-" + family.id;
    plot.title = metric.title;
    plot.x_title = "ms";
    plot.y_title = "share of requests";
    plot.percent = true;
    plot.y_max = 1;
    plot.width = 360;
    plot.height = 280;
    for (size_t i = 0; i < shown.size(); ++i) {
      const auto& samples = shown[i]->*metric.samples;
      if (!samples.empty()) {
        plot.series.push_back(Distribution(samples, fmt::format("{:.0f}", shown[i]->concurrency), static_cast<int>(i)));
      }
    }
    double low = std::numeric_limits<double>::infinity(), high = 0;
    for (const PlotSeries& s : plot.series) {
      low = std::min(low, s.points.front().first);
      high = std::max(high, s.points.back().first);
    }
    if (low > 0 && high > 12 * low) plot.x_scale = Scale::kLog10;
    figures += Figure(plot, "how many requests were at least this fast");
  }
  return fmt::format("<ul class=\"legend\">{}</ul>\n<div class=\"triple\">\n{}</div>\n", legend, figures);
}

std::string Key(const std::string& value, const std::string& unit, const std::string& text) {
  return fmt::format("<div class=\"key\"><b>{}<small>{}</small></b><span>{}</span></div>\n", value, unit,
                     EscapeHtml(text));
}

std::string KeyFigures(const Family& family) {
  const LoadPoint* fastest = nullptr;
  const LoadPoint* quickest = nullptr;
  const LoadPoint* nearest = nullptr;
  double failed = 0;
  for (const LoadPoint& p : family.points) {
    failed += p.failed;
    if (fastest == nullptr || p.output_tok_s > fastest->output_tok_s) fastest = &p;
    if (p.tpot.median > 0 && (quickest == nullptr || p.tpot.median < quickest->tpot.median)) quickest = &p;
    const auto share = [](const LoadPoint& q) { return q.floor_ms / q.tpot.median; };
    if (p.floor_ms > 0 && p.tpot.median > 0 && (nearest == nullptr || share(p) > share(*nearest))) nearest = &p;
  }
  std::string out;
  if (fastest != nullptr) {
    out += Key(FormatNumber(fastest->output_tok_s), "tok/s",
               fmt::format("most output tokens, {:.0f} in flight", fastest->concurrency));
  }
  if (quickest != nullptr) {
    out += Key(FormatNumber(quickest->tpot.median), "ms",
               fmt::format("least median time per token, {:.0f} in flight", quickest->concurrency));
  }
  if (nearest != nullptr) {
    out += Key(FormatNumber(100 * nearest->floor_ms / nearest->tpot.median), "%",
               fmt::format("of the memory floor reached, {:.0f} in flight", nearest->concurrency));
  }
  out += Key(FormatNumber(failed), failed == 1 ? "request" : "requests", "failed");
  return "<div class=\"keys\">\n" + out + "</div>\n";
}

std::string FamilySection(const Family& family) {
  std::string out = fmt::format("<section id=\"family-{}\"><h2>{}</h2>\n", EscapeHtml(family.id),
                                EscapeHtml(family.title));
  out += fmt::format("<p class=\"note\">{}</p>\n",
                     family.published.empty()
                         ? "Measured here."
                         : "Measured here, in colour; what others publish, in grey with diamonds: other "
                           "hardware and other workloads, named in the table.");
  out += KeyFigures(family);
  out += "<div class=\"pair\">\n";
  out += ConcurrencyFigure(family, "throughput", "Throughput against concurrency",
                           "Output tokens a second over the whole run.", "tok/s",
                           [](const LoadPoint& p) { return p.output_tok_s; }, "output_tok_s", false);
  out += ConcurrencyFigure(family, "tpot", "Time per output token against the memory floor",
                           "Median. Dashed: the bytes of a step at the memory's read bandwidth.", "ms a token",
                           [](const LoadPoint& p) { return p.tpot.median; }, "tpot_ms", true);
  out += "</div>\n" + Distributions(family) + SideBySideTable(family);
  return out + "</section>\n";
}

}  // namespace

Result<std::string> MakeReport(const std::vector<ReportInput>& inputs, const std::string& title) {
  MINIMO_ASSIGN(const ReportData data, GatherReport(inputs));
  std::set<std::string> machines, commits;
  for (const Source& s : data.sources) {
    machines.insert(Machine(s.json));
    commits.insert(TextAt(s.json, {"environment", "commit"}, "unknown commit"));
  }
  std::string lead;
  for (const std::string& text : machines) lead += (lead.empty() ? "" : "; ") + text;
  lead += " · minimo";
  for (const std::string& text : commits) lead += " " + text;

  std::string page = fmt::format(
      "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<meta name=\"color-scheme\" "
      "content=\"light dark\">\n<title>{}</title>\n<style>\n{}</style></head>\n<body><main>\n"
      "<header><h1>{}</h1><p class=\"lead\">{}</p></header>\n",
      EscapeHtml(title), Style(), EscapeHtml(title), EscapeHtml(lead));
  for (const Family& family : data.families) page += FamilySection(family);
  page += ThroughputSection(data.throughputs);
  page += KernelSection(data.kernels);
  page += LoadSection(data.loads);
  page += ProvenanceSection(data.sources);
  return page + "</main></body></html>\n";
}

Status WriteReport(const std::vector<std::string>& files, const std::string& title, const std::string& html_path) {
  std::vector<ReportInput> inputs;
  for (const std::string& file : files) {
    std::ifstream in(file, std::ios::binary);
    std::ostringstream text;
    if (!in || !(text << in.rdbuf())) return Errorf("{}: cannot be read", file);
    inputs.push_back({file, text.str()});
  }
  MINIMO_ASSIGN(const std::string page, MakeReport(inputs, title));
  std::ofstream out(html_path, std::ios::binary);
  out << page;
  out.flush();
  if (!out) return Errorf("{}: cannot be written", html_path);
  return {};
}

}  // namespace minimo::bench
