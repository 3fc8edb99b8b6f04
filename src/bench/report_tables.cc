#include "bench/report_tables.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <map>

#include "bench/svg_plot.h"

namespace minimo::bench {
namespace {

std::string Cell(const std::string& text) { return "<td>" + EscapeHtml(text) + "</td>"; }
std::string NumberCell(double value, const std::string& after = "") {
  return value > 0 ? fmt::format("<td class=\"n\">{}{}</td>", FormatNumber(value), after) : "<td class=\"n\">–</td>";
}
std::string Bar(double share) {
  return fmt::format("<td class=\"bar\"><div><i style=\"width:{:.1f}%\"></i></div></td>",
                     100 * std::clamp(share, 0.0, 1.0));
}

// Columns whose header begins with # hold numbers.
std::string Table(const std::vector<std::string>& columns, const std::string& rows) {
  std::string head;
  for (const std::string& c : columns) {
    const bool number = c[0] == '#';
    head += fmt::format("<th{}>{}</th>", number ? " class=\"n\"" : "", EscapeHtml(c.substr(number ? 1 : 0)));
  }
  return fmt::format("<div class=\"scroll\"><table><thead><tr>{}</tr></thead><tbody>\n{}</tbody></table></div>\n", head,
                     rows);
}

std::string Term(const std::string& name, const std::string& value) {
  return value.empty() ? "" : fmt::format("<dt>{}</dt><dd>{}</dd>", EscapeHtml(name), EscapeHtml(value));
}

std::string ModelLine(const Json& result) {
  const Json shape = result.value("model_shape", Json::object());
  if (!shape.is_object() || shape.empty()) return TextAt(result, {"model_id"});
  return fmt::format("{}: {} layers, hidden {}, {} experts of {}, {} a token, vocabulary {}; {} parameters, {} active",
                     TextAt(shape, {"name"}), NumberAt(shape, {"layers"}), NumberAt(shape, {"hidden"}),
                     NumberAt(shape, {"experts"}), NumberAt(shape, {"expert_width"}), NumberAt(shape, {"top_k"}),
                     NumberAt(shape, {"vocab"}), FormatNumber(NumberAt(shape, {"parameters"})),
                     FormatNumber(NumberAt(shape, {"active_parameters"})));
}

std::string FormatLine(const Json& result) {
  const Json format = result.value("model_shape", Json::object()).value("number_format", Json::object());
  if (!format.is_object() || format.empty()) return {};
  return fmt::format("{} (bits: experts {:.3g}, q/k/v {:.3g}, output {:.3g}, router {:.3g}, head {:.3g})",
                     TextAt(format, {"name"}), NumberAt(format, {"expert_bits"}), NumberAt(format, {"qkv_bits"}),
                     NumberAt(format, {"output_bits"}), NumberAt(format, {"router_bits"}),
                     NumberAt(format, {"head_bits"}));
}

std::string BandwidthLine(const Json& result) {
  const double best = NumberAt(result, {"environment", "memory_read_bandwidth", "best_gbs"});
  if (best <= 0) return {};
  return fmt::format("{} GB/s best, {} median, {} worst of {:.0f} passes over {} MB with {:.0f} threads",
                     FormatNumber(best),
                     FormatNumber(NumberAt(result, {"environment", "memory_read_bandwidth", "median_gbs"})),
                     FormatNumber(NumberAt(result, {"environment", "memory_read_bandwidth", "worst_gbs"})),
                     NumberAt(result, {"environment", "memory_read_bandwidth", "passes"}),
                     FormatNumber(NumberAt(result, {"environment", "memory_read_bandwidth", "buffer_bytes"}) * 1e-6),
                     NumberAt(result, {"environment", "memory_read_bandwidth", "threads"}));
}

std::string SpreadLine(const Json& result) {
  std::string out;
  for (const auto& [key, name] :
       std::map<std::string, std::string>{{"ttft", "TTFT"}, {"tpot", "TPOT"}, {"e2el", "E2EL"}}) {
    const double mean = NumberAt(result, {("mean_" + key + "_ms").c_str()});
    if (mean <= 0) continue;
    out += fmt::format("{}{} {} ± {} ms", out.empty() ? "" : ", ", name, FormatNumber(mean),
                       FormatNumber(NumberAt(result, {("std_" + key + "_ms").c_str()})));
  }
  return out;
}

}  // namespace

std::string Machine(const Json& result) {
  std::map<std::string, int> gpus;
  const Json environment = result.value("environment", Json::object());
  for (const Json& gpu : environment.value("gpus", Json::array())) ++gpus[TextAt(gpu, {"name"})];
  std::string out;
  for (const auto& [name, count] : gpus) out += fmt::format("{}{}x {}", out.empty() ? "" : ", ", count, name);
  const std::string cpu = TextAt(environment, {"cpu"});
  if (cpu.empty()) return "unknown machine";
  out += fmt::format("{}{}, {:.0f} cores", out.empty() ? "" : " with ", cpu, NumberAt(environment, {"cores"}));
  return out;
}

std::string SideBySideTable(const Family& family) {
  struct Row {
    double concurrency;
    bool published;
    std::string html;
  };
  std::vector<Row> rows;
  for (const LoadPoint& p : family.points) {
    rows.push_back({p.concurrency, false,
                    Cell(p.series) + NumberCell(p.output_tok_s) + NumberCell(p.ttft.median) +
                        NumberCell(p.ttft.percentiles.front().second) + NumberCell(p.tpot.median) +
                        NumberCell(p.tpot.percentiles.front().second) + NumberCell(p.floor_ms) +
                        NumberCell(p.tpot.median > 0 ? 100 * p.floor_ms / p.tpot.median : 0, " %") +
                        fmt::format("<td class=\"n\">{:.0f}{}</td>", p.completed,
                                    p.failed > 0 ? fmt::format(" + {:.0f} failed", p.failed) : "")});
  }
  std::string notes;
  for (const Json& series : family.published) {
    const std::string empty = "<td class=\"n\">–</td>";
    for (const Json& point : series.value("points", Json::array())) {
      rows.push_back({NumberAt(point, {"concurrency"}), true,
                      Cell(TextAt(series, {"name"})) + NumberCell(NumberAt(point, {"output_tok_s"})) +
                          NumberCell(NumberAt(point, {"ttft_ms"})) + empty + NumberCell(NumberAt(point, {"tpot_ms"})) +
                          empty + empty + empty + empty});
    }
    notes += fmt::format("<dt>{}</dt><dd>{}; {}; {}. Source: {}.</dd>\n", EscapeHtml(TextAt(series, {"name"})),
                         EscapeHtml(TextAt(series, {"hardware"})), EscapeHtml(TextAt(series, {"software"})),
                         EscapeHtml(TextAt(series, {"workload"})), EscapeHtml(TextAt(series, {"source"})));
  }
  std::stable_sort(rows.begin(), rows.end(), [](const Row& a, const Row& b) { return a.concurrency < b.concurrency; });
  std::string html;
  double last = -1;
  for (const Row& row : rows) {
    const bool first = row.concurrency != last;
    html += fmt::format("<tr class=\"{}{}\"><td class=\"n\">{}</td>{}</tr>\n", row.published ? "published" : "measured",
                        first ? " first" : "", first ? FormatNumber(row.concurrency) : "", row.html);
    last = row.concurrency;
  }
  html = "<h3>Side by side</h3>\n" + Table({"#In flight", "Who", "#Output tok/s", "#TTFT ms, median", "#P99",
                                            "#TPOT ms, median", "#P99", "#Floor ms", "#Reached", "#Requests"},
                                           html);
  if (!notes.empty()) html += "<h3>Published elsewhere</h3>\n<dl>" + notes + "</dl>\n";
  return html;
}

std::string ThroughputSection(const std::vector<Json>& results) {
  if (results.empty()) return {};
  std::string rows;
  for (const Json& r : results) {
    rows += fmt::format(
        "<tr>{}{}{}{}{}{}</tr>\n", Cell(TextAt(r, {"model_shape", "name"})), NumberCell(NumberAt(r, {"num_requests"})),
        NumberCell(NumberAt(r, {"elapsed_time"})), NumberCell(NumberAt(r, {"requests_per_second"})),
        NumberCell(NumberAt(r, {"tokens_per_second"})), NumberCell(NumberAt(r, {"output_tokens_per_second"})));
  }
  return "<section><h2>Throughput without a server</h2><p class=\"note\">All requests at once, given to the engine "
         "directly.</p>\n" +
         Table({"Model", "#Requests", "#Seconds", "#Requests/s", "#All tokens/s", "#Output tokens/s"}, rows) +
         "</section>\n";
}

std::string KernelSection(const std::vector<Json>& results) {
  if (results.empty()) return {};
  std::string out =
      "<section><h2>Kernels</h2><p class=\"note\">Medians on weights too large for the caches. The bar is the share "
      "of the floor: the bytes at the read bandwidth, measured beside each run (in older results before all).</p>\n";
  for (const Json& r : results) {
    std::string rows;
    for (const Json& line : r.value("lines", Json::array())) {
      const double share = NumberAt(line, {"share_of_reads"}, NumberAt(line, {"share_of_floor"}));
      rows += fmt::format("<tr>{}{}{}{}{}{}{}{}{}</tr>\n", Cell(TextAt(line, {"op"})), Cell(TextAt(line, {"shape"})),
                          NumberCell(NumberAt(line, {"tokens"})), NumberCell(NumberAt(line, {"median_us"})),
                          NumberCell(NumberAt(line, {"gbs"})), NumberCell(NumberAt(line, {"tflops"})),
                          NumberCell(NumberAt(line, {"floor_us"})), NumberCell(100 * share, " %"), Bar(share));
    }
    out += fmt::format("<h3>{}</h3>\n", EscapeHtml(TextAt(r, {"model_shape", "name"}, "kernels")));
    out += Table({"Operator", "Shape", "#Tokens", "#us", "#GB/s", "#TFLOPS", "#Floor us", "#Reached", ""}, rows);
  }
  return out + "</section>\n";
}

std::string LoadSection(const std::vector<Json>& results) {
  if (results.empty()) return {};
  std::string out =
      "<section><h2>Start-up</h2><p class=\"note\">From nothing to the first token, phase by phase; medians.</p>\n";
  for (const Json& r : results) {
    const double total = NumberAt(r, {"total_s"});
    std::string rows;
    for (const Json& phase : r.value("phases", Json::array())) {
      const double seconds = NumberAt(phase, {"seconds"});
      rows += fmt::format("<tr>{}{}{}{}</tr>\n", Cell(TextAt(phase, {"name"})), NumberCell(seconds * 1e3),
                          NumberCell(NumberAt(phase, {"gbs"})), Bar(total > 0 ? seconds / total : 0));
    }
    out += fmt::format("<h3>{}, {} ms in all</h3>\n", EscapeHtml(TextAt(r, {"model_shape", "name"})),
                       FormatNumber(total * 1e3));
    out += Table({"Phase", "#ms", "#GB/s", "Share"}, rows);
  }
  return out + "</section>\n";
}

std::string ProvenanceSection(const std::vector<Source>& sources) {
  std::string out =
      "<section><h2>Where the figures come from</h2><p class=\"note\">What was run, on what, with what.</p>\n";
  for (const Source& s : sources) {
    const Json& r = s.json;
    out += fmt::format("<h3>{}</h3>\n<dl>", EscapeHtml(std::filesystem::path(s.file).filename().string()));
    out += fmt::format("<dt>Command</dt><dd><code>{}</code></dd>",
                       EscapeHtml(TextAt(r, {"environment", "command"}, "not recorded")));
    out += Term("Commit", TextAt(r, {"environment", "commit"}));
    out += Term("When", TextAt(r, {"environment", "date"}, TextAt(r, {"date"})));
    out += Term("Machine", Machine(r));
    for (const Json& gpu : r.value("environment", Json::object()).value("gpus", Json::array())) {
      out += Term("GPU", TextAt(gpu, {"name"}) + ", driver " + TextAt(gpu, {"driver"}));
    }
    out += Term("Memory reads", BandwidthLine(r));
    out += Term("Model", ModelLine(r));
    out += Term("Number format", FormatLine(r));
    if (r.contains("seed")) out += Term("Seed", fmt::format("{:.0f}", NumberAt(r, {"seed"})));
    out += Term("Spread", SpreadLine(r));
    out += "</dl>\n";
  }
  return out + "</section>\n";
}

}  // namespace minimo::bench
