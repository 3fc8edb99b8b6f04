// What the MPI module shows the binary.
#pragma once

#include <string>

#include "comm/communicator.h"

namespace minimo {

inline constexpr char kMpiModuleFile[] = "libminimo_mpi.so";
inline constexpr char kMpiModuleSymbol[] = "MinimoMpiOpen";

// A new Communicator over all processes, or null and the reason.
using MpiModuleOpen = Communicator* (*)(int timeout_ms, std::string* error);

}  // namespace minimo
