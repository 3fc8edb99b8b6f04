// Line plots as inline SVG: direct labels near the line ends, colours by CSS class so that one drawing serves light,
// dark and paper. No scripts.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace minimo::bench {

enum class Scale { kLinear, kLog2, kLog10 };

enum class SeriesStyle {
  kMeasured,   // a solid line with points, in the colour of its index
  kCurve,      // a thin solid line without points (distributions)
  kFloor,      // dashed, in the colour of its index
  kPublished,  // muted, with diamonds
};

struct PlotSeries {
  std::string label;  // at the last point; empty: none
  std::vector<std::pair<double, double>> points;  // x ascending
  SeriesStyle style = SeriesStyle::kMeasured;
  int colour = 0;  // index into the palette, of 7
  std::string unit;  // for the tooltips of points
};

struct Plot {
  std::string id;     // of the figure, unique in the page
  std::string title;  // for those who cannot see it
  std::string x_title;
  std::string y_title;
  Scale x_scale = Scale::kLinear;
  Scale y_scale = Scale::kLinear;
  std::optional<double> y_max;     // linear scales begin at 0
  bool percent = false;            // y ticks as percent
  std::vector<double> x_ticks;     // empty: chosen
  double width = 720;
  double height = 360;
  std::vector<PlotSeries> series;
};

// An <svg> element, or an empty string if no series has a point.
std::string RenderSvg(const Plot& plot);

// 1234.5 -> "1,235"; 12.345 -> "12.3"; 0.0123 -> "0.012": three significant digits, thousands set apart.
std::string FormatNumber(double value);

// &, <, >, " as entities.
std::string EscapeHtml(std::string_view text);

// Width of `text` at a font size of 1, by rough letter classes of a sans-serif face; errs on the wide side.
double TextWidth(std::string_view text);

}  // namespace minimo::bench
