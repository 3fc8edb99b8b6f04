// The body of a test that mpirun starts: the same check on every rank, "ok" from rank 0 (minimo_mpi_test waits for it).
#pragma once

#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <utility>

#include "comm/communicator.h"
#include "comm/mpi.h"
#include "minimo/result.h"

namespace minimo::testing {

// The exit code. A rank that fails says why and ends at once: the others may be waiting for it inside MPI.
inline int OnEveryRank(const std::function<Status(const std::shared_ptr<Communicator>&)>& check) {
  auto opened = OpenMpiWorld();
  if (!opened.ok()) {
    std::fprintf(stderr, "%s\n", opened.error().message.c_str());
    return 1;
  }
  const std::shared_ptr<Communicator> world = std::move(*opened);
  const Status status = check(world);
  if (!status.ok()) {
    std::fprintf(stderr, "rank %d: %s\n", world->rank(), status.error().message.c_str());
    std::_Exit(1);
  }
  if (world->rank() == 0) std::puts("ok");
  return 0;
}

}  // namespace minimo::testing
