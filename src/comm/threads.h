// Ranks that are threads of this process: tests, and machines where one process serves. Works with many more ranks
// than cores: a rank spins only while every rank can have a core of its own, else it sleeps in the kernel.
#pragma once

#include <memory>
#include <vector>

#include "comm/communicator.h"

namespace minimo {

// One Communicator per rank; each is handed to its thread. Destroying one counts as leaving: what the others call
// afterwards fails.
std::vector<std::unique_ptr<Communicator>> MakeThreadRanks(int ranks, int timeout_ms = kDefaultCommTimeoutMs);

}  // namespace minimo
