#include "tests/support/repo_dir.h"

namespace minimo::testing {

std::filesystem::path RepoDir() { return MINIMO_SOURCE_DIR; }

}  // namespace minimo::testing
