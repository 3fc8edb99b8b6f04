// Files of the repository that the binary carries: published figures and the report's style sheet.
#pragma once

#include <string_view>
#include <vector>

namespace minimo::bench {

struct EmbeddedFile {
  std::string_view name;
  std::string_view text;
};

const std::vector<EmbeddedFile>& EmbeddedFiles();

}  // namespace minimo::bench
