#include "bench/report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <regex>

#include "bench/report_data.h"
#include "bench/svg_plot.h"

namespace minimo::bench {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

TEST(SvgPlotTest, NumbersHaveThreeDigits) {
  EXPECT_EQ(FormatNumber(0), "0");
  EXPECT_EQ(FormatNumber(1234567.4), "1,234,567");
  EXPECT_EQ(FormatNumber(999.6), "1000");
  EXPECT_EQ(FormatNumber(129), "129");
  EXPECT_EQ(FormatNumber(12.345), "12.3");
  EXPECT_EQ(FormatNumber(1.70), "1.7");
  EXPECT_EQ(FormatNumber(0.01234), "0.0123");
  EXPECT_EQ(FormatNumber(-5), "-5");
}

TEST(SvgPlotTest, PointsStandWhereTheirScaleSays) {
  Plot plot;
  plot.id = "p";
  plot.x_scale = Scale::kLog2;
  plot.y_scale = Scale::kLog10;
  plot.series.push_back({"a & b", {{1, 10}, {4, 100}, {16, 1000}}});
  const std::string svg = RenderSvg(plot);
  std::smatch match;
  const std::regex line("<path d=\"M([\\d.]+) ([\\d.]+) L([\\d.]+) ([\\d.]+) L([\\d.]+) ([\\d.]+)\"");
  ASSERT_TRUE(std::regex_search(svg, match, line)) << svg;
  const auto at = [&](int i) { return std::stod(match[static_cast<size_t>(i)]); };
  EXPECT_NEAR(at(3) - at(1), at(5) - at(3), 0.2);
  EXPECT_NEAR(at(2) - at(4), at(4) - at(6), 0.2);
  EXPECT_GT(at(2), at(6)) << "up is more";
  EXPECT_THAT(svg, HasSubstr("a &amp; b"));
  plot.series.clear();
  EXPECT_EQ(RenderSvg(plot), "");
}

TEST(SvgPlotTest, CrowdedLabelsDoNotMeet) {
  Plot plot;
  plot.width = 560;
  plot.height = 380;
  for (int i = 0; i < 12; ++i) {
    plot.series.push_back({"series number " + std::to_string(i), {{1, 10.0 + 0.01 * i}, {8, 20.0 + 0.02 * i}}});
  }
  const std::string svg = RenderSvg(plot);
  std::vector<std::pair<double, double>> corners;
  const std::regex label("class=\"label [a-z0-9]+\" x=\"([\\d.]+)\" y=\"([\\d.]+)\">([^<]*)<");
  for (auto it = std::sregex_iterator(svg.begin(), svg.end(), label); it != std::sregex_iterator(); ++it) {
    corners.emplace_back(std::stod((*it)[1]), std::stod((*it)[2]));
  }
  ASSERT_EQ(corners.size(), 12u);
  const double width = TextWidth("series number 0") * 12;
  for (size_t i = 0; i < corners.size(); ++i) {
    for (size_t j = 0; j < i; ++j) {
      const bool apart = std::abs(corners[i].second - corners[j].second) >= 12 ||
                         std::abs(corners[i].first - corners[j].first) >= width;
      EXPECT_TRUE(apart) << i << " and " << j;
    }
  }
}

TEST(ReportTest, AppendedResultsAndMarkupInNames) {
  const std::string two =
      R"({"kind":"serve","model_id":"x","label":"a {<b>}","max_concurrency":2,"output_throughput":5})"
      "\n"
      R"({"output_throughput":7,"model_id":"MiMo-V2-Flash","max_concurrent_requests":1})";
  const auto page = MakeReport({{"f.json", two}}, "T<1>");
  ASSERT_TRUE(page.ok()) << page.error().message;
  EXPECT_THAT(*page, HasSubstr("T&lt;1&gt;"));
  EXPECT_THAT(*page, HasSubstr("a {&lt;b&gt;}"));
  EXPECT_THAT(*page, Not(HasSubstr("<b>}")));
  EXPECT_THAT(*page, HasSubstr("MiMo-V2-Flash"));
  EXPECT_THAT(*page, HasSubstr("303")) << "published beside it";
}

TEST(ReportTest, WhatIsNoResultIsRefused) {
  EXPECT_THAT(MakeReport({{"f.json", "nonsense"}}, "").error().message, HasSubstr("f.json"));
  EXPECT_THAT(MakeReport({{"f.json", "{\"a\":"}}, "").error().message, HasSubstr("byte 0"));
  EXPECT_THAT(MakeReport({{"f.json", "{\"kind\":\"poem\"}"}}, "").error().message, HasSubstr("kind"));
  EXPECT_FALSE(WriteReport({"/no/such/file"}, "", "/tmp/x.html").ok());
}

TEST(ReportTest, DistributionsComeFromDetailedResults) {
  const auto data = GatherReport({{"f", R"({"kind":"serve","model_id":"minimax","max_concurrency":1,
      "ttfts":[0.2,0.1,0],"latencies":[0.5,0.3,0],"output_lens":[4,1,0]})"}});
  ASSERT_TRUE(data.ok());
  const LoadPoint& p = data->families.at(0).points.at(0);
  EXPECT_EQ(data->families[0].id, "minimax_m2");
  EXPECT_THAT(p.ttft_samples, ::testing::ElementsAre(100, 200)) << "sorted, without the failed one";
  ASSERT_EQ(p.tpot_samples.size(), 1u);
  EXPECT_NEAR(p.tpot_samples[0], 100, 1e-9);
}

}  // namespace
}  // namespace minimo::bench
