// The collectives over MPI processes: run by ctest as `mpirun -n N mpi_test CASE`. Rank 0 prints "ok".
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "base/error.h"
#include "comm/collectives_check.h"
#include "tests/support/mpi_main.h"

namespace minimo {
namespace {

Status Collectives(Communicator& comm) {
  MINIMO_TRY(CheckCollectives(comm, 200, 3));
  return CheckSplit(comm);
}

// The last rank stops answering: all others must notice by themselves.
Status Hang(Communicator& comm) {
  comm.set_timeout_ms(1000);
  MINIMO_TRY(comm.Barrier());
  if (comm.rank() == comm.size() - 1) {
    sleep(4);
    std::_Exit(0);
  }
  const Status status = comm.Barrier();
  if (status.ok()) return Errorf("a barrier succeeded without rank {}", comm.size() - 1);
  if (std::strstr(status.error().message.c_str(), "did not reach the barrier") == nullptr) return status;
  if (comm.Barrier().ok()) return Errorf("a failed group works again");
  if (comm.rank() == 0) std::puts("ok");
  std::fflush(stdout);
  sleep(1);  // mpirun ends the others when the first one goes
  std::_Exit(0);
}

}  // namespace
}  // namespace minimo

int main(int argc, char** argv) {
  const bool hang = argc > 1 && std::strcmp(argv[1], "hang") == 0;
  return minimo::testing::OnEveryRank([hang](const std::shared_ptr<minimo::Communicator>& world) {
    return hang ? minimo::Hang(*world) : minimo::Collectives(*world);
  });
}
