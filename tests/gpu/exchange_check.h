// Checks of what GPUs say to each other: the sums through peer memory (cuda/kernels/exchange.cuh) and NCCL's
// collectives. They print JSON lines and clear *ok where a result is off.
#pragma once

#include <vector>

#include "comm/communicator.h"
#include "comm/nccl.h"
#include "cuda/peer_memory_cuda.h"

namespace minimo::cuda {

// What a rank's part is made of: every kernel over slots and partial sums of either type, rows that some ranks alone
// have a part of. Collective.
Status CheckSums(Communicator& host, const PeerMemory& peers, cudaStream_t stream, bool* ok);

// The same kernels and that of the QK norm, of all ranks in turns in one thread and stream of one GPU, so that
// compute-sanitizer can watch them: each is launched twice, the first time with what looks like the others' parts. For
// each of these numbers of ranks, from 2 on; 3 and more: rows of one rank alone.
Status CheckSumsInTurns(const std::vector<int>& numbers_of_ranks, bool* ok);

// Every collective of NCCL's. Collective.
Status CheckCollectives(Communicator& host, NcclCommunicator& nccl, cudaStream_t stream, bool* ok);

}  // namespace minimo::cuda
