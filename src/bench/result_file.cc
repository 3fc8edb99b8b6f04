#include "bench/result_file.h"

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "base/error.h"

namespace minimo::bench {

Status WriteResult(const std::string& path, const nlohmann::json& json, bool append) {
  std::error_code ignored;
  const std::filesystem::path folder = std::filesystem::path(path).parent_path();
  if (!folder.empty()) std::filesystem::create_directories(folder, ignored);
  std::ofstream out(path, append ? std::ios::app : std::ios::trunc);
  out << json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) << '\n';
  out.flush();
  if (!out) return Errorf("{}: cannot be written", path);
  return {};
}

}  // namespace minimo::bench
