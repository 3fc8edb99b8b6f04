// The processes of a launcher's ranks on this host, as /proc shows them.
#pragma once

#include <sys/types.h>

#include <vector>

namespace minimo {

// Those below `launcher`, at any depth, to which MPI has given a rank and which have not ended.
std::vector<pid_t> RanksBelow(pid_t launcher);

}  // namespace minimo
