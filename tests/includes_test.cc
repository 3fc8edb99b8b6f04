// Includes go one way (docs/architecture.md): a room may use only what the table allows it.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <regex>
#include <set>
#include <string>

#include "tests/support/shared.h"

namespace minimo::testing {
namespace {

namespace fs = std::filesystem;

// room -> the rooms that it may include, beside itself and include/minimo/.
const std::map<std::string, std::set<std::string>>& Allowed() {
  static const std::set<std::string> host = {"base", "tensor", "spec", "kv"};
  static const auto with = [](std::set<std::string> rooms, const std::set<std::string>& more) {
    rooms.insert(more.begin(), more.end());
    return rooms;
  };
  static const std::set<std::string> ops = with(host, {"ops"});
  static const std::set<std::string> models = with(ops, {"comm", "checkpoint", "layers", "models"});
  static const std::set<std::string> engine =
      with(models, {"cuda", "sched", "sampling", "grammar", "text", "engine", "convert"});
  static const std::map<std::string, std::set<std::string>> allowed = {
      {"base", {}},
      {"tensor", {"base"}},
      {"spec", {"base"}},
      {"kv", {"base"}},
      {"sched", {"base", "kv"}},
      {"text", {"base"}},
      {"grammar", {"base", "text"}},
      {"ops", host},
      {"sampling", ops},
      {"comm", host},
      {"checkpoint", host},
      {"layers", with(ops, {"comm"})},
      {"models", models},
      {"convert", models},
      {"cuda", models},
      {"engine", engine},
      {"server", with(engine, {"server"})},
      {"bench", with(engine, {"bench"})},
  };
  return allowed;
}

TEST(Includes, GoOneWay) {
  const std::regex include("^\\s*#include \"([a-z_]+)/");
  int files = 0;
  for (const auto& entry : fs::recursive_directory_iterator(RepoDir() / "src")) {
    const std::string extension = entry.path().extension().string();
    if (extension != ".h" && extension != ".cc" && extension != ".cu" && extension != ".cuh") continue;
    const std::string relative = fs::relative(entry.path(), RepoDir() / "src").string();
    const bool is_test = relative.find("_test.") != std::string::npos ||
                         relative.find("_bench.") != std::string::npos ||
                         relative.find("test_support") != std::string::npos;
    if (is_test) continue;
    const std::string room = relative.substr(0, relative.find('/'));
    ASSERT_TRUE(Allowed().contains(room)) << room << " is a new room: give it a line in includes_test.cc";
    ++files;
    std::ifstream in(entry.path());
    std::string line;
    while (std::getline(in, line)) {
      std::smatch match;
      if (!std::regex_search(line, match, include)) continue;
      const std::string used = match[1];
      if (used == "minimo" || used == "hwy" || used == room) continue;
      EXPECT_TRUE(Allowed().at(room).contains(used)) << relative << " includes " << used << "/, which lies above it";
    }
  }
  EXPECT_GT(files, 50);
}

// CUDA's headers stay in the files that are built by a CUDA toolkit.
TEST(Includes, CudaHeadersStayInCudaFiles) {
  const std::regex cuda("#include <(cuda|nccl|cublas)");
  for (const auto& entry : fs::recursive_directory_iterator(RepoDir() / "src")) {
    const std::string name = entry.path().filename().string(), extension = entry.path().extension().string();
    if (extension != ".h" && extension != ".cc") continue;
    if (entry.path().string().find("/cuda/") != std::string::npos || name.find("cuda") != std::string::npos ||
        name.find("nccl") != std::string::npos) {
      continue;
    }
    std::ifstream in(entry.path());
    const std::string text{std::istreambuf_iterator<char>(in), {}};
    EXPECT_FALSE(std::regex_search(text, cuda)) << entry.path();
  }
}

}  // namespace
}  // namespace minimo::testing
