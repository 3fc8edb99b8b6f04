#include "bench/svg_plot.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include <fmt/format.h>

namespace minimo::bench {
namespace {

constexpr double kFont = 12;       // px in the drawing's own units
constexpr double kLabelGap = 16;   // between direct labels
constexpr int kPalette = 7;

struct Axis {
  Scale scale = Scale::kLinear;
  double low = 0;
  double high = 1;
  double begin = 0;  // in the drawing
  double end = 1;
  std::vector<double> ticks;

  double Unit(double v) const {
    if (scale == Scale::kLinear) return (v - low) / (high - low);
    return (std::log(v) - std::log(low)) / (std::log(high) - std::log(low));
  }
  double At(double v) const { return begin + std::clamp(Unit(v), -0.05, 1.05) * (end - begin); }
};

// 1, 2, 2.5 or 5 times a power of ten, so that about `count` steps make `range`.
double NiceStep(double range, int count) {
  const double raw = range / count;
  const double power = std::pow(10, std::floor(std::log10(raw)));
  for (const double m : {1.0, 2.0, 2.5, 5.0}) {
    if (m * power >= raw * 0.999) return m * power;
  }
  return 10 * power;
}

void LinearTicks(Axis* axis, double max, int count, bool fixed) {
  const double step = NiceStep(max > 0 ? max : 1, count);
  axis->low = 0;
  axis->high = fixed ? max : step * std::ceil(max * 1.02 / step);
  if (axis->high <= 0) axis->high = step;
  for (double t = 0; t <= axis->high * 1.0001; t += step) axis->ticks.push_back(t);
}

void LogTicks(Axis* axis, double min, double max, double base) {
  const double first = std::floor(std::log(min) / std::log(base) + 1e-9);
  double last = std::ceil(std::log(max) / std::log(base) - 1e-9);
  if (last <= first) last = first + 1;
  axis->low = std::pow(base, first);
  axis->high = std::pow(base, last);
  for (double e = first; e <= last + 0.5; e += 1) {
    const double decade = std::pow(base, e);
    axis->ticks.push_back(decade);
    if (base == 10 && last - first <= 2 && e < last - 0.5) {  // few decades: 2 and 5 as well
      axis->ticks.push_back(2 * decade);
      axis->ticks.push_back(5 * decade);
    }
  }
}

Axis MakeAxis(Scale scale, double min, double max, std::optional<double> fixed_max, int count) {
  Axis axis;
  axis.scale = scale;
  if (scale == Scale::kLinear) {
    LinearTicks(&axis, fixed_max.value_or(max), count, fixed_max.has_value());
  } else {
    LogTicks(&axis, min, max, scale == Scale::kLog2 ? 2 : 10);
  }
  return axis;
}

std::string ColourClass(const PlotSeries& s) {
  return s.style == SeriesStyle::kPublished ? "published" : fmt::format("c{}", s.colour % kPalette);
}

std::string TickText(double value, bool percent) {
  return percent ? fmt::format("{:.0f} %", value * 100) : FormatNumber(value);
}

std::string DrawGrid(const Plot& plot, const Axis& x, const Axis& y) {
  std::string out = "<g class=\"grid\">\n";
  for (const double t : y.ticks) {
    out += fmt::format("<line x1=\"{:.1f}\" x2=\"{:.1f}\" y1=\"{:.1f}\" y2=\"{:.1f}\"{}/>", x.begin, x.end, y.At(t),
                       y.At(t), t == y.ticks.front() ? " class=\"base\"" : "");
    out += fmt::format("<text class=\"tick\" x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"end\">{}</text>\n", x.begin - 8,
                       y.At(t) + 4, TickText(t, plot.percent));
  }
  double free_from = -std::numeric_limits<double>::infinity();
  for (const double t : x.ticks) {
    const std::string text = FormatNumber(t);
    const double half = TextWidth(text) * kFont / 2;
    if (x.At(t) - half < free_from) continue;  // no room
    free_from = x.At(t) + half + 4;
    out += fmt::format("<text class=\"tick\" x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"middle\">{}</text>\n", x.At(t),
                       y.begin + 18, text);
  }
  out += "</g>\n";
  out += fmt::format("<text class=\"axis\" x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"middle\">{}</text>\n",
                     (x.begin + x.end) / 2, y.begin + 38, EscapeHtml(plot.x_title));
  out += fmt::format("<text class=\"axis\" x=\"0\" y=\"{:.1f}\">{}</text>\n", y.end - 14, EscapeHtml(plot.y_title));
  return out;
}

std::string DrawSeries(const PlotSeries& s, const Axis& x, const Axis& y) {
  static constexpr const char* kStyles[] = {"measured", "curve", "floor", "reference"};
  std::string path;
  for (const auto& [px, py] : s.points) {
    path += fmt::format("{}{:.1f} {:.1f}", path.empty() ? "M" : " L", x.At(px), y.At(py));
  }
  std::string out = fmt::format("<g class=\"series {} {}\" data-label=\"{}\"><path d=\"{}\"/>\n", ColourClass(s),
                                kStyles[static_cast<int>(s.style)], EscapeHtml(s.label), path);
  const bool diamond = s.style == SeriesStyle::kPublished;
  if (s.style == SeriesStyle::kMeasured || diamond) {
    for (const auto& [px, py] : s.points) {
      const std::string tip = fmt::format("{}: {} at {}", s.label, FormatNumber(py), FormatNumber(px)) + s.unit;
      out += diamond ? fmt::format("<path class=\"point\" d=\"M{:.1f} {:.1f}l4 4l-4 4l-4 -4z\">", x.At(px), y.At(py) - 4)
                     : fmt::format("<circle class=\"point\" cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"4\">", x.At(px), y.At(py));
      out += fmt::format("<title>{}</title></{}>\n", EscapeHtml(tip), diamond ? "path" : "circle");
    }
  }
  return out + "</g>\n";
}

// Labels in a column at the right edge, moved apart, each with a hairline to its line's end.
std::string DrawLabels(const Plot& plot, const Axis& x, const Axis& y) {
  std::vector<const PlotSeries*> labelled;
  for (const PlotSeries& s : plot.series) {
    if (!s.label.empty() && !s.points.empty() && s.style != SeriesStyle::kCurve) labelled.push_back(&s);
  }
  std::stable_sort(labelled.begin(), labelled.end(), [&](const PlotSeries* a, const PlotSeries* b) {
    return y.At(a->points.back().second) < y.At(b->points.back().second);
  });
  std::vector<double> wanted;
  for (const PlotSeries* s : labelled) wanted.push_back(y.At(s->points.back().second));
  const std::vector<double> placed = SpreadLabels(wanted, kLabelGap, y.end, y.begin);
  std::string out;
  for (size_t i = 0; i < labelled.size(); ++i) {
    const PlotSeries& s = *labelled[i];
    const double from = x.At(s.points.back().first) + 7;
    out += fmt::format("<path class=\"leader\" d=\"M{:.1f} {:.1f} L{:.1f} {:.1f} L{:.1f} {:.1f}\"/>", from, wanted[i],
                       std::max(from, x.end + 4), wanted[i], x.end + 18, placed[i]);
    out += fmt::format("<text class=\"label {}\" x=\"{:.1f}\" y=\"{:.1f}\">{}</text>\n", ColourClass(s), x.end + 22,
                       placed[i] + 4, EscapeHtml(s.label));
  }
  return out;
}

}  // namespace

std::string FormatNumber(double value) {
  if (value == 0) return "0";
  const double magnitude = std::abs(value);
  if (magnitude >= 1000) {
    const double rounded = std::round(magnitude);
    std::string digits = fmt::format("{:.0f}", rounded);
    for (int at = static_cast<int>(digits.size()) - 3; at > 0; at -= 3) digits.insert(static_cast<size_t>(at), ",");
    return (value < 0 ? "-" : "") + digits;
  }
  const int decimals = std::clamp(2 - static_cast<int>(std::floor(std::log10(magnitude) + 1e-12)), 0, 6);
  std::string text = fmt::format("{:.{}f}", value, decimals);
  if (text.find('.') != std::string::npos) {
    text.erase(text.find_last_not_of('0') + 1);
    if (text.back() == '.') text.pop_back();
  }
  return text;
}

std::string EscapeHtml(std::string_view text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&': out += "&amp;"; break;
      case '<': out += "&lt;"; break;
      case '>': out += "&gt;"; break;
      case '"': out += "&quot;"; break;
      default: out += c;
    }
  }
  return out;
}

