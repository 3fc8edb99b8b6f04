// Properties of every collective, checked from the inside of one rank; run over thread ranks by comm_test.cc and over
// MPI processes by mpi_test.cc. Returns an error that says what was wrong.
#pragma once

#include "comm/communicator.h"

namespace minimo {

// `rounds` of random sizes (0, 1, odd, large), the same on all ranks.
Status CheckCollectives(Communicator& comm, int rounds, uint64_t seed);

// Splits into rows and columns of a grid and checks sums within them.
Status CheckSplit(Communicator& comm);

}  // namespace minimo
