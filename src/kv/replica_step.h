// A step of several replicas of attention, which run it together because they share the experts: the records that their
// schedulers planned, one after the other in one record, and back.
#pragma once

#include "kv/step.h"

namespace minimo {

// part's lists follow those that `whole` has, as the next replica's; its row requests, too.
void AppendReplica(const StepRecord& part, StepRecord* whole);

// What AppendReplica was given for this replica, without row requests; nothing for one beyond whole.replicas.
void TakeReplica(const StepRecord& whole, int replica, StepRecord* part);

// How much of the lists lies before this replica's part, and how much is its part.
struct ReplicaPlace {
  ReplicaCounts before, mine;
};
ReplicaPlace PlaceOfReplica(const StepRecord& whole, int replica);

}  // namespace minimo
