// `minimo bench report`: results and published figures as one page that needs nothing else: inline SVG, light, dark
// and paper.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "minimo/result.h"

namespace minimo::bench {

struct ReportInput {
  std::string file;  // named in the page
  std::string text;  // one JSON object, or several, one after another (--append-result)
};

// The page. Fails if a file holds no result.
Result<std::string> MakeReport(const std::vector<ReportInput>& inputs, const std::string& title);

// Reads the files and writes the page.
Status WriteReport(const std::vector<std::string>& files, const std::string& title, const std::string& html_path);

}  // namespace minimo::bench
