#include "bench/svg_plot.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include <fmt/format.h>

namespace minimo::bench {
namespace {

constexpr double kFont = 12;       // px in the drawing's own units
constexpr double kLabelGap = 15;   // height of a direct label
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
                       y.begin + 21, text);
  }
  out += "</g>\n";
  out += fmt::format("<text class=\"axis\" x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"middle\">{}</text>\n",
                     (x.begin + x.end) / 2, y.begin + 40, EscapeHtml(plot.x_title));
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
      out += diamond
                 ? fmt::format("<path class=\"point\" d=\"M{:.1f} {:.1f}l4 4l-4 4l-4 -4z\">", x.At(px), y.At(py) - 4)
                 : fmt::format("<circle class=\"point\" cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"4\">", x.At(px), y.At(py));
      out += fmt::format("<title>{}</title></{}>\n", EscapeHtml(tip), diamond ? "path" : "circle");
    }
  }
  return out + "</g>\n";
}

struct Box {
  double left, top, right, bottom;
  bool Overlaps(const Box& o) const { return left < o.right && o.left < right && top < o.bottom && o.top < bottom; }
};

// What labels should keep clear of: points, and lines cut into short pieces.
struct Obstacles {
  std::vector<Box> points, lines, labels;

  void Add(const PlotSeries& s, const Axis& x, const Axis& y) {
    for (size_t i = 0; i < s.points.size(); ++i) {
      const double px = x.At(s.points[i].first), py = y.At(s.points[i].second);
      points.push_back({px - 5, py - 5, px + 5, py + 5});
      if (i == 0) continue;
      const double qx = x.At(s.points[i - 1].first), qy = y.At(s.points[i - 1].second);
      const int pieces = 1 + static_cast<int>(std::hypot(px - qx, py - qy) / 6);
      for (int k = 0; k <= pieces; ++k) {
        const double t = static_cast<double>(k) / pieces;
        const double lx = qx + t * (px - qx), ly = qy + t * (py - qy);
        lines.push_back({lx - 1.5, ly - 1.5, lx + 1.5, ly + 1.5});
      }
    }
  }

  // Labels must not meet at all; a point hidden is worse than a line crossed.
  double Cost(const Box& box) const {
    double cost = 0;
    for (const Box& other : labels) cost += box.Overlaps(other) ? 1e6 : 0;
    for (const Box& point : points) cost += box.Overlaps(point) ? 200 : 0;
    for (const Box& line : lines) cost += box.Overlaps(line) ? 12 : 0;
    return cost;
  }
};

struct Placed {
  Box box{};
  double cost = std::numeric_limits<double>::infinity();
  double baseline_x = 0, baseline_y = 0;
};

// The cheapest place near (px, py): right of it, above or below, or left, nearer before farther.
Placed PlaceLabel(double px, double py, double width, const Obstacles& obstacles, const Box& frame) {
  Placed best;
  for (const double dx : {9.0, -width / 2, -width - 9.0, 22.0, 40.0}) {
    for (int step = 0; step <= 40; ++step) {
      const double dy = (step % 2 == 0 ? 1 : -1) * 5.0 * ((step + 1) / 2);
      if (dx == -width / 2 && std::abs(dy) < kLabelGap) continue;  // on the point itself
      const Box box{px + dx - 2, py + dy - kLabelGap / 2, px + dx + width + 2, py + dy + kLabelGap / 2};
      if (box.left < frame.left || box.right > frame.right || box.top < frame.top || box.bottom > frame.bottom)
        continue;
      const double away = dx == 9.0 ? 0 : dx > 9.0 ? dx / 4 : 12;
      const double cost = obstacles.Cost(box) + away + std::abs(dy);
      if (cost < best.cost) best = {box, cost, px + dx, py + dy + 4};
    }
  }
  return best;
}

// Each label near the end of its line, joined to it by a hairline where it had to move.
std::string DrawLabels(const Plot& plot, const Axis& x, const Axis& y) {
  Obstacles obstacles;
  std::vector<const PlotSeries*> order;
  for (const PlotSeries& s : plot.series) {
    obstacles.Add(s, x, y);
    if (!s.label.empty() && !s.points.empty() && s.style != SeriesStyle::kCurve) order.push_back(&s);
  }
  std::stable_sort(order.begin(), order.end(), [](const PlotSeries* a, const PlotSeries* b) {
    return (a->style == SeriesStyle::kPublished) < (b->style == SeriesStyle::kPublished);
  });
  const Box frame{x.begin + 2, y.end - 6, plot.width, y.begin - 2};
  std::string out;
  for (const PlotSeries* s : order) {
    const double px = x.At(s->points.back().first), py = y.At(s->points.back().second);
    const double weight = s->style == SeriesStyle::kPublished ? 1.0 : 1.06;  // bold is wider
    const Placed placed = PlaceLabel(px, py, TextWidth(s->label) * kFont * weight, obstacles, frame);
    if (!std::isfinite(placed.cost)) continue;
    obstacles.labels.push_back(placed.box);
    const double mid = (placed.box.top + placed.box.bottom) / 2;
    if (std::abs(mid - py) > 9 || placed.box.left - px > 14) {
      const double to_x = std::clamp(px, placed.box.left, placed.box.right);
      const double to_y = placed.box.left > px || placed.box.right < px ? mid
                          : mid < py                                    ? placed.box.bottom
                                                                        : placed.box.top;
      out += fmt::format("<path class=\"leader\" d=\"M{:.1f} {:.1f} L{:.1f} {:.1f}\"/>", px, py, to_x, to_y);
    }
    out += fmt::format("<text class=\"label {}\" x=\"{:.1f}\" y=\"{:.1f}\">{}</text>\n", ColourClass(*s),
                       placed.baseline_x, placed.baseline_y, EscapeHtml(s->label));
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
    // Room at the right for the labels of lines that end there; the others find theirs inside.
    if (s.style == SeriesStyle::kMeasured || s.style == SeriesStyle::kFloor) {
      label_width = std::max(label_width, TextWidth(s.label) * kFont);
    }
  }
  if (!std::isfinite(x_min)) return {};
  if (!std::isfinite(y_min)) y_min = 0.1;
  Axis y = MakeAxis(plot.y_scale, y_min, y_max, plot.y_max, 5);
  Axis x = MakeAxis(plot.x_scale, x_min, x_max, std::nullopt, 5);
  if (!plot.x_ticks.empty()) x.ticks = plot.x_ticks;
  double tick_width = 0;
  for (const double t : y.ticks) tick_width = std::max(tick_width, TextWidth(TickText(t, plot.percent)) * kFont);
  x.begin = std::ceil(tick_width) + 12;
  const double last_tick = TextWidth(FormatNumber(x.ticks.back())) * kFont / 2 + 2;  // half of it juts out
  x.end = plot.width - (label_width > 0 ? std::min(label_width + 24, plot.width / 3) : std::max(16.0, last_tick));
  y.begin = plot.height - 48;
  y.end = 34;

  std::string out =
      fmt::format("<svg id=\"{}\" class=\"plot\" viewBox=\"0 0 {:.0f} {:.0f}\" role=\"img\" aria-label=\"{}\">\n",
                  EscapeHtml(plot.id), plot.width, plot.height, EscapeHtml(plot.title));
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
