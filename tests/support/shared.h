// Where tests find the data they do not ship: the folder `shared` beside the repository, or $MINIMO_SHARED.
// A test that needs it begins with MINIMO_REQUIRE_SHARED(); it then skips where the folder is absent, and fails there
// under continuous integration ($CI set), which must not skip.
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <string>

#include "tests/support/repo_dir.h"

namespace minimo::testing {

// The shared folder, or an empty path where there is none.
inline std::filesystem::path SharedDir() {
  const char* named = std::getenv("MINIMO_SHARED");
  const std::filesystem::path dir = (named != nullptr && *named != '\0') ? std::filesystem::path(named)
                                                                        : RepoDir().parent_path() / "shared";
  std::error_code error;
  return std::filesystem::is_directory(dir, error) ? dir : std::filesystem::path();
}

inline bool UnderCi() {
  const char* ci = std::getenv("CI");
  return ci != nullptr && *ci != '\0';
}

}  // namespace minimo::testing

#define MINIMO_REQUIRE_SHARED()                                                                     \
  do {                                                                                              \
    if (::minimo::testing::SharedDir().empty()) {                                                   \
      const char* minimo_missing = "../shared is not there and MINIMO_SHARED does not name another"; \
      if (::minimo::testing::UnderCi()) FAIL() << minimo_missing;                                   \
      GTEST_SKIP() << minimo_missing;                                                               \
    }                                                                                               \
  } while (false)
