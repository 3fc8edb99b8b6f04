#include "comm/mpi.h"

#include <dlfcn.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>

#include "base/error.h"
#include "comm/mpi_module.h"

namespace minimo {
namespace {

// The module beside the binary, where the build puts it, or in ../lib of an installation.
std::vector<std::string> ModulePaths() {
  if (const char* path = std::getenv("MINIMO_MPI_MODULE")) return {path};
  std::error_code error;
  const std::filesystem::path self = std::filesystem::read_symlink("/proc/self/exe", error).parent_path();
  return {(self / kMpiModuleFile).string(), (self / "../lib/minimo" / kMpiModuleFile).string(), MINIMO_MPI_BUILD_PATH};
}

}  // namespace

bool StartedByMpi() {
  for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMIX_RANK"}) {
    if (std::getenv(name) != nullptr) return true;
  }
  return false;
}

Result<std::unique_ptr<Communicator>> OpenMpiWorld(int timeout_ms) {
  std::string tried;
  void* module = nullptr;
  for (const std::string& path : ModulePaths()) {
    // RTLD_GLOBAL: Open MPI opens plugins of its own that look for its symbols.
    module = dlopen(path.c_str(), RTLD_NOW | RTLD_GLOBAL);
    if (module != nullptr) break;
    const char* why = dlerror();
    tried += fmt::format("{}{}", tried.empty() ? "" : "; ", why != nullptr ? why : path.c_str());
  }
  if (module == nullptr) {
    return Errorf("MPI cannot be used: {} (install Open MPI's run-time library, or set MINIMO_MPI_MODULE)", tried);
  }
  const auto open = reinterpret_cast<MpiModuleOpen>(dlsym(module, kMpiModuleSymbol));
  if (open == nullptr) return Errorf("{} is not minimo's MPI module: it lacks {}", kMpiModuleFile, kMpiModuleSymbol);
  std::string error;
  std::unique_ptr<Communicator> world(open(timeout_ms, &error));
  if (world == nullptr) return Error{error};
  return world;
}

}  // namespace minimo