double TextWidth(std::string_view text) {
  double width = 0;
  for (const char c : text) {
    if (std::string_view("iljtfrI.,:;'|!()[] -/").find(c) != std::string_view::npos) {
      width += 0.36;
    } else if (std::string_view("mwMW@%").find(c) != std::string_view::npos) {
      width += 0.92;
    } else if (c >= 'A' && c <= 'Z') {
      width += 0.72;
    } else if ((static_cast<unsigned char>(c) & 0xc0) != 0x80) {  // not the rest of a UTF-8 character
      width += 0.6;
    }
  }
  return width;
}

std::vector<double> SpreadLabels(std::vector<double> wanted, double gap, double low, double high) {
  const size_t n = wanted.size();
  if (n == 0) return wanted;
  if (n > 1) gap = std::min(gap, (high - low) / static_cast<double>(n - 1));
  // Groups that touch share a centre: the mean of what their members want, then are laid out around it.
  struct Group {
    double sum;  // of wanted minus the offset in the group
    size_t count;
    double Start() const { return sum / static_cast<double>(count); }
  };
  std::vector<Group> groups;
  for (const double w : wanted) {
    groups.push_back({w, 1});
    while (groups.size() > 1) {
      const Group last = groups.back();
      Group& before = groups[groups.size() - 2];
      const double need = before.Start() + gap * static_cast<double>(before.count);
      if (last.Start() >= need) break;
      before.sum += last.sum - gap * static_cast<double>(before.count * last.count);
      before.count += last.count;
      groups.pop_back();
    }
  }
  std::vector<double> placed;
  for (const Group& g : groups) {
    for (size_t i = 0; i < g.count; ++i) placed.push_back(g.Start() + gap * static_cast<double>(i));
  }
  for (size_t i = 0; i < n; ++i) placed[i] = std::max(placed[i], low + gap * static_cast<double>(i));
  for (size_t i = n; i-- > 0;) placed[i] = std::min(placed[i], high - gap * static_cast<double>(n - 1 - i));
  return placed;
}

