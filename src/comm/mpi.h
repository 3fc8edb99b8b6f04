// Ranks that are MPI processes. MPI lives in a module of its own, libminimo_mpi.so, which is opened on demand from
// beside the binary (or MINIMO_MPI_MODULE), so that one binary runs where MPI is not installed.
#pragma once

#include <memory>

#include "comm/communicator.h"

namespace minimo {

// True if this process was started by mpirun, srun or the like.
bool StartedByMpi();

// The world of all processes that were started together; once per process. The module's MPI_Init is called here.
// After a failure the process must end by _exit: MPI itself cannot be shut down with a rank missing.
Result<std::unique_ptr<Communicator>> OpenMpiWorld(int timeout_ms = kDefaultCommTimeoutMs);

}  // namespace minimo
