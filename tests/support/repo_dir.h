// Repository root; models/ and tests/data/ lie under it. The path is compiled into repo_dir.cc alone, so that objects
// of tests are the same in every clone and a compiler cache serves them all.
#pragma once

#include <filesystem>

namespace minimo::testing {

std::filesystem::path RepoDir();

}  // namespace minimo::testing