std::string RenderSvg(const Plot& plot) {
  double x_min = std::numeric_limits<double>::infinity(), x_max = 0, y_min = x_min, y_max = 0;
  double label_width = 0;
  for (const PlotSeries& s : plot.series) {
    for (const auto& [px, py] : s.points) {
      x_min = std::min(x_min, px);
      x_max = std::max(x_max, px);
      if (py > 0) y_min = std::min(y_min, py);
      y_max = std::max(y_max, py);
    }
    if (s.style != SeriesStyle::kCurve && !s.points.empty()) label_width = std::max(label_width, TextWidth(s.label) * kFont);
  }
  if (!std::isfinite(x_min)) return {};
  if (!std::isfinite(y_min)) y_min = 0.1;
  Axis y = MakeAxis(plot.y_scale, y_min, y_max, plot.y_max, 5);
  Axis x = MakeAxis(plot.x_scale, x_min, x_max, std::nullopt, 5);
  if (!plot.x_ticks.empty()) x.ticks = plot.x_ticks;
  double tick_width = 0;
  for (const double t : y.ticks) tick_width = std::max(tick_width, TextWidth(TickText(t, plot.percent)) * kFont);
  x.begin = std::ceil(tick_width) + 12;
  x.end = plot.width - (label_width > 0 ? label_width + 30 : 16);
  y.begin = plot.height - 46;
  y.end = 34;

  std::string out = fmt::format(
      "<svg id=\"{}\" class=\"plot\" viewBox=\"0 0 {:.0f} {:.0f}\" role=\"img\" aria-label=\"{}\">\n", EscapeHtml(plot.id),
      plot.width, plot.height, EscapeHtml(plot.title));
  out += DrawGrid(plot, x, y);
  // Published lines first, so that ours lie on top.
  for (const PlotSeries& s : plot.series) {
    if (s.style == SeriesStyle::kPublished && !s.points.empty()) out += DrawSeries(s, x, y);
  }
  for (const PlotSeries& s : plot.series) {
    if (s.style != SeriesStyle::kPublished && !s.points.empty()) out += DrawSeries(s, x, y);
  }
  return out + DrawLabels(plot, x, y) + "</svg>\n";
}

}  // namespace minimo::bench
